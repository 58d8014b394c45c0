"""Scores of finished federations: one row for each.

Seeds are the independent repetitions, clients are not, so everything is averaged over clients here,
inside a federation, before any interval is taken.
"""

from functools import partial
from typing import Any

import pandas as pd

from analysis.results.evaluated import main_split
from analysis.results.metrics import SENT
from analysis.results.values import (
    SERVER,
    client_values,
    has_global_model,
    last_rounds,
    local_values,
    round_means,
    settings_of,
    start_rounds,
)
from analysis.statistics.intervals import ROUNDING

COSTS: dict[str, tuple[str, ...]] = {
    "bytes": SENT,
    **{name: (name,) for name in ("steps", "samples", "seconds", "pretrain_seconds")},
    **{name: (name,) for name in ("tuning_steps", "tuning_samples", "tuning_bytes")},
}
"""Sums over clients and rounds, each of the metrics that it adds up."""
QUALITIES = [
    "bits_per_byte",
    "start_bits_per_byte",
    "ece",
    "start_ece",
    "personal_accuracy",
    "client_std",
    "client_range",
    "forgetting",
    "forgot",
    "agreement",
    "start_agreement",
    "teacher_accuracy",
    "teacher_loss",
]
"""Scores beside accuracy that a study may or may not have measured."""


def federation_scores(table: pd.DataFrame) -> pd.DataFrame:
    """One row a federation, indexed by its id: its settings, and

    Accuracy is that on the main split (`evaluated.main_split`), the common test set unless the study left it out.

    - `last_round`, `start_rounds` (those of a consolidated start, which come first); `start_accuracy`, `accuracy`:
      test accuracy at the start and at the last round, mean over clients, or that of the global model where there is
      one (`values.client_values`); `delta` = accuracy − start_accuracy. The start is the first round that counts what
      was gained and lost: round 0, or for a global model the one in which a consolidated start is complete;
    - `start_from`: whose accuracy that of the start is: "clients' mean", "one model", "global model", or "consolidated
      model";
    - `chosen_round`, `chosen_accuracy`: the round of best mean validation accuracy (ties: the earliest;
      round 0 takes part) and the test accuracy there. The test split has no say in it;
    - `gained`, `lost`: mean shares of all test samples at the last round that went from wrong to right and from right
      to wrong since the start: `delta` = gained − lost;
    - `bits_per_byte`, `start_bits_per_byte`: of text, on test at the last round and at round 0; it compares tokenisers;
    - `ece`, `start_ece`: expected calibration error on test at the last and at the first round that measured it;
    - `personal_accuracy`: final test accuracy of the clients' own models, where there is a global model beside them;
    - of the clients' own models, on test at the last round: `worst_client`, `best_client`, `client_range` (best −
      worst), `client_std` (population standard deviation over clients), `success_rate` (share that improved);
    - `forgetting`: accuracy on the client's own distribution (local_test) at the start (`client_changes`) minus at
      the last round, mean over clients; `forgot`: share of clients for which that is above 0;
    - `agreement`, `start_agreement`: share of transfer samples where student and merged teacher name the same class,
      at the last and the first round that measured it; `teacher_accuracy`, `teacher_loss`: the merged soft labels
      against the true transfer labels, at the last round that measured them; all means over clients;
    - `bytes`, `steps`, `samples`, `seconds`: sums over clients and rounds (seconds of computing; clients run side by
      side); `pretrain_seconds`: seconds of computing that the start took, sum over clients, in no other score and the
      same for all federations that begin from it; `wall`: seconds that the rounds took, sum over rounds, where round
      0 may have waited for the start; `tuning_*`: sums over clients, 0 without tuning.

    Scores that were not measured are NaN.
    """
    # Comparing codes instead of texts, once for a score, keeps millions of rows a matter of seconds.
    table = table.astype({"metric": "category", "split": "category"})
    result = settings_of(table)
    last = last_rounds(table).reindex(result.index)
    split = main_split(table)
    means = partial(round_means, table, split=split)
    accuracy = means("accuracy")
    result["last_round"] = last
    result["start_rounds"] = start_rounds(table).reindex(result.index)
    begun = _first_rounds(means("gained")).reindex(last.index).fillna(0)
    result["start_accuracy"], result["start_from"] = _at(accuracy, begun), _started_from(table, begun, split)
    result["accuracy"] = _at(accuracy, last)
    result["delta"] = result["accuracy"] - result["start_accuracy"]
    result["chosen_round"] = _chosen_rounds(round_means(table, split="val")).reindex(result.index)
    result["chosen_accuracy"] = _at(accuracy, result["chosen_round"])
    for share in ("gained", "lost"):
        result[share] = _at(means(share), last)
    bits = means("bits_per_byte")
    result["bits_per_byte"], result["start_bits_per_byte"] = _at(bits, last), _at(bits, last * 0)
    calibration = means("ece")
    result["start_ece"] = _at(calibration, _first_rounds(calibration).reindex(last.index))
    result["ece"] = _at(calibration, last)
    result = result.join(_clients(table, last, split)).join(_forgetting(table))
    ruled = result.index.isin(has_global_model(table, split))
    result["personal_accuracy"] = result.pop("client_mean").where(ruled)
    return result.join(_taught(table, result.index)).join(_costs(table, result.index))


def client_changes(table: pd.DataFrame, split: str | None = None) -> pd.DataFrame:
    """One row for each federation and client that learns: `before` and `after`, accuracy of the client's own model
    on `split`, or on the main one, at the first round that measured it and at the federation's last round, and
    `delta` = after − before; index (federation, client). The first round is 0, or the one in which the clients took up
    a consolidated start. Clients that were measured but once, or not at the end, are left out."""
    values = local_values(table, "accuracy", split or main_split(table)).reset_index("round").dropna()
    last = last_rounds(table).reindex(values.index.get_level_values("federation")).to_numpy()
    first = values.groupby(level=["federation", "client"])["round"].transform("min")
    before = values.loc[(values["round"] == first) & (values["round"] < last), "value"]
    after = values.loc[values["round"] == last, "value"]
    both = pd.concat([before.rename("before"), after.rename("after")], axis=1, join="inner")
    return both.assign(delta=both["after"] - both["before"])


def _clients(table: pd.DataFrame, last: "pd.Series[Any]", split: str) -> pd.DataFrame:
    values = local_values(table, "accuracy", split).reset_index("round")
    if values.empty:
        # Nothing but the server was measured: its one value is at once the worst and the best there is.
        values = client_values(table, "accuracy", split).reset_index("round")
    ended = values["round"] == last.reindex(values.index.get_level_values("federation")).to_numpy()
    final = values.loc[ended, "value"].groupby(level="federation")
    improved = (client_changes(table, split)["delta"] > ROUNDING).astype("float64")
    return pd.DataFrame(
        {
            "worst_client": final.min(),
            "best_client": final.max(),
            "client_mean": final.mean(),
            "client_range": final.max() - final.min(),
            "client_std": final.std(ddof=0),
            "success_rate": improved.groupby(level="federation").mean(),
        }
    )


def _forgetting(table: pd.DataFrame) -> pd.DataFrame:
    lost = -client_changes(table, "local_test")["delta"]
    forgot = (lost > ROUNDING).astype("float64")
    return pd.DataFrame(
        {"forgetting": lost.groupby(level="federation").mean(), "forgot": forgot.groupby(level="federation").mean()}
    )


def _taught(table: pd.DataFrame, federations: "pd.Index[Any]") -> pd.DataFrame:
    scores = {}
    for name in ("agreement", "teacher_accuracy", "teacher_loss"):
        seen = round_means(table, name, "transfer").dropna().sort_index().groupby(level="federation")
        scores[name] = seen.last().reindex(federations)
        if name == "agreement":
            scores["start_agreement"] = seen.first().reindex(federations)
    return pd.DataFrame(scores)


def _costs(table: pd.DataFrame, federations: "pd.Index[Any]") -> pd.DataFrame:
    costs = {}
    for cost, names in COSTS.items():
        spent = table[table["metric"].isin(names) & (table["client"] >= 0)]
        costs[cost] = spent.groupby("federation")["value"].sum().reindex(federations, fill_value=0.0)
    took = table[(table["metric"] == "seconds") & (table["client"] == SERVER)]
    costs["wall"] = took.groupby("federation")["value"].sum().reindex(federations)
    return pd.DataFrame(costs)


def _at(values: "pd.Series[float]", rounds: "pd.Series[Any]") -> "pd.Series[float]":
    """The value of each federation at the round given for it; NaN where either is missing."""
    known = rounds.dropna().astype("int64")
    keys = pd.MultiIndex.from_arrays([known.index, known.to_numpy()], names=["federation", "round"])
    return values.reindex(keys).droplevel("round").reindex(rounds.index)


def _started_from(table: pd.DataFrame, begun: "pd.Series[Any]", split: str) -> "pd.Series[str]":
    """Whose accuracy the start of each federation is."""
    rows = client_values(table, "accuracy", split).reset_index(["round", "client"])
    rows = rows[rows["round"] == begun.reindex(rows.index).to_numpy()]
    holders = rows.groupby(level="federation")["client"].agg(["min", "size"]).reindex(begun.index)
    consolidated = start_rounds(table).reindex(begun.index) > 0
    names = pd.Series("clients' mean", index=begun.index).mask(holders["size"] == 1, "one model")
    ruled = holders["min"] == SERVER
    return names.mask(ruled, "global model").mask(ruled & consolidated, "consolidated model")


def _first_rounds(values: "pd.Series[float]") -> "pd.Series[Any]":
    return values.dropna().reset_index("round").groupby(level="federation")["round"].min()


def _chosen_rounds(validation: "pd.Series[float]") -> "pd.Series[Any]":
    # Means over clients of equal accuracies can differ in the last bit; such ties go to the earliest too.
    known = validation.dropna().round(12).sort_index()
    best = known.groupby(level="federation").transform("max")
    first = known[known == best].reset_index("round").groupby(level="federation")["round"].min()
    return first.astype("float64")

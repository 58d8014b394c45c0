"""What one federation came to: its long rows condensed into one number a round, then one row a federation.

Seeds are the independent repetitions, clients are not, so everything is averaged over clients here,
inside a federation, before any interval is taken.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis.journal import MODEL, ROW
from analysis.statistics import ROUNDING, first_reach

COSTS = ["bytes", "steps", "tuning_steps", "tuning_samples", "tuning_bytes"]


def settings_of(table: pd.DataFrame) -> pd.DataFrame:
    """The settings of each federation: index `federation`, columns dataset, partition, method, seed, …"""
    columns = [name for name in table.columns if name not in {*ROW, MODEL}]
    return table[columns].drop_duplicates("federation").set_index("federation")


def client_values(table: pd.DataFrame, metric: str, split: str) -> "pd.Series[float]":
    """One metric, indexed by (federation, round, client).

    Rows of the server (client −1) count only in federations where no client has any: an ensemble or a pooled
    model that is evaluated once, or a common validation set that only the server scores on. Clients that only
    teach have rows at the start and never again: they are left out, so that every round is a mean over the same.
    """
    rows = table[(table["metric"] == metric) & (table["split"] == split)]
    rows = rows[_learns(rows)]
    own = rows["client"] >= 0
    alone = ~rows["federation"].isin(rows.loc[own, "federation"])
    values = rows[own | alone].set_index(["federation", "round", "client"])["value"]
    return values.astype("float64")


def _learns(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each row's client is measured as far as its federation goes."""
    last = rows.groupby(["federation", "client"])["round"].transform("max")
    return (last > 0) | (rows.groupby("federation")["round"].transform("max") == 0)


def round_means(table: pd.DataFrame, metric: str = "accuracy", split: str = "test") -> "pd.Series[float]":
    """One metric's mean over clients, indexed by (federation, round)."""
    return client_values(table, metric, split).groupby(level=["federation", "round"]).mean()


def cumulative_bytes(table: pd.DataFrame) -> "pd.Series[float]":
    """Bytes up and down of all clients since the start, tuning included; indexed by (federation, round).

    Rounds without byte rows cost nothing.
    """
    sent = table[table["metric"].isin(["bytes_up", "bytes_down"]) & (table["client"] >= 0)]
    each = sent.groupby(["federation", "round"])["value"].sum()
    rounds = pd.MultiIndex.from_frame(table[["federation", "round"]].drop_duplicates()).sort_values()
    return each.reindex(rounds, fill_value=0.0).groupby(level="federation").cumsum()


def frozen_teachers(table: pd.DataFrame) -> list[str]:
    """Methods whose knowledge travels once: they send something at the start and nothing from round 2 on.
    Their rounds are local epochs with what they were given."""
    total = cumulative_bytes(table)
    method = settings_of(table)["method"].reindex(total.index.get_level_values("federation")).to_numpy()
    number = total.index.get_level_values("round").to_numpy()
    early = total[number <= 1].groupby(method[number <= 1]).max()
    final = total.groupby(method).max()
    later = set(method[number >= 2])
    return [str(name) for name in final.index if name in later and 0 < final[name] == early.get(name, np.nan)]


def federation_scores(table: pd.DataFrame) -> pd.DataFrame:
    """One row a federation, indexed by its id: its settings, and

    - `last_round`; `start_accuracy`, `accuracy`: test accuracy at round 0 and at the last round, mean over
      clients; `delta` = accuracy − start_accuracy;
    - `chosen_round`, `chosen_accuracy`: the round of best mean validation accuracy (ties: the earliest;
      round 0 takes part) and the test accuracy there. The test split has no say in it;
    - `gained`, `lost`: mean shares of all test samples at the last round;
    - `worst_client`: the lowest client's final accuracy; `success_rate`: share of clients that improved;
    - `bytes`, `steps`: sums over clients and rounds; `tuning_*`: sums over clients, 0 without tuning.

    Scores that were not measured are NaN.
    """
    result = settings_of(table)
    last = table.groupby("federation")["round"].max().reindex(result.index)
    test = round_means(table)
    result["last_round"] = last
    result["start_accuracy"] = _at(test, last * 0)
    result["accuracy"] = _at(test, last)
    result["delta"] = result["accuracy"] - result["start_accuracy"]
    result["chosen_round"] = _chosen_rounds(round_means(table, split="val")).reindex(result.index)
    result["chosen_accuracy"] = _at(test, result["chosen_round"])
    for share in ("gained", "lost"):
        result[share] = _at(round_means(table, share), last)
    result["worst_client"], result["success_rate"] = _over_clients(table, last)
    for cost in COSTS:
        wanted = ["bytes_up", "bytes_down"] if cost == "bytes" else [cost]
        spent = table[table["metric"].isin(wanted) & (table["client"] >= 0)]
        result[cost] = spent.groupby("federation")["value"].sum().reindex(result.index, fill_value=0.0)
    return result


def reaches(table: pd.DataFrame, targets: "pd.Series[float]", split: str = "test") -> pd.DataFrame:
    """When each federation's mean accuracy first reached its target.

    targets: indexed by federation. Columns `rounds_to_target`, `bytes_to_target`: a `Reach` each, indexed by
    federation; the bytes are those of all clients up to and including that round.
    """
    curves = round_means(table, split=split)
    spent = cumulative_bytes(table).reindex(curves.index)
    rows = {}
    for name, curve in curves.groupby(level="federation"):
        target = float(targets[str(name)])
        number = curve.index.get_level_values("round")
        rows[name] = [first_reach(number, curve, target), first_reach(spent.loc[curve.index], curve, target)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["rounds_to_target", "bytes_to_target"])


def _at(values: "pd.Series[float]", rounds: "pd.Series[Any]") -> "pd.Series[float]":
    """The value of each federation at the round given for it; NaN where either is missing."""
    known = rounds.dropna().astype("int64")
    places = pd.MultiIndex.from_arrays([known.index, known.to_numpy()], names=["federation", "round"])
    return values.reindex(places).droplevel("round").reindex(rounds.index)


def _chosen_rounds(validation: "pd.Series[float]") -> "pd.Series[Any]":
    # Means over clients of equal accuracies can differ in the last bit; such ties go to the earliest too.
    known = validation.dropna().round(12).sort_index()
    best = known.groupby(level="federation").transform("max")
    first = known[known == best].reset_index("round").groupby(level="federation")["round"].min()
    return first.astype("float64")


def _over_clients(table: pd.DataFrame, last: "pd.Series[Any]") -> tuple["pd.Series[float]", "pd.Series[float]"]:
    values = client_values(table, "accuracy", "test").reset_index("round")
    final = values[values["round"] == last.reindex(values.index.get_level_values("federation")).to_numpy()]["value"]
    start = values[values["round"] == 0]["value"]
    improved = (final - start.reindex(final.index) > ROUNDING).astype("float64")
    by_federation = [series.groupby(level="federation") for series in (final, improved)]
    return by_federation[0].min(), by_federation[1].mean()

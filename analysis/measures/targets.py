"""Target accuracies, and the rounds and bytes that federations take to reach them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analysis.results.evaluated import main_split
from analysis.results.names import Names, base_name
from analysis.results.table import setting_columns
from analysis.results.units import percent
from analysis.results.values import cumulative_bytes, last_rounds, round_means, settings_of, start_rounds
from analysis.statistics.censoring import Reach, first_reach, median_reach, restricted_mean
from analysis.statistics.comparisons import BOUNDS
from analysis.statistics.intervals import ROUNDING

SHARES = (0.80, 0.90, 0.95)
"""Shares of the reference's final accuracy that are targets."""
REFERENCE = "pooled"
SHARE = 0.90
"""The share of `pooled` whose arrivals are drawn."""
WAY = 0.5
"""Share of the way from the start to the best bound that the default target is at."""


@dataclass(frozen=True)
class Targets:
    """The accuracy that each federation is to reach."""

    values: "pd.Series[float]"
    """Indexed by federation; NaN where nothing is known to aim at."""
    split: str
    """Where the reference was read and the curves are to be."""
    notes: tuple[str, ...] = ()
    """Where the reference was missing and what stands in for it."""


def absolute_targets(table: pd.DataFrame, accuracy: float, split: str | None = None) -> Targets:
    """The same accuracy for all. Raises ValueError when it is not in [0, 1]."""
    if not 0 <= accuracy <= 1:
        raise ValueError(f"target is an accuracy between 0 and 1, found {accuracy}")
    names = pd.Index(table["federation"].unique(), name="federation")
    return Targets(pd.Series(accuracy, index=names, dtype="float64"), split or main_split(table))


def default_target(scores: pd.DataFrame, baseline: str | None) -> float:
    """Halfway from the start to the best that is known to be possible, so that nobody is there from the start by luck
    alone: to the mean final accuracy of `pooled`, else of `ensemble`, else of the best method.

    scores: the rows of one panel of `scores.federation_scores`. The start is that of the baseline, or the median over
    methods without one. NaN where nothing ends above it.
    """
    means = scores.groupby("method")[["start_accuracy", "accuracy"]].mean()
    starts = means["start_accuracy"]
    start = float(starts.loc[baseline]) if baseline is not None else float(starts.median())
    names = means.index.map(base_name)
    for best in (*(means.loc[names == bound, "accuracy"].max() for bound in BOUNDS), means["accuracy"].max()):
        if best > start + ROUNDING:
            return start + WAY * (float(best) - start)
    return float("nan")


def reading_split(table: pd.DataFrame) -> str:
    """Where curves towards a target are best read: "val" where the server scores every federation on a common
    validation set, else the main split: "test" unless the study left it out.

    A local validation set follows the client's own distribution. Under skew a client that knows nothing else is
    already near `pooled` on it, every target is met at round 0 and nothing is compared.
    """
    rows = table[(table["split"] == "val") & (table["metric"] == "accuracy")]
    common = len(rows) and (rows["client"] < 0).all() and set(rows["federation"]) == set(table["federation"])
    return "val" if common else main_split(table)


def share_targets(table: pd.DataFrame, share: float, of: str = REFERENCE, split: str = "val") -> Targets:
    """A share of another method's final accuracy, on the same dataset, settings, partition and seed.

    table: finished federations. of: a method's label, or the name of its only spec. Federations that differ in `start`
    alone share a target, or they could not be compared: the reference from a pre-trained start where there is one,
    else the mean over its starts. Fallback, said in `notes`: where a (partition, seed) has no reference, the best
    method's mean final accuracy over the seeds of that partition and its settings. Another note says where `split` is
    local validation (see `reading_split`). Raises ValueError when the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share of {of} is between 0 and 1, found {share}; 0.9 means 90 %")
    settings, last = settings_of(table), last_rounds(table)
    curves = round_means(table, split=split)
    numbers = curves.index.get_level_values("round")
    at_end = numbers == last.reindex(curves.index.get_level_values("federation")).to_numpy()
    final = settings.assign(final=curves[at_end].droplevel("round").reindex(settings.index))
    inside = [*setting_columns(table), "partition"]
    keys = [key for key in (*inside, "seed") if key != "start"]
    mine = final[[method == of or base_name(method) == of for method in final["method"]]]
    if "start" in mine and (mine["start"] == "pretrained").any():
        mine = mine[mine["start"] == "pretrained"]
    values = _matched(final, mine, keys)
    means = final.groupby([*inside, "method"])["final"].mean()
    best = means.groupby(level=inside).max().rename("final").reset_index()
    missing = final[values.isna()]
    where = sorted({f"{row['dataset']}, {row['partition']}" for row in missing.to_dict("records")})
    notes = []
    if split == "val" and reading_split(table) != "val":
        notes.append("Validation is local: the clients' own models on their own distributions, fitted from the start.")
    note = (
        f"No {of} with {split} accuracy in {'; '.join(where)}: targets there are shares of the best method's mean "
        "final accuracy."
    )
    notes += [note] if where else []
    return Targets(values.fillna(_matched(final, best, inside)) * share, split, tuple(notes))


def _matched(final: pd.DataFrame, reference: pd.DataFrame, keys: Sequence[str]) -> "pd.Series[float]":
    """The mean final accuracy of the reference that agrees in `keys` with each federation."""
    known = reference.groupby(list(keys))["final"].mean()
    where = pd.MultiIndex.from_frame(final[list(keys)])
    return pd.Series(known.reindex(where).to_numpy(), index=final.index, dtype="float64")


def reaches(table: pd.DataFrame, targets: "pd.Series[float]", split: str | None = None) -> pd.DataFrame:
    """When each federation's mean accuracy first reached its target.

    targets: indexed by federation. Columns `rounds_to_target`, `bytes_to_target`: a `Reach` each, indexed by
    federation; the bytes are those of all clients up to and including that round. Rounds and bytes of a consolidated
    start are counted like all others, and nothing arrives before it is complete: what the server scores until then is
    no model that anybody was given. Federations without a target or a curve are left out.
    Only evaluated rounds are known: a target counts as reached in the first of them that shows it.
    """
    curves = round_means(table, split=split)
    begun = start_rounds(table).reindex(curves.index.get_level_values("federation"))
    curves = curves[curves.index.get_level_values("round") >= begun.fillna(0).to_numpy()]
    spent = cumulative_bytes(table).reindex(curves.index)
    rows = {}
    for name, curve in curves.groupby(level="federation"):
        target = float(targets.get(str(name), np.nan))
        if np.isnan(target):
            continue
        number = curve.index.get_level_values("round")
        rows[name] = [first_reach(number, curve, target), first_reach(spent.loc[curve.index], curve, target)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["rounds_to_target", "bytes_to_target"])


def arrivals(table: pd.DataFrame, targets: Targets) -> pd.DataFrame:
    """One row a federation that has a target: its settings, `target`, `rounds_to_target` and `bytes_to_target`."""
    reached = reaches(table, targets.values, targets.split)
    settings = settings_of(table).assign(target=targets.values)
    return settings.join(reached, how="inner")


def arrival_summary(arrived: pd.DataFrame, by: Sequence[str] = ("partition", "method")) -> pd.DataFrame:
    """One row for each group of `by`, which may name `start` or any other setting: `seeds`, `target` (mean),
    `arrived` (how many), and for rounds and for bytes the Kaplan-Meier median (`Reach`), the restricted mean and
    its `_horizon`, the same for all groups that differ only in the last of `by`: as far as each of them is known. The
    mean is NaN for a group that is not known so far, as for bytes where it sends nothing and never arrives.

    arrived: as `arrivals` gives it.
    """
    by, outer = list(by), list(by)[:-1]
    rows = []
    for values, panel in arrived.groupby(outer, sort=False) if outer else [((), arrived)]:
        groups = list(panel.groupby(by[-1], sort=False))
        seen = {name: [list(cell[f"{name}_to_target"]) for _, cell in groups] for name in ("rounds", "bytes")}
        ends = {name: _horizon(each) for name, each in seen.items()}
        for value, cell in groups:
            row = {**dict(zip(outer, values, strict=True)), by[-1]: value, "seeds": len(cell)}
            row["target"] = cell["target"].mean()
            row["arrived"] = sum(reach.reached for reach in cell["rounds_to_target"])
            for name, end in ends.items():
                mine = list(cell[f"{name}_to_target"])
                row[f"{name}_to_target"] = median_reach(mine)
                row[f"{name}_mean"], row[f"{name}_horizon"] = np.nan, end
                if _end(mine) >= end:
                    row[f"{name}_mean"] = restricted_mean(mine, end).mean
            rows.append(row)
    return pd.DataFrame(rows)


def target_table(table: pd.DataFrame, split: str, names: Names | None = None) -> pd.DataFrame:
    """`arrival_summary` of every other method at 80, 90 and 95 % of `pooled`: a row for each (settings but `start` …,
    partition, arm, share), where `arm` is what the method is called, and the start it came from where starts vary.
    Columns `share` and `split` say what the target was. Empty without `pooled`. table: finished federations.
    """
    pooled = table["method"].map(base_name) == REFERENCE
    others = table[~pooled]
    if not pooled.any() or others.empty:
        return pd.DataFrame()
    keys = [*(key for key in setting_columns(table) if key != "start"), "partition"]
    frames = []
    for share in SHARES:
        reached = arrivals(others, share_targets(table, share, split=split))
        # Starts are compared with each other, so they share a horizon.
        arms = reached["method"].map(partial((names or Names()).of, "method"))
        if "start" in reached:
            arms = arms + " from " + reached["start"].map(partial((names or Names()).of, "start"))
        frames.append(arrival_summary(reached.assign(arm=arms), [*keys, "arm"]).assign(share=share, split=split))
    return pd.concat(frames, ignore_index=True)


def _horizon(groups: Sequence[Sequence[Reach]]) -> float:
    """As far as every group is known. A group that sent nothing and never arrived is known at 0 bytes only, and would
    leave nothing to compare: it does not count."""
    ends = [end for group in groups if (end := _end(group)) > 0]
    limited = [end for end in ends if end < np.inf]
    return min(limited) if limited else max(reach.value for group in groups for reach in group)


def _end(group: Sequence[Reach]) -> float:
    """The last place where some run is still on its way there; without end where all have arrived."""
    last = max(reach.value for reach in group)
    return last if any(reach == (last, False) for reach in group) else np.inf


def arrivals_caption(split: str, notes: Sequence[str], delay: str = "") -> str:
    """What a figure of arrivals at `SHARE` of the reference shows. notes: those of `Targets`; delay: of `Evaluated`."""
    return (
        f"Share of seeds whose {split} accuracy has reached {percent(SHARE, 0)} % of {REFERENCE}'s final one, on the "
        "same partition and seed: 1 − Kaplan-Meier survival. Vertical ticks: seeds lost from sight before they "
        "arrived. Numbers: how many arrived. " + delay + " ".join(notes)
    ).strip()

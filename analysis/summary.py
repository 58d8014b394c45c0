"""The comparison table: one row for each (dataset, other swept keys …, partition, method).

Methods are compared with each other only inside a block: the results that agree in the dataset and every
swept key beside partition, method and seed. Labelled and unlabelled transfer sets are therefore never in
one block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.censoring import Reach, median_reach
from analysis.comparisons import compare_with_baseline, paired_values
from analysis.ranks import rank_methods
from analysis.scores import COSTS, QUALITIES, federation_scores
from analysis.starts import Starts, pretrained_starts
from analysis.statistics import Interval, interval
from analysis.table import finished, setting_columns
from analysis.targets import reaches

CONVERGED = 0.01
"""`local` may gain this much accuracy over round 0 before its start counts as not converged."""


@dataclass(frozen=True)
class Summary:
    """A comparison and what has to be said beside it."""

    rows: pd.DataFrame
    """One row a (dataset, other swept keys …, partition, method): see `compare`."""
    scores: pd.DataFrame
    """One row a finished federation: see `scores.federation_scores`."""
    settings: tuple[str, ...]
    """The columns of `rows` that tell blocks apart; `dataset` is the first."""
    baseline: str
    """The method that the others are held against."""
    level: float
    """Confidence level of every interval."""
    target: float | None
    """The target accuracy that was asked for; None where each partition has its own."""
    starts: Starts
    """The pre-trained starts of all finished federations."""
    warnings: tuple[str, ...] = ()

    def blocks(self) -> list[tuple[str, "Summary"]]:
        """The parts whose rows may be compared with each other, each under a title of its settings."""
        if self.rows.empty:
            return []
        keys = list(self.settings)
        found = self.rows[keys].drop_duplicates()
        parts = []
        for values in found.itertuples(index=False, name=None):
            rows, scores = (frame[(frame[keys] == list(values)).all(axis=1)] for frame in (self.rows, self.scores))
            parts.append((block_title(keys, values), replace(self, rows=rows, scores=scores)))
        return parts


def block_title(keys: Sequence[str], values: Sequence[Any]) -> str:
    """The settings of a block in words: `digits · models = cnn · public(fraction=0.2)`."""
    pairs = zip(keys, values, strict=True)
    return " · ".join(str(value) if key in {"dataset", "transfer"} else f"{key} = {value}" for key, value in pairs)


def compare(
    table: pd.DataFrame,
    *,
    study: Mapping[str, Any] | None = None,
    baseline: str = "local",
    target: float | None = None,
    target_split: str = "test",
    level: float = 0.95,
) -> Summary:
    """Compare the methods of a study over its finished federations.

    table: as `load` gives it. study: as `read_study` gives it; only the order of methods and partitions is
    taken from it. target: accuracy in [0, 1]; by default, in each partition, the best method's mean final
    accuracy minus one point. target_split: where the curve towards the target is read.

    Columns of `rows`, accuracies and shares in [0, 1]: the settings; `seeds`; `start_accuracy`; `accuracy`,
    `chosen_accuracy`, `delta`, `ece`, `forgetting`, `difference` (to the baseline, paired over seeds), each with
    `_low` and `_high`; `chosen_round` (mean over seeds); `pairs`, `p`, `wilcoxon_p` (from eight pairs on), `verdict`
    ("" for the baseline and without one); `family`, `adjusted_p`, `corrected`, by Holm over all methods against the
    baseline in this block and partition (`comparisons.compare_with_baseline`); `rank`, mean over the seeds that all
    methods have; `gained`, `lost`, `worst_client`, `success_rate` and the `scores.QUALITIES`, means over seeds; the
    `scores.COSTS` and `wall` (sums over clients and rounds, means over seeds); `target`, `reached` (number of seeds
    that arrived), `rounds_to_target`, `bytes_to_target` (Kaplan-Meier medians as `Reach`, which print `>10` where
    censored). Raises ValueError when the target is not in [0, 1].
    """
    if target is not None and not 0 <= target <= 1:
        raise ValueError(f"target is an accuracy between 0 and 1, found {target}")
    done = finished(table)
    settings = tuple(setting_columns(table))
    keys = [*settings, "partition", "method"]
    scores = federation_scores(done)
    means = scores.groupby(keys, sort=False)["accuracy"].mean()
    best = means.groupby(level=keys[:-1], sort=False).max() - CONVERGED
    places = pd.MultiIndex.from_frame(scores[keys[:-1]])
    scores["target"] = best.reindex(places).to_numpy() if target is None else target
    scores = scores.join(reaches(done, scores["target"], target_split))
    rows = []
    for _, panel in scores.groupby(keys[:-1], sort=False):
        versus = _versus(panel, baseline, level)
        for method, cell in panel.groupby("method", sort=False):
            named: dict[str, Any] = {key: panel[key].iloc[0] for key in keys[:-1]}
            rows.append(named | {"method": method} | _row(cell, level) | dict(versus.loc[str(method)]))
    frame = _ordered(pd.DataFrame(rows, columns=None if rows else keys), keys, orders(study or {}))
    summary = Summary(frame, scores, settings, baseline, level, target, pretrained_starts(done))
    return replace(summary, warnings=(*_unfinished(table, done, study or {}), *_doubts(summary)))


def orders(study: Mapping[str, Any]) -> dict[str, list[str]]:
    """Values of each setting in the order the recipe names them, then as the federations are listed."""
    recipe: Mapping[str, Any] = study.get("recipe", {})
    listed = [settings for settings in study.get("federations", {}).values() if isinstance(settings, Mapping)]
    result = {}
    for key in dict.fromkeys([*recipe, *(key for settings in listed for key in settings)]):
        named = recipe.get(key, [])
        named = named if isinstance(named, list) else [named]
        values = [*named, *(settings[key] for settings in listed if key in settings)]
        result[key] = list(dict.fromkeys(value for value in values if isinstance(value, str)))
    return result


def _baseline(cells: pd.DataFrame, baseline: str) -> str | None:
    """The label of the baseline among these methods: itself, or the only spec of that name."""
    methods = set(cells["method"])
    named = [method for method in methods if method.split("(")[0] == baseline]
    if baseline in methods:
        return baseline
    return named[0] if len(named) == 1 else None


def _versus(panel: pd.DataFrame, baseline: str, level: float) -> pd.DataFrame:
    """The methods of one panel against the baseline and against each other, indexed by method."""
    values = paired_values(panel)
    base = _baseline(panel, baseline)
    names = {"low": "difference_low", "high": "difference_high"}
    if base is not None:
        found = compare_with_baseline(values, base, level).rename(columns=names).drop(columns="kind")
    else:
        wanted = ["difference", *names.values(), "p", "wilcoxon_p", "adjusted_p"]
        found = pd.DataFrame(columns=wanted, dtype="float64").assign(verdict="", corrected="", pairs=0, family=0)
    found = found.reindex(values.columns)
    for name in ("verdict", "corrected"):
        found[name] = found[name].where(found["pairs"] > 0, "").fillna("")
    if base is not None:
        found.loc[base, "pairs"] = values[base].notna().sum()
    for name in ("pairs", "family"):
        found[name] = found[name].fillna(0).astype("int64")
    return found.assign(rank=rank_methods(values, level).table["rank"])


def _row(cell: pd.DataFrame, level: float) -> dict[str, Any]:
    row: dict[str, Any] = {"seeds": len(cell), "start_accuracy": cell["start_accuracy"].mean()}
    means = ["gained", "lost", "worst_client", "success_rate", "chosen_round", *QUALITIES, *COSTS, "wall", "target"]
    row |= {name: cell[name].mean() for name in means}
    for name in ("accuracy", "chosen_accuracy", "delta", "ece", "forgetting"):
        row |= _named(name, interval(cell[name], level))
    for name in ("rounds_to_target", "bytes_to_target"):
        # A federation without accuracy rows has no curve, which the join left as NaN.
        known = [reach for reach in cell[name] if isinstance(reach, Reach)]
        row |= {
            name: median_reach(known) if known else None,
            "reached": sum(reach.reached for reach in known),
        }
    return row


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _ordered(rows: pd.DataFrame, keys: list[str], order: Mapping[str, list[str]]) -> pd.DataFrame:
    def rank(column: "pd.Series[Any]") -> "pd.Series[Any]":
        known = order.get(str(column.name), [])
        places = {value: place for place, value in enumerate([*known, *sorted(set(column) - set(known))])}
        return column.map(places)

    return rows.sort_values(keys, key=rank, kind="stable").reset_index(drop=True)


def _unfinished(table: pd.DataFrame, done: pd.DataFrame, study: Mapping[str, Any]) -> list[str]:
    known = {*table.attrs.get("rounds", {}), *study.get("federations", {}), *table["federation"].unique()}
    missing = len(known) - done["federation"].nunique()
    return [f"{missing} of {len(known)} federations are unfinished and left out."] if missing else []


def _doubts(summary: Summary) -> list[str]:
    """What makes a finished comparison less than it looks."""
    doubts = []
    for title, block in summary.blocks():
        for partition, rows in block.rows.groupby("partition", sort=False):
            where = f"{title}, {partition}"
            base = rows[rows["method"] == _baseline(rows, summary.baseline)]
            gain = float(base["delta"].iloc[0]) if len(base) else 0.0
            if gain > CONVERGED:
                doubts.append(
                    f"Start not converged ({where}): {summary.baseline} alone gains {100 * gain:.1f} points "
                    "over round 0, so part of every gain is further training, not knowledge transfer."
                )
            if rows["seeds"].nunique() > 1:
                doubts.append(f"Methods differ in their number of seeds ({where}).")
    scores = summary.scores
    odd = (scores["gained"] - scores["lost"] - scores["judged_delta"]).abs() > 1e-6
    if odd.any():
        doubts.append(f"Knowledge gained − lost is not Δ in {', '.join(scores.index[odd][:5])}: their rows disagree.")
    return doubts

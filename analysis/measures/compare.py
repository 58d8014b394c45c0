"""The methods of a study compared over its finished federations."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.measures.scores import COSTS, QUALITIES, federation_scores
from analysis.measures.starts import pretrained_starts
from analysis.measures.summary import Summary, orders
from analysis.measures.targets import default_target, reaches
from analysis.measures.warnings import comparison_warnings, unfinished_warning
from analysis.results.evaluated import Evaluated, main_split
from analysis.results.names import Names
from analysis.results.table import finished, setting_columns
from analysis.results.values import round_means
from analysis.statistics.censoring import Reach, median_reach
from analysis.statistics.comparisons import baseline_of, family_verdicts, is_bound, loses_less, paired_values
from analysis.statistics.intervals import CHANGE, RATE, ROUNDING, interval, paired_gaps
from analysis.statistics.ranks import rank_methods


def compare(
    table: pd.DataFrame,
    *,
    study: Mapping[str, Any] | None = None,
    baseline: str = "local",
    target: float | None = None,
    target_split: str | None = None,
    level: float = 0.95,
) -> Summary:
    """Compare the methods of a study over its finished federations.

    table: as `load` gives it. study: as `read_study` gives it; only the order of methods and partitions is
    taken from it, and what the recipe calls its arms. target: accuracy in [0, 1]; by default that of
    `targets.default_target` in each partition.
    target_split: where the curve towards the target is read; by default the main split, whose accuracy all columns are
    about: "test" unless the study left it out.

    Columns of `rows`, accuracies and shares in [0, 1]: the settings; `seeds`; `start_accuracy`, `start_from`;
    `accuracy`, `chosen_accuracy`, `delta`, `ece`, `forgetting`, `difference` (to the baseline, paired over seeds),
    each with `_low` and `_high`, Student's t, and `_least` and `_most`, the range; `chosen_round` (mean over seeds).
    Against the baseline: `pairs`, `p`, `wilcoxon_p` (from eight pairs on), `family`, `adjusted_p`, by Holm over all
    methods in this block and partition, and `verdict` by it (`comparisons.family_verdicts`), "" for the baseline and
    below five pairs; where it is "better" of a method that ends below its start it says "loses less than" the baseline.
    Against the start: `start_p`, `start_family`, `start_adjusted_p`, `start_verdict`, the same for `delta`.
    `rank`, mean over the seeds that all methods but the bounds have; `steps_share`: steps as a share of those of the
    baseline; `gained`, `lost`, `worst_client`, `success_rate` and the `scores.QUALITIES`, means over seeds; the
    `scores.COSTS` and `wall` (sums over clients and rounds, means over seeds); `target`, `reached` (number of seeds
    that arrived), `rounds_to_target`, `bytes_to_target` (Kaplan-Meier medians as `Reach`, which print `>10` where
    censored). Raises ValueError when the target is not in [0, 1].
    """
    if target is not None and not 0 <= target <= 1:
        raise ValueError(f"target is an accuracy between 0 and 1, found {target}")
    names = Names.of_study(study or {})
    done = finished(table)
    settings = tuple(setting_columns(table))
    keys = [*settings, "partition", "method"]
    scores = federation_scores(done)
    panels = [panel for _, panel in scores.groupby(keys[:-1], sort=False)]
    scores["target"] = target
    for panel in panels if target is None else []:
        scores.loc[panel.index, "target"] = default_target(panel, baseline_of(panel, baseline))
    scores["target"] = scores["target"].astype("float64")
    scores = scores.join(reaches(done, scores["target"], target_split))
    rows = []
    for panel in (scores.loc[each.index] for each in panels):
        named: dict[str, Any] = {key: panel[key].iloc[0] for key in keys[:-1]}
        versus = _versus(panel, baseline, level, names)
        for method, cell in panel.groupby("method", sort=False):
            rows.append(named | {"method": method} | _row(cell, level) | dict(versus.loc[str(method)]))
    frame = _ordered(pd.DataFrame(rows, columns=None if rows else keys), keys, orders(study or {}))
    split = main_split(table)
    evaluated = Evaluated.of(round_means(table, split=split), split, table.attrs.get("samples", 0))
    starts = pretrained_starts(done)
    summary = Summary(frame, scores, settings, baseline, level, target, starts, names=names, evaluated=evaluated)
    return replace(summary, warnings=(*unfinished_warning(table, done, study or {}), *comparison_warnings(summary)))


def _versus(panel: pd.DataFrame, baseline: str, level: float, names: Names) -> pd.DataFrame:
    """The methods of one panel against the baseline, their start and each other, indexed by method."""
    values, deltas = paired_values(panel), paired_values(panel, "delta")
    methods = [str(method) for method in values.columns]
    bounds = [method for method in methods if is_bound(method)]
    base = baseline_of(panel, baseline)
    gaps = {each: paired_gaps(values[each], values[base]) for each in methods if each != base} if base else {}
    result = family_verdicts(gaps, level, bounds=bounds).reindex(methods)
    result["verdict"] = result["verdict"].astype("object").fillna("")
    less = (result["verdict"] == "better") & (deltas.mean() < -ROUNDING)
    result.loc[less, "verdict"] = loses_less(names.of("method", baseline))
    if base is not None:
        # With its own seeds it is paired with itself.
        result.loc[base, "pairs"] = values[base].notna().sum()
    for name in ("pairs", "family"):
        result[name] = result[name].fillna(0).astype("int64")
    result[["low", "high"]] = result[["low", "high"]].clip(*CHANGE)
    result = result.rename(columns={end: f"difference_{end}" for end in ("low", "high", "least", "most")})
    since = family_verdicts({method: deltas[method].dropna().to_numpy() for method in methods}, level, bounds=bounds)
    for name in ("p", "family", "adjusted_p", "verdict"):
        result[f"start_{name}"] = since[name]
    competing = values.drop(columns=bounds)
    if len(competing.columns):
        result["rank"] = rank_methods(competing, level).table["rank"]
    return result.assign(rank=result.get("rank", np.nan), steps_share=_steps_shares(panel, base))


def _steps_shares(panel: pd.DataFrame, base: str | None) -> "pd.Series[float]":
    """Steps of each method as a share of the baseline's, else of the median method's, on the same seeds."""
    steps = paired_values(panel, "steps")
    usual = steps.median(axis=1) if base is None else steps[base]
    return steps.div(usual.where(usual > 0), axis=0).mean()


def _row(cell: pd.DataFrame, level: float) -> dict[str, Any]:
    row: dict[str, Any] = {"seeds": len(cell), "start_accuracy": cell["start_accuracy"].mean()}
    row["start_from"] = " or ".join(sorted(set(cell["start_from"])))
    means = ["gained", "lost", "worst_client", "success_rate", "chosen_round", *QUALITIES, *COSTS, "wall", "target"]
    row |= {name: cell[name].mean() for name in means}
    for name, within in _INTERVALS.items():
        mean, low, high, _ = interval(cell[name], level, within)
        row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        row |= {f"{name}_least": cell[name].min(), f"{name}_most": cell[name].max()}
    for name in ("rounds_to_target", "bytes_to_target"):
        # A federation without accuracy rows, or without a target, has no curve, which the join left as NaN.
        known = [reach for reach in cell[name] if isinstance(reach, Reach)]
        row |= {
            name: median_reach(known) if known else None,
            "reached": sum(reach.reached for reach in known),
        }
    return row


_INTERVALS = {"accuracy": RATE, "chosen_accuracy": RATE, "delta": CHANGE, "ece": RATE, "forgetting": CHANGE}


def _ordered(rows: pd.DataFrame, keys: list[str], order: Mapping[str, list[str]]) -> pd.DataFrame:
    def rank(column: "pd.Series[Any]") -> "pd.Series[Any]":
        known = order.get(str(column.name), [])
        positions = {value: position for position, value in enumerate([*known, *sorted(set(column) - set(known))])}
        return column.map(positions)

    return rows.sort_values(keys, key=rank, kind="stable").reset_index(drop=True)

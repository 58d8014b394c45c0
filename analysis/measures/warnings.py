"""Warnings that stand above a comparison: what a reader has to know before the numbers."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.measures.summary import Summary
from analysis.results.units import points
from analysis.statistics.comparisons import baseline_of

CONVERGED = 0.01
"""`local` may gain this much accuracy over round 0 before its start counts as not converged."""
FALLEN = 0.005
"""A method that ends half a point below its start is named, decided or not."""


def unfinished_warning(table: pd.DataFrame, done: pd.DataFrame, study: Mapping[str, Any]) -> list[str]:
    """How many federations are left out, where some have not finished."""
    known = {*table.attrs.get("rounds", {}), *study.get("federations", {}), *table["federation"].unique()}
    missing = len(known) - done["federation"].nunique()
    return [f"{missing} of {len(known)} federations are unfinished and left out."] if missing else []


def comparison_warnings(summary: Summary) -> list[str]:
    """Starts that are not converged, methods that end below theirs, unequal numbers of seeds, rows that disagree."""
    texts = []
    for title, block in summary.blocks():
        for partition, rows in block.rows.groupby("partition", sort=False):
            where = f"{title}, {block.names.of('partition', partition)}"
            base = rows[rows["method"] == baseline_of(rows, summary.baseline)]
            gain = float(base["delta"].iloc[0]) if len(base) else 0.0
            if gain > CONVERGED:
                texts.append(
                    f"Start not converged ({where}): {summary.reference} alone gains {100 * gain:.1f} points "
                    "over its start, so part of every gain is further training, not knowledge transfer."
                )
            fallen = rows[(rows["delta"] < -FALLEN) | (rows["start_verdict"] == "worse")]
            if len(fallen):
                methods = [block.names.of("method", method) for method in fallen["method"]]
                named = ", ".join(
                    f"{name} {points(delta)}" for name, delta in zip(methods, fallen["delta"], strict=True)
                )
                texts.append(
                    f"Below the start ({where}), points: {named}. What ends there has lost, whatever it beats."
                )
            if rows["seeds"].nunique() > 1:
                texts.append(f"Methods differ in their number of seeds ({where}).")
    scores = summary.scores
    odd = (scores["gained"] - scores["lost"] - scores["delta"]).abs() > 1e-6
    if odd.any():
        texts.append(f"Knowledge gained − lost is not Δ in {', '.join(scores.index[odd][:5])}: their rows disagree.")
    return texts

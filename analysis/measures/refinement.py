"""Loss of language models against steps, and against the share of the data that was kept."""

import re

import numpy as np
import pandas as pd

from analysis.results.metrics import TEXT
from analysis.results.values import round_means, settings_of
from analysis.statistics.intervals import intervals

_KEEP = re.compile(r"\bkeep=([0-9.eE+-]+)")


def steps_curves(table: pd.DataFrame, metric: str = TEXT.name, split: str | None = None) -> pd.DataFrame:
    """A row for each method and round: columns method, round, steps, mean, low and high of the metric over seeds.

    table: one panel, as `load` gives it. Steps are those since the start, mean over clients.
    """
    values = round_means(table, metric, split)
    trained = table[(table["metric"] == "steps") & (table["client"] >= 0)]
    taken = trained.groupby(["federation", "round"])["value"].mean().groupby(level="federation").cumsum()
    points = pd.DataFrame({"value": values, "steps": taken.reindex(values.index)}).reset_index()
    points["method"] = points["federation"].map(settings_of(table)["method"])
    keys = ["method", "round"]
    curves = intervals(points, keys)
    return curves.assign(steps=points.groupby(keys)["steps"].mean()).reset_index()


def keep_levels(curves: pd.DataFrame) -> pd.DataFrame:
    """The last round of methods that keep a share of the data: columns method, keep, mean, low and high.

    curves: as `steps_curves` gives them. The method is named without that share. Only methods of which two shares or
    more were run; sorted by share.
    """
    last = curves[curves["round"] == curves.groupby("method")["round"].transform("max")]
    named = last["method"].astype("str")
    share = named.map(lambda name: float(match[1]) if (match := _KEEP.search(name)) else np.nan)
    rest = named.map(
        lambda name: re.sub(r",?\s*\bkeep=[0-9.eE+-]+,?\s*", ", ", name).replace("(, ", "(").replace(", )", ")")
    )
    known = last.assign(keep=share, method=rest)[share.notna()]
    swept = known.groupby("method")["keep"].transform("nunique") >= 2
    rows: pd.DataFrame = known[swept].sort_values(["method", "keep"], kind="stable")
    return rows[["method", "keep", "mean", "low", "high"]].reset_index(drop=True)

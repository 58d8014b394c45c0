"""The results of one study, as its claims ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.measures.scores import federation_scores
from analysis.results.table import finished, load, read_study


class Study:
    """The finished federations of one results folder, all of one data set."""

    def __init__(self, table: pd.DataFrame, recipe: dict[str, Any]) -> None:
        self.table = table
        self.recipe = recipe
        self.scores = federation_scores(table)

    @classmethod
    def read(cls, folder: Path) -> dict[str, Study]:
        """The studies in a results folder, by data set, in the order of its recipe: those that are complete."""
        if not folder.is_dir():
            return {}
        table, described = finished(load(folder)), read_study(folder)
        recipe, planned = described.get("recipe", {}), described.get("federations", {})
        there = set(table["federation"])
        waiting = {str(settings["dataset"]) for name, settings in planned.items() if name not in there}
        order = _in_order(recipe.get("dataset"), table["dataset"])
        return {dataset: cls(table[table["dataset"] == dataset], recipe) for dataset in order if dataset not in waiting}

    @property
    def partitions(self) -> list[str]:
        """In the order of the recipe: the most uniform is first, the most skewed last."""
        return _in_order(self.recipe.get("partition"), self.scores["partition"])

    @property
    def methods(self) -> list[str]:
        """In the order of the recipe."""
        return _in_order(self.recipe.get("method"), self.scores["method"])

    def by_seed(self, value: str, partition: str, method: str, **settings: Any) -> pd.Series[float]:
        """One score of one method, indexed by seed; `method` is a label, or how only one of them begins.

        Raises:
            KeyError: the study has no such method, or several.
        """
        rows = self.scores[self.scores["partition"] == partition]
        for key, wanted in settings.items():
            rows = rows[rows[key] == wanted]
        mine = rows[rows["method"] == method]
        if mine.empty:
            mine = rows[rows["method"].str.startswith(method)]
        if mine["method"].nunique() != 1:
            raise KeyError(f"{method}, under {partition}: {mine['method'].nunique()} methods")
        return mine.set_index("seed")[value].astype("float64")


def _in_order(named: Any, present: pd.Series[Any]) -> list[str]:
    found = list(dict.fromkeys(map(str, present)))
    wanted = [named] if isinstance(named, str) else list(named or [])
    return [*(name for name in wanted if name in found), *(name for name in found if name not in wanted)]

"""A comparison of methods: one row for each (dataset, other swept keys …, partition, method).

Methods are compared with each other only inside a block: the results that agree in the dataset and every
swept key beside partition, method and seed. Labelled and unlabelled transfer sets are therefore never in
one block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from analysis.measures.starts import Starts
from analysis.results.evaluated import Evaluated
from analysis.results.names import Names


@dataclass(frozen=True)
class Summary:
    """A comparison with its settings and warnings."""

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
    names: Names = field(default_factory=Names)
    """What the recipe calls its methods and the values of other keys."""
    evaluated: Evaluated = field(default_factory=Evaluated)
    """On what, and how often, models were evaluated: which accuracy is meant."""

    @property
    def reference(self) -> str:
        """What the baseline is called."""
        return self.names.of("method", self.baseline)

    def blocks(self) -> list[tuple[str, "Summary"]]:
        """The parts whose rows may be compared with each other, each under a title of its settings."""
        if self.rows.empty:
            return []
        keys = list(self.settings)
        parts = []
        for values in self.rows[keys].drop_duplicates().itertuples(index=False, name=None):
            rows, scores = (frame[(frame[keys] == list(values)).all(axis=1)] for frame in (self.rows, self.scores))
            parts.append((block_title(keys, values, self.names), replace(self, rows=rows, scores=scores)))
        return parts


def block_title(keys: Sequence[str], values: Sequence[Any], names: Names) -> str:
    """The settings of a block in words: `digits · models = cnn · public(fraction=0.2)`."""
    pairs = [(key, names.of(key, value)) for key, value in zip(keys, values, strict=True)]
    return " · ".join(value if key in {"dataset", "transfer"} else f"{key} = {value}" for key, value in pairs)


def orders(study: Mapping[str, Any]) -> dict[str, list[str]]:
    """Values of each setting in the order the recipe names them, then as the federations are listed."""
    recipe: Mapping[str, Any] = study.get("recipe", {})
    listed = [settings for settings in study.get("federations", {}).values() if isinstance(settings, Mapping)]
    result = {}
    for key in dict.fromkeys([*recipe, *(key for settings in listed for key in settings)]):
        named = recipe.get(key, [])
        named = list(named.values()) if isinstance(named, Mapping) else named if isinstance(named, list) else [named]
        values = [*named, *(settings[key] for settings in listed if key in settings)]
        result[key] = list(dict.fromkeys(value for value in values if isinstance(value, str)))
    return result

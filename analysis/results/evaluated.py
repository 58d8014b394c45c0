"""On what, and in which rounds, the models of a study were evaluated."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

SPLITS = ("test", "local_test", "val")
"""Splits by which studies are compared; the first one that was evaluated is the main one."""
NORMAL = 1.96
"""Standard errors on either side of a mean that hold 95 % of a normal distribution."""
_MEANING = {
    "local_test": "local_test: each client's own part of the test set. ",
    "val": "val: validation samples. ",
}


def main_split(table: pd.DataFrame) -> str:
    """The split whose accuracy is that of the study: "test" unless nobody was evaluated on it."""
    evaluated = set(table.loc[table["metric"] == "accuracy", "split"].unique())
    return next((split for split in SPLITS if split in evaluated), SPLITS[0])


@dataclass(frozen=True)
class Evaluated:
    """What a reader has to know of the evaluations of a study."""

    split: str = SPLITS[0]
    """the main split"""
    apart: int = 1
    """rounds from one evaluation to the next, at most"""
    samples: int = 0
    """samples of the common test set between the start and the last round; 0: all"""
    error: float = 0.0
    """half of the 95 % interval that so few samples leave to an accuracy, at most"""

    @classmethod
    def of(cls, curves: "pd.Series[float]", split: str, samples: int) -> "Evaluated":
        """curves: mean accuracy on the split, indexed by (federation, round)."""
        rounds = curves.dropna().sort_index().reset_index("round")["round"]
        apart = rounds.groupby(level="federation").diff().max()
        first, last = (rounds.groupby(level="federation").transform(end) for end in ("min", "max"))
        between = curves.dropna().sort_index()[((rounds > first) & (rounds < last)).to_numpy()]
        drawn = samples if split == "test" and len(between) else 0
        variance = float((between * (1 - between)).max()) if drawn else 0.0
        error = NORMAL * math.sqrt(variance / drawn) if drawn else 0.0
        return cls(split, 1 if np.isnan(apart) else max(int(apart), 1), drawn, error)

    @property
    def meaning(self) -> str:
        """What the split is, where it is not the common test set."""
        return _MEANING.get(self.split, "")

    @property
    def gaps(self) -> str:
        """Which rounds are not known, where some are not."""
        if self.apart == 1:
            return ""
        return f"Models were evaluated at the start, then up to {self.apart} rounds apart, and in the last round. "

    @property
    def delay(self) -> str:
        """What gaps mean for a target."""
        if self.apart == 1:
            return ""
        return (
            f"{self.gaps}A target counts as reached in the evaluated round that shows it, up to {self.apart - 1} late. "
        )

    @property
    def curves(self) -> str:
        """What is said under curves of accuracy."""
        lines = f"{self.gaps}Lines between are drawn, not measured. " if self.gaps else ""
        return self.meaning + lines + self.sampling

    @property
    def sampling(self) -> str:
        """How well so few samples tell an accuracy."""
        if not self.samples:
            return ""
        return (
            f"Between the start and the last round, {self.samples:,} samples of the test set stand for all of it, the "
            f"same for every client and method: ± {100 * self.error:.1f} points at most (95 %, by the choice of "
            "samples). "
        )

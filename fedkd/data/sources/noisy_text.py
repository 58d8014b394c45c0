"""Text with known noise, to test methods that select data."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Interval
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.data.source import Prepared, Progress, Source
from fedkd.data.sources import source

KINDS = ("", "shuffled", "boilerplate")
"""Values of the column `noise`: an unchanged chunk, one with shuffled tokens, or boilerplate."""


@dataclass(frozen=True, config=STRICT)
class NoisyText(Source):
    """text of another source in which a share of the training chunks is noise, marked in the column `noise`.

    A noisy chunk is its own tokens in any order, or boilerplate: one chunk of the text, the same wherever the text and
    the seed are. Test chunks stay as they are. The column is for evaluating a selection; no method sees it. Even
    and odd training chunks are two texts that share none but boilerplate: the odd ones with `kind="boilerplate"` can
    be the transfer set of clients that hold the even ones.
    """

    usage = "noisy_text"

    of: str = "python_text"
    """the text, as a source string without a limit"""
    share: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    """share of the training chunks that become noise"""
    kind: Literal["both", "shuffled", "boilerplate"] = "both"
    """shuffled tokens, repeated boilerplate, or as much of the one as of the other"""
    chunks: Literal["all", "even", "odd"] = "all"
    """which training chunks are used, by their position in the text"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of which chunks, and of the shuffling"""

    def stamp(self) -> object:
        """The parameters, and the stamp of the text."""
        return [self._origin().stamp(), self.of, self.share, self.kind, self.chunks, self.seed]

    def prepare(self, progress: Progress) -> Prepared:
        """Prepare the text, and spoil some of it."""
        made = self._origin().prepare(progress)
        if not made.vocabulary:
            raise UserError(f"noisy_text: {self.of} has images; it takes text, such as python_text or text:FOLDER")
        # Drawn from all of the text, so that those who hold other chunks of it meet the same.
        boilerplate = made.samples[np.random.default_rng([self.seed, 1]).choice(np.flatnonzero(~made.test))]
        rows = np.arange(len(made.samples))
        left = {"all": rows >= 0, "even": rows % 2 == 0, "odd": rows % 2 == 1}[self.chunks]
        made = _some(made, np.flatnonzero(made.test | left))
        training = np.flatnonzero(~made.test)
        rng = np.random.default_rng(self.seed)
        spoilt = rng.permutation(training)[: round(self.share * len(training))]
        border = {"both": len(spoilt) // 2, "shuffled": len(spoilt), "boilerplate": 0}[self.kind]
        samples, noise = made.samples.copy(), np.zeros(len(made.samples), np.int64)
        samples[spoilt[:border]] = rng.permuted(samples[spoilt[:border]], axis=1)
        samples[spoilt[border:]] = boilerplate
        noise[spoilt[:border]], noise[spoilt[border:]] = 1, 2
        return replace(made, samples=samples, columns=made.columns | {"noise": np.array(KINDS)[noise]})

    def _origin(self) -> Source:
        _, origin, limit = source(self.of)
        if limit:
            raise UserError(f"noisy_text: of={self.of!r} has a limit; give it to noisy_text itself")
        return origin


def _some(made: Prepared, rows: NDArray[np.int64]) -> Prepared:
    """The data set with fewer samples."""
    return replace(
        made,
        samples=made.samples[rows],
        labels=made.labels[rows],
        test=made.test[rows],
        columns={name: column[rows] for name, column in made.columns.items()},
    )

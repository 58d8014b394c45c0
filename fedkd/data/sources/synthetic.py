"""Gaussian classes, for which the best possible accuracy is known."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.data.border import seeded_test
from fedkd.data.source import Prepared, Progress, Source

MIDDLE = 127.5
ROOM = 5.0
"""Standard deviations of noise between the outermost mean of a pixel and the end of its range."""
CHUNK = 10_000


@dataclass(frozen=True, config=STRICT)
class Synthetic(Source):
    """Gaussian classes of equal size and equal distance; the best possible accuracy is 87.5 % with the defaults.

    Class k has the mean a·u_k and noise N(0, σ²I), where the u_k are orthonormal patterns: cosines, from coarse
    to fine (the first `classes` of the discrete cosine basis, without the constant one). Any two means lie
    √2·a = `separation`·σ apart. The best rule is the nearest mean, the largest of the scores ⟨x, u_k⟩ / σ, which
    are independent and normal with mean a/σ for the true class and 0 for the others. It is right with probability

        ∫ φ(z) Φ(z + separation/√2)^(classes − 1) dz,

    `bayes_accuracy`; for two classes that is Φ(separation/2).
    Rounding to 256 grey levels adds 1/12 to the variance of the noise in grey levels, σ², which is as large as the
    range allows: with the defaults σ is 22, so that it costs less than 0.01 % of accuracy.
    """

    usage = "synthetic"

    classes: Annotated[int, Ge(2)] = 10
    """number of classes, all equally frequent"""
    samples: Annotated[int, Gt(0)] = 2000
    """images in all; a seeded sixth of every class is for testing"""
    shape: tuple[Annotated[int, Gt(0)], ...] = (1, 8, 8)
    """channels, height and width of an image"""
    separation: Annotated[float, Ge(0)] = 4.0
    """distance between any two class means, in standard deviations of the noise"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of the noise"""

    @model_validator(mode="after")
    def _fits(self) -> Synthetic:
        if len(self.shape) != 3:
            raise ValueError(f"shape={list(self.shape)} should be channels, height and width, as in [1, 8, 8]")
        if self.classes >= math.prod(self.shape):
            raise ValueError(
                f"classes={self.classes} need more than {self.classes} pixels; shape={list(self.shape)} has "
                f"{math.prod(self.shape)}"
            )
        if self.samples < 2 * self.classes:
            raise ValueError(f"samples={self.samples} are too few; {2 * self.classes} are two a class")
        return self

    @property
    def bayes_accuracy(self) -> float:
        """The accuracy of the best possible rule, before rounding to grey levels; 1/classes without separation."""
        from scipy.integrate import quad
        from scipy.stats import norm

        mean = self.separation / math.sqrt(2)

        def missed(z: float) -> float:
            # The complement, as it is what is small: 1 − Φ^(K−1) without cancellation.
            return float(norm.pdf(z) * -math.expm1((self.classes - 1) * norm.logcdf(z + mean)))

        return 1 - float(quad(missed, -12, 12, points=[-mean, 0.0], epsabs=1e-12, limit=200)[0])

    def patterns(self) -> NDArray[np.float64]:
        """(classes, channels, height, width): the orthonormal directions of the class means."""
        from scipy.fft import idctn

        frequencies = np.indices(self.shape).reshape(3, -1)
        coarse_first = np.lexsort((*frequencies, frequencies.sum(0)))[1 : self.classes + 1]
        chosen = np.zeros((self.classes, math.prod(self.shape)))
        chosen[np.arange(self.classes), coarse_first] = 1
        patterns: NDArray[np.float64] = idctn(chosen.reshape(-1, *self.shape), axes=(1, 2, 3), norm="ortho")
        return patterns

    def levels(self) -> float:
        """σ, the standard deviation of the noise in grey levels: all means ± 5σ lie within the range."""
        furthest = self.separation / math.sqrt(2) * float(np.abs(self.patterns()).max())
        return MIDDLE / (ROOM + furthest)

    def stamp(self) -> object:
        """The parameters: they say everything."""
        return [self.classes, self.samples, self.shape, self.separation, self.seed]

    def prepare(self, progress: Progress) -> Prepared:
        """Draw them: class k of every image i is the k-th of equally many, then shuffled."""
        rng = np.random.default_rng([self.seed, self.classes])
        labels = rng.permutation(np.arange(self.samples, dtype=np.int64) % self.classes)
        means = (self.separation / math.sqrt(2) * self.patterns()).astype(np.float32)
        images = np.empty((self.samples, *self.shape), np.uint8)
        scale = self.levels()
        for start in range(0, self.samples, CHUNK):
            part = slice(start, start + CHUNK)
            values = rng.standard_normal(images[part].shape, np.float32)
            values += means[labels[part]]
            values *= scale
            values += MIDDLE
            np.copyto(images[part], values.round().clip(0, 255), casting="unsafe")
            progress("drawing synthetic images", min(start + CHUNK, self.samples), self.samples)
        names = tuple(map(str, range(self.classes)))
        return Prepared(images, 255, labels, names, seeded_test(labels, 1 / 6, "synthetic"))

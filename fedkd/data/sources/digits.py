"""The data set that needs no download."""

from __future__ import annotations

import numpy as np
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.data.border import seeded_test
from fedkd.data.source import Prepared, Progress, Source


@dataclass(frozen=True, config=STRICT)
class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8×8 grey, a seeded 20 % of every class for testing."""

    usage = "digits"

    def stamp(self) -> object:
        """Nothing: the data ship inside scikit-learn and never changed."""
        return None

    def prepare(self, progress: Progress) -> Prepared:
        """Read them from the installed package."""
        from sklearn.datasets import load_digits

        progress("reading digits", 0, 1)
        bunch = load_digits()
        labels = bunch.target.astype(np.int64)
        images = np.ascontiguousarray(bunch.images[:, None], np.uint8)
        progress("reading digits", 1, 1)
        return Prepared(images, 16, labels, tuple("0123456789"), seeded_test(labels, 0.2, "digits"))

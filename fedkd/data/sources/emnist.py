"""Handwritten letters and digits."""

from __future__ import annotations

import string
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.data.idx_sets import IdxSet
from fedkd.data.published import Piece, Remote
from fedkd.data.torchvision_sets import Labels, torchvision_class

ARCHIVE = "EMNIST/raw/gzip.zip"
UNLIKE_THEIR_CAPITALS = "abdefghnqrt"
"""Small letters that are classes of their own where the others are merged with their capitals."""


@dataclass(frozen=True, config=STRICT)
class EMNIST(IdxSet):
    """EMNIST: up to 814,255 handwritten letters and digits, 28×28 grey, in six splits; downloaded on first use.

    The images are stored on their sides; here they stand upright, unlike torchvision's.
    Cohen, Afshar, Tapson & van Schaik, "EMNIST: an extension of MNIST to handwritten letters", 2017.
    """

    usage = "emnist"
    folder: ClassVar[str] = "EMNIST"
    upright: ClassVar[bool] = False

    split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced"
    """which of them: 62 or 47 classes of unequal size, 47 of equal size, 26 letters, 10 digits, 10 digits of MNIST"""

    @property
    def names(self) -> tuple[str, ...]:
        if self.split == "letters":
            return tuple(string.ascii_lowercase)
        if self.split in ("digits", "mnist"):
            return tuple(string.digits)
        small = string.ascii_lowercase if self.split == "byclass" else UNLIKE_THEIR_CAPITALS
        return tuple(string.digits + string.ascii_uppercase + small)

    def files(self) -> tuple[str, ...]:
        return tuple(
            f"emnist-{self.split}-{part}-{kind}-ubyte"
            for part in ("train", "test")
            for kind in ("images-idx3", "labels-idx1")
        )

    def pieces(self) -> tuple[Piece, ...]:
        raw = "EMNIST/raw"
        return tuple((f"{raw}/{n}", f"{raw}/{n}.gz", f"{raw}/gzip/{n}.gz", ARCHIVE) for n in self.files())

    def remotes(self) -> tuple[Remote, ...]:
        known = torchvision_class("EMNIST")
        return (Remote(ARCHIVE, (known.url,), known.md5),)

    def number(self, labels: NDArray[np.uint8]) -> Labels:
        """The letters are numbered from 1 in the file; the other splits from 0."""
        return labels.astype(np.int64) - 1 if self.split == "letters" else labels

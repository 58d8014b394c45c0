"""House numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.data.published import Piece, Published, Remote
from fedkd.data.source import Prepared, Progress
from fedkd.data.torchvision_sets import Images, Labels, joined, torchvision_class


@dataclass(frozen=True, config=STRICT)
class SVHN(Published):
    """SVHN: 99,289 digits cut out of house numbers, 32×32 RGB, 26,032 of them for testing; downloaded on first use.

    Netzer et al., "Reading digits in natural images with unsupervised feature learning", 2011.
    """

    usage = "svhn"

    def pieces(self) -> tuple[Piece, ...]:
        return (("train_32x32.mat",), ("test_32x32.mat",))

    def remotes(self) -> tuple[Remote, ...]:
        known = torchvision_class("SVHN").split_list
        return tuple(Remote(name, (url,), md5) for url, name, md5 in (known["train"], known["test"]))

    def read(self, paths: Sequence[Path], progress: Progress) -> Prepared:
        parts = []
        for done, path in enumerate(paths):
            progress("reading svhn", done, len(paths))
            parts.append(_part(path))
        progress("reading svhn", len(paths), len(paths))
        return joined(parts, tuple("0123456789"), f"svhn in {paths[0].parent}")


def _part(path: Path) -> tuple[Images, Labels]:
    """((n, 3, 32, 32), (n,)) from MATLAB arrays X (32, 32, 3, n) and y (n, 1), in which 0 is written as 10."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("X", "y"))
    # A damaged file ends in whatever error its last readable part leads to.
    except Exception as error:
        raise UserError(f"{path} is damaged, cut short or no MATLAB 5 file ({error}); get it again") from error
    for name in ("X", "y"):
        if name not in content:
            raise UserError(f"{path} holds no array {name!r}; it should hold X and y")
    images, labels = content["X"], content["y"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != 3:
        raise UserError(f"{path}: X is {images.dtype} of shape {images.shape}; uint8 (height, width, 3, n) is needed")
    if labels.dtype.kind not in "iu" or labels.shape != (images.shape[3], 1):
        raise UserError(
            f"{path}: y is {labels.dtype} of shape {labels.shape}; whole numbers ({images.shape[3]}, 1) are needed"
        )
    numbers = labels[:, 0].astype(np.int64)
    return images.transpose(3, 2, 0, 1), np.where(numbers == 10, 0, numbers)

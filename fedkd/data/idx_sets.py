"""MNIST and the data sets that come in its files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkd.data.idx import read_idx
from fedkd.data.published import Piece, Published, Remote
from fedkd.data.source import Prepared, Progress
from fedkd.data.torchvision_sets import Labels, joined, torchvision_class


class IdxSet(Published):
    """MNIST and those made like it: four idx files, images and labels for training and test."""

    folder: ClassVar[str]
    """Name of torchvision's class and of its folder."""
    upright: ClassVar[bool] = True
    """Whether the images are stored row by row."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""

    def files(self) -> tuple[str, ...]:
        """Training images, training labels, test images, test labels."""
        return tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

    def pieces(self) -> tuple[Piece, ...]:
        return tuple((f"{self.folder}/raw/{name}", f"{self.folder}/raw/{name}.gz") for name in self.files())

    def remotes(self) -> tuple[Remote, ...]:
        known = torchvision_class(self.folder)
        return tuple(
            Remote(f"{self.folder}/raw/{name}", tuple(f"{server}{name}" for server in known.mirrors), md5)
            for name, md5 in known.resources
        )

    def read(self, paths: Sequence[Path], progress: Progress) -> Prepared:
        arrays = []
        for done, (path, name) in enumerate(zip(paths, self.files(), strict=True)):
            progress(f"reading {self.folder}", done, len(paths))
            arrays.append(read_idx(path, name, 1 if "labels" in name else 3, progress))
        progress(f"reading {self.folder}", len(paths), len(paths))
        pictures = [array if self.upright else array.transpose(0, 2, 1) for array in arrays[::2]]
        parts = [(images[:, None], self.number(labels)) for images, labels in zip(pictures, arrays[1::2], strict=True)]
        return joined(parts, self.names, f"{self.usage} in {paths[0].parent}")

    def number(self, labels: NDArray[np.uint8]) -> Labels:
        """Labels 0, 1, 2, … from those in the file."""
        return labels

"""Shared code of the data sets that torchvision lists: addresses, checksums, and joining the parts.

The files are read here and not by torchvision's classes: those unpickle CIFAR's batches, unpack archives beside
them, and refuse any file that is not the published one. The tests hold both to the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import UserError
from fedkd.data.source import Prepared, class_labels

Images = NDArray[np.uint8]
Labels = NDArray[Any]


def torchvision_class(name: str) -> Any:
    """torchvision's data set class: it knows addresses and checksums. Imported late, as that takes seconds."""
    from torchvision import datasets

    return getattr(datasets, name)


def joined(
    parts: Sequence[tuple[Images, Labels]], classes: tuple[str, ...], where: str, **columns: NDArray[Any]
) -> Prepared:
    """One data set of its training part and its test part, each (images (n, c, h, w), labels (n,)).

    Raises:
        UserError: numbers or sizes differ, or a class has no image.
    """
    for (images, labels), split in zip(parts, ("training", "test"), strict=True):
        if labels.shape != (len(images),):
            raise UserError(f"{where}: the {split} part has {len(images)} images but labels of shape {labels.shape}")
    (train, _), (test, _) = parts
    if train.shape[1:] != test.shape[1:]:
        raise UserError(f"{where}: training images have shape {train.shape[1:]}, test images {test.shape[1:]}")
    labels = class_labels(np.concatenate([labels for _, labels in parts]), f"{where}: the labels")
    if labels.max() + 1 != len(classes):
        raise UserError(f"{where}: the labels go up to {labels.max()}; 0 to {len(classes) - 1} are needed")
    images = np.ascontiguousarray(np.concatenate([train, test]))
    return Prepared(images, 255, labels, classes, np.arange(len(images)) >= len(train), columns)

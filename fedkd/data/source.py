"""The interface of a data source; each file of `sources/` holds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import UserError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is in all."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set as arrays in memory, on its way into the cache."""

    samples: NDArray[Any]
    """(n, channels, height, width) uint8 images, contiguous, or (n, length + 1) tokens of text."""

    peak: int
    """Raw value of an image that stands for 1.0; 0 for text."""

    labels: NDArray[np.int64]
    """(n,) in 0..len(classes)-1."""

    classes: tuple[str, ...]
    test: NDArray[np.bool_]
    """(n,) which samples are for testing."""

    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Further arrays with first length n."""

    vocabulary: tuple[bytes, ...] = ()
    """The bytes that each token stands for; empty: images."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """(n, channels, height, width)."""
        return self.samples


class Source(ABC):
    """Where data come from: a frozen pydantic dataclass whose fields are its parameters.

    A field `argument: str` is what follows the colon of the source string. The first line of a subclass's
    docstring is its description for the user.
    """

    usage: ClassVar[str]
    """How the user writes it, for example `npz:FILE`."""

    @abstractmethod
    def stamp(self) -> object:
        """A JSON value that changes whenever the content may have changed.

        It is computed at every load, so it must be quick.

        Raises UserError where there is nothing to load.
        """

    @abstractmethod
    def prepare(self, progress: Progress) -> Prepared:
        """Read everything. Raises UserError naming the file, what was found and what would be right."""


def class_labels(labels: NDArray[Any], where: str) -> NDArray[np.int64]:
    """`labels` as int64; UserError unless they are 0, 1, 2, … without a gap, and at least two."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{where} is {labels.dtype} of shape {labels.shape}; labels must be integers of shape (n,)")
    present = np.unique(labels)
    if not len(present):
        raise UserError(f"{where} is empty; there is nothing to train on")
    if present[0] < 0:
        raise UserError(f"{where} holds {present[0]}; labels must be 0, 1, 2, …")
    if int(present[-1]) != len(present) - 1:
        held = set(present.tolist())
        gaps = [str(label) for label in range(len(present) + 3) if label < present[-1] and label not in held]
        raise UserError(
            f"{where} goes up to {present[-1]}, but no image has label {', '.join(gaps[:3])}"
            f"{' and others' if int(present[-1]) + 1 - len(present) > len(gaps[:3]) else ''}; "
            f"number the classes 0 to {len(present) - 1} without gaps"
        )
    if len(present) < 2:
        raise UserError(f"{where} has one class only; at least two are needed")
    return labels.astype(np.int64)

"""The handwritten digits that everyone starts with."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.data.idx_sets import IdxSet


@dataclass(frozen=True, config=STRICT)
class MNIST(IdxSet):
    """MNIST: 70,000 handwritten digits, 28×28 grey, 10,000 of them for testing; downloaded on first use.

    LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition", 1998.
    """

    usage = "mnist"
    folder: ClassVar[str] = "MNIST"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple("0123456789")

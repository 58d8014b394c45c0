"""Clothes in the format of MNIST."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.data.idx_sets import IdxSet


@dataclass(frozen=True, config=STRICT)
class FashionMNIST(IdxSet):
    """Fashion-MNIST: 70,000 pieces of clothing, 28×28 grey, 10,000 of them for testing; downloaded on first use.

    Xiao, Rasul & Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017.
    """

    usage = "fashion_mnist"
    folder: ClassVar[str] = "FashionMNIST"

    @property
    def names(self) -> tuple[str, ...]:
        return (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        )

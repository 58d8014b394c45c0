"""Small photographs in ten classes."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.data.cifar_sets import CifarSet


@dataclass(frozen=True, config=STRICT)
class CIFAR10(CifarSet):
    """CIFAR-10: 60,000 photographs in 10 classes, 32×32 RGB, 10,000 of them for testing; downloaded on first use.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    usage = "cifar10"
    torchvision: ClassVar[str] = "CIFAR10"
    folder: ClassVar[str] = "cifar-10-batches-py"
    archive: ClassVar[str] = "cifar-10-python.tar.gz"
    batches: ClassVar[tuple[str, ...]] = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
    meta: ClassVar[tuple[str, str]] = ("batches.meta", "label_names")
    labels: ClassVar[str] = "labels"

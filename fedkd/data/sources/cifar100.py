"""Small photographs in a hundred classes."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.data.cifar_sets import CifarSet


@dataclass(frozen=True, config=STRICT)
class CIFAR100(CifarSet):
    """CIFAR-100: 60,000 photographs in 100 classes, 32×32 RGB, 10,000 of them for testing; downloaded on first use.

    The column `superclass` (n,) holds the number of each image's superclass, 0 to 19.
    Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    usage = "cifar100"
    torchvision: ClassVar[str] = "CIFAR100"
    folder: ClassVar[str] = "cifar-100-python"
    archive: ClassVar[str] = "cifar-100-python.tar.gz"
    batches: ClassVar[tuple[str, ...]] = ("train", "test")
    meta: ClassVar[tuple[str, str]] = ("meta", "fine_label_names")
    labels: ClassVar[str] = "fine_labels"
    further: ClassVar[dict[str, str]] = {"superclass": "coarse_labels"}

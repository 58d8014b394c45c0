from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.models.architecture import Architecture, Model, Shape
from fedkd.models.blocks.norm import Norm
from fedkd.models.blocks.resnet import small_resnet


@dataclass(frozen=True, config=STRICT)
class ResNet32x4(Architecture):
    """ResNet-32 for small images, four times as wide: 32, then 64, 128 and 256 channels (Tian et al. 2020, CRD).

    Where the width changes, shortcuts are 1×1 convolutions (option B), as there. From 4×4 images on.
    """

    norm: Norm = "group"
    """"group" looks at one sample at a time; "batch" mixes what clients hold, and breaks under averaging"""

    def build(self, shape: Shape, classes: int) -> Model:
        widths = (32, 64, 128, 256)
        return small_resnet("resnet32x4", shape, classes, self.norm, blocks=5, widths=widths, shortcut="B")

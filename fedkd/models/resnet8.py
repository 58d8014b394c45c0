from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.models.architecture import Architecture, Model, Shape
from fedkd.models.blocks.norm import Norm
from fedkd.models.blocks.resnet import small_resnet


@dataclass(frozen=True, config=STRICT)
class ResNet8(Architecture):
    """ResNet-8 for small images: 16, 32 and 64 channels (He et al. 2016, section 4.2).

    Shortcuts are without weights (option A), as there. From 4×4 images on.
    """

    norm: Norm = "group"
    """"group" looks at one sample at a time; "batch" mixes what clients hold, and breaks under averaging"""

    def build(self, shape: Shape, classes: int) -> Model:
        return small_resnet("resnet8", shape, classes, self.norm, blocks=1, widths=(16, 16, 32, 64), shortcut="A")

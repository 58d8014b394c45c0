from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.models.architecture import Architecture, Model, Shape
from fedkd.models.blocks.norm import Norm
from fedkd.models.blocks.vgg import small_vgg


@dataclass(frozen=True, config=STRICT)
class VGG8(Architecture):
    """VGG-8 for small images (Simonyan & Zisserman 2015; without hidden layers, as in Tian et al. 2020, CRD).

    Three poolings and a global mean: the features are 512 wide for images of any size from 8×8 on.
    """

    norm: Norm = "group"
    """"group" looks at one sample at a time; "batch" mixes what clients hold, and breaks under averaging"""

    def build(self, shape: Shape, classes: int) -> Model:
        return small_vgg("vgg8", shape, classes, self.norm, depth=1)

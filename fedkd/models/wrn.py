from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from annotated_types import Ge, Gt
from pydantic import AfterValidator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fedkd.base.catalogue import STRICT
from fedkd.models.architecture import Architecture, Model, Shape
from fedkd.models.blocks.norm import Norm, at_least, conv_norm, convolutional, normalised, pooled


def _three_stages(depth: int) -> int:
    if depth % 6 != 4:
        raise ValueError("three stages of equal blocks have 6n + 4 layers: 10, 16, 22, 28, 34, 40, …")
    return depth


class PreactivationBlock(nn.Module):
    """Norm, ReLU and 3×3 convolution, twice, beside a shortcut; where the width changes, that starts after the ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.before = nn.Sequential(normalised(norm, inputs), nn.ReLU())
        self.convolutions = nn.Sequential(
            *conv_norm(inputs, outputs, norm, stride=stride),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, outputs, h / stride, w / stride)"""
        active = self.before(x)
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(active)
        convolved: Tensor = self.convolutions(active)
        return convolved + shortcut


@dataclass(frozen=True, config=STRICT)
class WRN(Architecture):
    """Wide residual network with blocks activated before they convolve (Zagoruyko & Komodakis 2016), no dropout.

    16 channels, then three stages of 16, 32 and 64 times `width`. From 4×4 images on.
    """

    depth: Annotated[int, Ge(10), AfterValidator(_three_stages)] = 16
    """convolutions in a row, 6n + 4 of them"""
    width: Annotated[int, Gt(0)] = 2
    """factor on the channels of the three stages"""
    norm: Norm = "group"
    """"group" looks at one sample at a time; "batch" mixes what clients hold, and breaks under averaging"""

    def build(self, shape: Shape, classes: int) -> Model:
        at_least("wrn", shape, 4)
        widths = (16, 16 * self.width, 32 * self.width, 64 * self.width)
        layers: list[nn.Module] = [nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)]
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            for block in range((self.depth - 4) // 6):
                stride = 2 if stage and not block else 1
                layers.append(PreactivationBlock(outputs if block else inputs, outputs, stride, self.norm))
        layers += [normalised(self.norm, widths[-1]), nn.ReLU(), *pooled()]
        return convolutional(nn.Sequential(*layers), widths[-1], classes, self.norm)

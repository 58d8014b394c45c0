from __future__ import annotations

from typing import Annotated

import torch
from pydantic import AfterValidator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fedkd.base.catalogue import STRICT
from fedkd.models.architecture import Architecture, Model, Shape
from fedkd.models.blocks.norm import Norm, at_least, conv_norm, convolutional, pooled

WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
"""Channels of the three stages and of the features (Ma et al. 2018, table 5)."""


def _published(width: float) -> float:
    if width not in WIDTHS:
        raise ValueError(f"the widths of the paper are {', '.join(map(str, WIDTHS))}")
    return width


class ShuffleUnit(nn.Module):
    """Half of the channels pass, or are halved in size; the other half is convolved; both are interleaved."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        half = outputs // 2
        self.passing: nn.Module | None = None
        if stride > 1:
            self.passing = nn.Sequential(
                *conv_norm(inputs, inputs, norm, stride=stride, depthwise=True),
                *conv_norm(inputs, half, norm, kernel=1),
                nn.ReLU(),
            )
        self.convolved = nn.Sequential(
            *conv_norm(inputs if stride > 1 else half, half, norm, kernel=1),
            nn.ReLU(),
            *conv_norm(half, half, norm, stride=stride, depthwise=True),
            *conv_norm(half, half, norm, kernel=1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, outputs, h / stride, w / stride)"""
        if self.passing is None:
            passed, rest = x.chunk(2, dim=1)
        else:
            passed, rest = self.passing(x), x
        return _interleaved(passed, self.convolved(rest))


def _interleaved(x: Tensor, y: Tensor) -> Tensor:
    """Channels of two (n, c, h, w) maps in turn, x₀ y₀ x₁ y₁ …: (n, 2c, h, w), channels last, as its inputs are."""
    return torch.stack([x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)], dim=4).flatten(3).permute(0, 3, 1, 2)


@dataclass(frozen=True, config=STRICT)
class ShuffleNetV2(Architecture):
    """ShuffleNetV2 (Ma et al. 2018) for small images: the stem keeps their size.

    The sizes of all weights are the paper's. From 8×8 images on.
    """

    width: Annotated[float, AfterValidator(_published)] = 1.0
    """factor on the channels: 0.5, 1.0, 1.5 or 2.0"""
    norm: Norm = "group"
    """"group" looks at one sample at a time; "batch" mixes what clients hold, and breaks under averaging"""

    def build(self, shape: Shape, classes: int) -> Model:
        at_least("shufflenet_v2", shape, 8)
        *stages, features = WIDTHS[self.width]
        channels = 24
        layers: list[nn.Module] = [*conv_norm(shape[0], channels, self.norm), nn.ReLU()]
        for outputs, units in zip(stages, (4, 8, 4), strict=True):
            for unit in range(units):
                layers.append(ShuffleUnit(channels, outputs, 1 if unit else 2, self.norm))
                channels = outputs
        layers += [*conv_norm(channels, features, self.norm, kernel=1), nn.ReLU(), *pooled()]
        return convolutional(nn.Sequential(*layers), features, classes, self.norm)

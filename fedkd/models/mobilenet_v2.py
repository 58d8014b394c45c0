from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fedkd.base.catalogue import STRICT
from fedkd.models.architecture import Architecture, Model, Shape
from fedkd.models.blocks.norm import Norm, at_least, conv_norm, convolutional, pooled

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of each stage, as in the paper but for the second's stride of 2."""


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 convolution a channel, 1×1 projection without ReLU; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, norm: Norm) -> None:
        super().__init__()
        inner = inputs * expansion
        expanded = [*conv_norm(inputs, inner, norm, kernel=1), nn.ReLU6()] if expansion > 1 else []
        self.convolutions = nn.Sequential(
            *expanded,
            *conv_norm(inner, inner, norm, stride=stride, depthwise=True),
            nn.ReLU6(),
            *conv_norm(inner, outputs, norm, kernel=1),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, outputs, h / stride, w / stride)"""
        output: Tensor = self.convolutions(x)
        return x + output if self.residual else output


@dataclass(frozen=True, config=STRICT)
class MobileNetV2(Architecture):
    """MobileNetV2 (Sandler et al. 2018) for small images: three strides of 2 instead of five, no dropout.

    The sizes of all weights are the paper's. From 8×8 images on.
    """

    width: Annotated[float, Gt(0)] = 1.0
    """factor on all channels, which are rounded to multiples of 8"""
    norm: Norm = "group"
    """"group" looks at one sample at a time; "batch" mixes what clients hold, and breaks under averaging"""

    def build(self, shape: Shape, classes: int) -> Model:
        at_least("mobilenet_v2", shape, 8)
        channels = _by_eight(32 * self.width)
        layers: list[nn.Module] = [*conv_norm(shape[0], channels, self.norm), nn.ReLU6()]
        for expansion, width, blocks, first in STAGES:
            outputs = _by_eight(width * self.width)
            for block in range(blocks):
                stride = 1 if block else first
                layers.append(InvertedResidual(channels, outputs, stride, expansion, self.norm))
                channels = outputs
        features = _by_eight(1280 * max(1.0, self.width))
        layers += [*conv_norm(channels, features, self.norm, kernel=1), nn.ReLU6(), *pooled()]
        return convolutional(nn.Sequential(*layers), features, classes, self.norm)


def _by_eight(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below `channels`, and at least 8."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded

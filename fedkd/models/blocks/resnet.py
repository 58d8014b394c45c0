"""Residual networks for small images: basic blocks in three stages."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.models.architecture import Model, Shape
from fedkd.models.blocks.norm import Norm, at_least, conv_norm, convolutional, pooled

Shortcut = Literal["A", "B"]
"""He et al. 2016, section 3.3, where the width changes: A pads with zero channels, B projects with 1×1 weights."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, shortcut: Shortcut) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *conv_norm(inputs, outputs, norm, stride=stride), nn.ReLU(), *conv_norm(outputs, outputs, norm)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = (
                Padding(outputs - inputs, stride)
                if shortcut == "A"
                else nn.Sequential(*conv_norm(inputs, outputs, norm, kernel=1, stride=stride))
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, outputs, h / stride, w / stride)"""
        return F.relu(self.convolutions(x) + self.shortcut(x))


class Padding(nn.Module):
    """Every `stride`-th pixel, with `channels` more channels of zeros, half of them in front."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(n, c + channels, h / stride, w / stride)"""
        front = self.channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.channels - front))


def small_resnet(
    name: str,
    shape: Shape,
    classes: int,
    norm: Norm,
    blocks: int,
    widths: tuple[int, int, int, int],
    shortcut: Shortcut,
) -> Model:
    """A 3×3 stem of `widths[0]` channels, then three stages of `blocks` blocks; the last two halve the image."""
    at_least(name, shape, 4)
    layers: list[nn.Module] = [*conv_norm(shape[0], widths[0], norm), nn.ReLU()]
    for stage, (inputs, outputs) in enumerate(pairwise(widths)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(BasicBlock(outputs if block else inputs, outputs, stride, norm, shortcut))
    return convolutional(nn.Sequential(*layers, *pooled()), widths[-1], classes, norm)

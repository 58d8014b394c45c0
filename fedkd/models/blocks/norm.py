"""Normalisation, initial weights and size checks of convolutional networks for small images."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from fedkd.base.errors import UserError
from fedkd.models.architecture import Model, Shape

Norm = Literal["group", "batch"]

GROUPS = 2
"""As in Reddi et al. 2021; every width here is even, and a 1×1 map still has many values in each group."""


def normalised(kind: Norm, channels: int) -> nn.Module:
    """GroupNorm (Wu & He 2018), or BatchNorm2d, over (n, channels, height, width).

    BatchNorm normalises by statistics of a batch and stores running ones of a client; averaged over clients with
    different data, these fit no client (Hsieh et al. 2020). GroupNorm uses one sample at a time.
    """
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(GROUPS, channels)


class BatchModel(Model):
    """A model with batch normalisation. Its running statistics are buffers: they are sent like weights."""

    def features(self, x: Tensor) -> Tensor:
        """(n, width) inputs of the head; a batch of one sample is normalised by the running statistics."""
        if not self.training or len(x) != 1:
            return super().features(x)
        self.body.eval()
        try:
            return super().features(x)
        finally:
            self.body.train()


def convolutional(body: nn.Module, width: int, classes: int, norm: Norm) -> Model:
    """The model on top of `body`, (n, width) features, with the initial weights of He et al. 2015 in its convolutions.

    The head starts at PyTorch's own default, as in every other architecture here.
    """
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            # PyTorch's own function takes no notice of groups: depthwise weights would start so small that the first
            # steps throw them about, and MobileNetV2 with GroupNorm would hardly learn.
            reached = module.out_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, std=math.sqrt(2 / reached))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return BatchModel(body, width, classes) if norm == "batch" else Model(body, width, classes)


def at_least(name: str, shape: Shape, side: int) -> None:
    """Raise UserError where an image is smaller than `side`, the factor by which the network shrinks it."""
    if min(shape[1:]) < side:
        height, width = shape[1:]
        raise UserError(
            f"model {name}: images are {height}×{width}; it needs at least {side}×{side} (mlp takes any size)"
        )


def conv_norm(
    inputs: int, outputs: int, norm: Norm, kernel: int = 3, stride: int = 1, *, depthwise: bool = False
) -> list[nn.Module]:
    """A convolution without bias, which keeps the size at stride 1, and its normalisation."""
    separate = inputs if depthwise else 1
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=separate, bias=False),
        normalised(norm, outputs),
    ]


class Mean(nn.Module):
    """(n, c, h, w) → (n, c): the numbers of AdaptiveAvgPool2d(1), which torch.func cannot stack."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-1, -2))


def pooled() -> list[nn.Module]:
    """The mean over all positions: (n, c, h, w) → (n, c)."""
    return [Mean()]

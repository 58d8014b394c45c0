"""VGG for small images: 3×3 convolutions in five blocks, and a global mean instead of hidden layers."""

from __future__ import annotations

from torch import nn

from fedkd.models.architecture import Model, Shape
from fedkd.models.blocks.norm import Norm, at_least, convolutional, normalised, pooled


def small_vgg(name: str, shape: Shape, classes: int, norm: Norm, depth: int) -> Model:
    """Blocks of 64, 128, 256, 512 and 512 channels, `depth` convolutions each; the first three halve the image."""
    at_least(name, shape, 8)
    layers: list[nn.Module] = []
    channels = shape[0]
    for block, width in enumerate((64, 128, 256, 512, 512)):
        for _ in range(depth):
            # The biases, which normalisation all but undoes, are part of the published sizes.
            layers += [nn.Conv2d(channels, width, 3, padding=1), normalised(norm, width), nn.ReLU()]
            channels = width
        if block < 3:
            layers.append(nn.MaxPool2d(2))
    return convolutional(nn.Sequential(*layers, *pooled()), channels, classes, norm)

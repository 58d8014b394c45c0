from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import nn

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.models.architecture import Architecture, Model, Shape


@dataclass(frozen=True, config=STRICT)
class CNN(Architecture):
    """Two 3×3 convolutions with pooling and one hidden layer: small, and quick on a CPU.

    Pooling before ReLU gives the same numbers as after it, on a quarter of the values.
    """

    width: Annotated[int, Gt(0)] = 16
    """Channels of the first convolution; the second has twice as many."""
    hidden: Annotated[int, Gt(0)] = 64
    """Width of the features."""

    def build(self, shape: Shape, classes: int) -> Model:
        channels, height, width = shape
        if min(height, width) < 4:
            raise UserError(f"model cnn: images are {height}×{width}; it needs at least 4×4 (mlp takes any size)")
        flat = 2 * self.width * (height // 4) * (width // 4)
        body = nn.Sequential(
            nn.Conv2d(channels, self.width, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(self.width, 2 * self.width, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, self.hidden),
            nn.ReLU(),
        )
        return Model(body, self.hidden, classes)

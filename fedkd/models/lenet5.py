from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import nn

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.models.architecture import Architecture, Model, Shape


@dataclass(frozen=True, config=STRICT)
class LeNet5(Architecture):
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling; images below 28×28 are padded at the second layer too."""

    norm: Literal["none", "group"] = "none"
    """"group" puts GroupNorm after each convolution; batch statistics would mix what clients hold."""

    def build(self, shape: Shape, classes: int) -> Model:
        channels, height, width = shape
        if min(height, width) < 4:
            raise UserError(f"model lenet5: images are {height}×{width}; it needs at least 4×4 (mlp takes any size)")
        # The original reads 32×32: 28×28 padded by 2. Its second convolution shrinks the image, which small ones lack.
        first = 2 if min(height, width) < 32 else 0
        second = 0 if min(height, width) >= 28 else 2
        sizes = [(((side + 2 * first - 4) // 2) + 2 * second - 4) // 2 for side in (height, width)]
        body = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=first),
            *self._norm(6),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(6, 16, 5, padding=second),
            *self._norm(16),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * sizes[0] * sizes[1], 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        return Model(body, 84, classes)

    def _norm(self, channels: int) -> list[nn.Module]:
        return [nn.GroupNorm(2, channels)] if self.norm == "group" else []

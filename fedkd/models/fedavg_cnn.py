from __future__ import annotations

from typing import Annotated

from annotated_types import Interval
from pydantic.dataclasses import dataclass
from torch import nn

from fedkd.base.catalogue import STRICT
from fedkd.models.architecture import Architecture, Model, Shape
from fedkd.models.blocks.norm import at_least


@dataclass(frozen=True, config=STRICT)
class FedAvgCNN(Architecture):
    """Two 5×5 convolutions with pooling and 512 units: federated learning's baseline (McMahan et al. 2017).

    It has the paper's 1,663,370 weights on 28×28 grey images of ten classes, from 4×4 images on. With padding=0 it is
    the smaller network of other frameworks, with 582,026 weights there, from 16×16 images on.
    Pooling before ReLU gives the same numbers as after it, on a quarter of the values.
    """

    padding: Annotated[int, Interval(ge=0, le=2)] = 2
    """zeros around the input of each convolution"""

    def build(self, shape: Shape, classes: int) -> Model:
        at_least("fedavg_cnn", shape, 16 - 6 * self.padding)
        channels, height, width = shape
        body = nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=self.padding),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 5, padding=self.padding),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * self._side(height) * self._side(width), 512),
            nn.ReLU(),
        )
        return Model(body, 512, classes)

    def _side(self, side: int) -> int:
        """Side of what is left after both convolutions."""
        for _ in range(2):
            side = (side + 2 * self.padding - 4) // 2
        return side

from __future__ import annotations

from pydantic.dataclasses import dataclass
from torch import nn

from fedkd.base.catalogue import STRICT
from fedkd.models.architecture import Architecture, Model, Shape
from fedkd.models.blocks.norm import at_least


@dataclass(frozen=True, config=STRICT)
class FedAvgCNN(Architecture):
    """Two 5×5 convolutions with pooling and 512 units: federated learning's baseline (McMahan et al. 2017).

    It has the paper's 1,663,370 weights on 28×28 grey images of ten classes. From 4×4 images on.
    Pooling before ReLU gives the same numbers as after it, on a quarter of the values.
    """

    def build(self, shape: Shape, classes: int) -> Model:
        at_least("fedavg_cnn", shape, 4)
        channels, height, width = shape
        body = nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 512),
            nn.ReLU(),
        )
        return Model(body, 512, classes)

from __future__ import annotations

import itertools
from typing import Annotated

from annotated_types import Gt, MinLen
from pydantic.dataclasses import dataclass
from torch import nn

from fedkd.base.catalogue import STRICT
from fedkd.models.architecture import Architecture, Model, Shape


@dataclass(frozen=True, config=STRICT)
class MLP(Architecture):
    """Fully connected layers with ReLU."""

    hidden: Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)] = (128, 64)
    """Width of each hidden layer; the last is the width of the features."""

    def build(self, shape: Shape, classes: int) -> Model:
        channels, height, width = shape
        sizes = (channels * height * width, *self.hidden)
        layers = [(nn.Linear(before, after), nn.ReLU()) for before, after in itertools.pairwise(sizes)]
        return Model(nn.Sequential(nn.Flatten(), *itertools.chain(*layers)), self.hidden[-1], classes)

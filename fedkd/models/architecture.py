"""What every network offers: features and a linear head."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pydantic import ConfigDict
from torch import Tensor, nn

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Config of every dataclass that a spec string builds: no silent conversions, no unknown parameters."""

Shape = tuple[int, int, int]
"""(channels, height, width)"""


class Model(nn.Module):
    """A classifier in two parts: `features` (n, width) of inputs, and a linear `head` to (n, classes) logits.

    Inputs are (n, channels, height, width) in [0, 1]; the model centres them itself, so that no statistic of
    anybody's data travels with it.
    """

    def __init__(self, body: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """(n, width) inputs of the head."""
        features: Tensor = self.body(x * 2 - 1)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """(n, classes) logits."""
        logits: Tensor = self.head(self.features(x))
        return logits


class Architecture(ABC):
    """How to build a network for given inputs and classes: a frozen pydantic dataclass of its parameters."""

    @abstractmethod
    def build(self, shape: Shape, classes: int) -> Model:
        """A freshly initialised network.

        Raises:
            UserError: the inputs are too small for it.
        """

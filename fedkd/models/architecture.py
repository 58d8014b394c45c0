"""What every network offers: features and a linear head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

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

    def centred(self, x: Tensor) -> Tensor:
        """Inputs as the body wants them; overridden where published weights expect something else."""
        return x * 2 - 1

    def features(self, x: Tensor) -> Tensor:
        """(n, width) inputs of the head."""
        features: Tensor = self.body(self.centred(x))
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

    def initial(self, model: Model, client: int) -> Mapping[str, Tensor] | None:  # noqa: ARG002
        """Tensors to start from instead of drawn ones, by their names in `model`, which `build` made; None: none.

        Called once where a client starts, never where a model is restored. What is missing keeps its drawn value.

        Raises:
            UserError: there are no such weights, or they do not fit.
        """
        return None

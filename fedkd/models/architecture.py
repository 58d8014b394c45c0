"""What every network offers: features and a linear head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from fedkd.base.errors import UserError
from fedkd.models.blocks.tensors import check_fit, unprefixed

Shape = tuple[int, ...]
"""(channels, height, width) of an image, or (length,) of a chunk of text"""
Kind = Literal["images", "text", "any"]
"""What a network takes; "any": that is known only when it has seen some."""


class Model(nn.Module):
    """A classifier in two parts: `features` (n, width) of inputs, and a linear `head` to (n, classes) logits.

    Inputs are (n, channels, height, width) in [0, 1]. The model centres them with a constant, so that it carries no
    statistics of a client's data.
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


class LanguageModel(Model):
    """A `Model` of text: (n, length) int64 tokens in, and for each of them the logits of the next token out.

    `features` are (n, length, width) and logits (n, length, vocabulary). They do not depend on later tokens.
    """

    def centred(self, x: Tensor) -> Tensor:
        """The tokens unchanged: they are indices, not amounts."""
        return x


class Architecture(ABC):
    """How to build a network for given inputs and classes: a frozen pydantic dataclass of its parameters."""

    @property
    def takes(self) -> Kind:
        """What its networks take."""
        return "images"

    @property
    def brings_weights(self) -> bool:
        """Whether `initial` gives trained weights: by default, such a model is not pre-trained."""
        return False

    @abstractmethod
    def build(self, shape: Shape, classes: int) -> Model:
        """A freshly initialised network for inputs of the kind that it takes.

        Raises:
            UserError: the inputs are too small for it, or too long.
        """

    def initial(self, model: Model, client: int) -> Mapping[str, Tensor] | None:  # noqa: ARG002
        """Initial tensors by their names in `model`, which `build` made; None: the drawn weights stay.

        Called once when a client starts, not when a model is restored. Tensors that are missing keep their drawn value.

        Raises:
            UserError: there are no such weights, or they do not fit.
        """
        return None

    def adopted(self, tensors: Mapping[str, Tensor], model: Model, whose: str) -> Mapping[str, Tensor]:
        """The tensors of a saved model by their names in `model`; `whose` begins the messages.

        Raises:
            UserError: they are another model's.
        """
        wanted = model.state_dict()
        state = unprefixed(tensors, wanted)
        check_fit(state, wanted, whose)
        return state

    def files(self, client: int) -> tuple[Path, ...]:  # noqa: ARG002
        """The files that the initial weights of a client depend on; what they hold is part of a federation's identity.

        Weights that a name and a checksum determine are no such files.

        Raises:
            UserError: the files cannot be determined.
        """
        return ()


def check_kind(spec: str, architecture: Architecture, shape: Shape) -> None:
    """Raise UserError where an architecture, written `spec`, takes text and the samples are images, or the reverse."""
    given: Kind = "text" if len(shape) == 1 else "images"
    if architecture.takes not in (given, "any"):
        others = {"text": "gpt or gru", "images": "cnn or mlp"}[given]
        raise UserError(f"model {spec} takes {architecture.takes}; for {given} use {others}")

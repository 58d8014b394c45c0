from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fedkd.base.catalogue import STRICT
from fedkd.models.architecture import Architecture, Kind, LanguageModel, Model, Shape


class Recurrent(nn.Module):
    """Tokens as vectors, and gated recurrent layers over them."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.GRU(width, width, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, width) of (n, length) tokens; each chunk begins from nothing."""
        features: Tensor = self.layers(self.tokens(x))[0]
        return features


@dataclass(frozen=True, config=STRICT)
class GRU(Architecture):
    """Recurrent network that predicts the next token: gated recurrent units (Cho et al. 2014, arXiv 1406.1078).

    It takes chunks of any length.
    """

    width: Annotated[int, Gt(0)] = 128
    """width of the features, and of each layer"""
    layers: Annotated[int, Gt(0)] = 1
    """recurrent layers"""

    @property
    def takes(self) -> Kind:
        return "text"

    def build(self, shape: Shape, classes: int) -> Model:
        del shape
        return LanguageModel(Recurrent(classes, self.width, self.layers), self.width, classes)

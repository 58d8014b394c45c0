from __future__ import annotations

import math
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.models.architecture import Architecture, Kind, LanguageModel, Model, Shape


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.asked = nn.Linear(width, 3 * width)
        """queries, keys and values of all heads"""
        self.merged = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, width), each position a mixture of itself and those before it."""
        parts = self.asked(x).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        merged: Tensor = self.merged(mixed.transpose(1, 2).flatten(2))
        return merged


class Block(nn.Module):
    """Attention, then two layers four times as wide, each after a normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.between = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, width)"""
        x = x + self.attention(self.before(x))
        output: Tensor = x + self.narrow(F.gelu(self.wide(self.between(x))))
        return output


class Decoder(nn.Module):
    """Tokens and their positions as vectors, blocks, and a last normalisation."""

    def __init__(self, vocabulary: int, context: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, width) of (n, length) tokens."""
        features: Tensor = self.norm(self.blocks(self.tokens(x) + self.places.weight[: x.shape[1]]))
        return features


@dataclass(frozen=True, config=STRICT)
class GPT(Architecture):
    """Decoder that predicts the next token: attention to what came before, normalised before each layer (GPT-2).

    Radford et al. 2019, "Language models are unsupervised multitask learners": learnt positions; GELU; weights start
    at N(0, 0.02²), those that end a shortcut smaller by √(2·layers). The head has weights of its own, and starts as in
    every other architecture here; there is no dropout. Both are ours.
    """

    layers: Annotated[int, Gt(0)] = 4
    """blocks of attention and two wide layers"""
    width: Annotated[int, Gt(0)] = 128
    """width of the features"""
    heads: Annotated[int, Gt(0)] = 4
    """heads of attention, which share the width"""
    context: Annotated[int, Gt(0)] = 256
    """tokens of the longest chunk that it can take"""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> GPT:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} cannot be shared by heads={self.heads}; take a multiple of heads")
        return self

    @property
    def takes(self) -> Kind:
        return "text"

    def build(self, shape: Shape, classes: int) -> Model:
        (length,) = shape
        if length > self.context:
            raise UserError(
                f"model gpt: chunks have {length} tokens, but context={self.context}; "
                f"write gpt(context={length}), or give the data set a smaller length"
            )
        body = Decoder(classes, self.context, self.width, self.heads, self.layers)
        for name, parameter in body.named_parameters():
            if parameter.dim() > 1:
                ends = name.endswith(("merged.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.layers) if ends else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        return LanguageModel(body, self.width, classes)

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.channels.contract import Channel


@dataclass(frozen=True, config=STRICT)
class Noise(Channel):
    """Gaussian noise on what clients send: how much a method suffers where reports are not exact.

    It is drawn anew for each client and exchange. Nothing is clipped and nothing is accounted for, so it makes no
    promise of privacy.
    """

    sigma: Annotated[float, Ge(0)] = 1.0
    """standard deviation of what is added to each logit, in logits"""
    weights_sigma: Annotated[float, Ge(0)] = 0.0
    """standard deviation of what is added to each weight, where models travel"""

    def predictions(self, logits: Tensor, client: int, rng: torch.Generator) -> Tensor:  # noqa: ARG002
        return logits + self._drawn(logits, self.sigma, rng)

    def weights(self, state: Mapping[str, Tensor], client: int, rng: torch.Generator) -> Mapping[str, Tensor]:  # noqa: ARG002
        return {
            name: value + self._drawn(value, self.weights_sigma, rng) if value.is_floating_point() else value
            for name, value in state.items()
        }

    def _drawn(self, like: Tensor, sigma: float, rng: torch.Generator) -> Tensor:
        return sigma * torch.randn(like.shape, generator=rng, dtype=like.dtype).to(like.device)

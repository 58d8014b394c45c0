"""What lies between a client's report and the wire: noise, clipping, an attack."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

import torch
from torch import Tensor

from fedkd.base.catalogue import Catalogue


class Channel(ABC):  # noqa: B024 - a channel changes what it wants; the rest travels as it is
    """Changes what clients send: a frozen pydantic dataclass whose fields are its parameters.

    It sees tensors before they are encoded, because the `top(K)` of a wire would hide logits in bytes. The client's own
    copy, which its methods go on with, stays as it is.
    """

    def predictions(self, logits: Tensor, client: int, rng: torch.Generator) -> Tensor:  # noqa: ARG002
        """(…, classes) float32 logits that client number `client` sends; `rng` is its stream for this exchange."""
        return logits

    def weights(self, state: Mapping[str, Tensor], client: int, rng: torch.Generator) -> Mapping[str, Tensor]:  # noqa: ARG002
        """The weights and buffers of a model that a client sends, by name."""
        return state


CHANNELS: Catalogue[Channel] = Catalogue("channel", "fedkd.channels", Channel)

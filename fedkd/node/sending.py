"""Logits and weights as a client sends them, after its channel."""

from __future__ import annotations

from torch import Tensor

from fedkd.knowledge.knowledge import to_wire
from fedkd.knowledge.scopes import scoped
from fedkd.knowledge.weights import WEIGHT
from fedkd.node.node import Node


def sent_logits(client: Node, logits: Tensor, wire: str) -> Tensor:
    """(…, classes) logits as a client sends them: changed by its channel, then encoded."""
    if client.channel is not None:
        logits = client.channel.predictions(logits, client.id, client.rng("channel", client.moment.exchange))
    return to_wire(logits, wire)


def sent_model(client: Node) -> dict[str, Tensor]:
    """The weights and buffers of a client's model as it sends them, under the names that they travel by."""
    state = client.student.state_dict()
    if client.channel is not None:
        rng = client.rng("channel", client.moment.exchange)
        return scoped(WEIGHT, client.channel.weights(state, client.id, rng))
    return scoped(WEIGHT, state)

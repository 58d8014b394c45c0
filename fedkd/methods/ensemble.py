from __future__ import annotations

from collections.abc import Mapping

from pydantic.dataclasses import dataclass
from torch import nn

from fedkd.base.catalogue import STRICT
from fedkd.knowledge import weights
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import Method, Refresh
from fedkd.models import restored_model
from fedkd.node.node import Node
from fedkd.node.sending import sent_model


@dataclass(frozen=True, config=STRICT)
class Ensemble(Method):
    """The mean of all clients' probabilities, evaluated at the server: what their knowledge is worth together.

    Each client trains alone, as with local, and uploads its model; the server sends nothing. The accuracy is an upper
    bound for one model that learns from all clients.
    """

    @property
    def refresh(self) -> Refresh:
        return "every round"

    @property
    def has_global_model(self) -> bool:
        return True

    def report(self, client: Node) -> Knowledge | None:
        return Knowledge(sent_model(client))

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        server.models = {
            f"client {client}": restored_model(
                server.specs[client], server.shape, server.classes, weights.unpacked(reports[client])
            )
            for client in sorted(reports)
        }
        return {}

    def global_model(self, server: Node) -> nn.Module | None:
        return weights.Ensemble(list(server.models.values()))

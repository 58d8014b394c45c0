from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.weights import unpacked
from fedkd.methods.fedavg import FedAvg
from fedkd.node.node import Node
from fedkd.settings.alike import check_alike
from fedkd.settings.federation import Federation
from fedkd.training.batch import Batch, Fit


@dataclass(frozen=True, config=STRICT)
class FedProx(FedAvg):
    """Federated averaging whose clients are held near the server's model: CE + µ/2·‖w − w_server‖².

    Li et al. 2020, arXiv 1812.06127. At µ = 0 it is fedavg.
    """

    mu: Annotated[float, Ge(0)] = 0.01
    """µ, strength of the pull towards the server's model"""

    def check(self, federation: Federation, labelled: bool) -> None:  # noqa: ARG002
        check_alike("fedprox", federation, self.force)

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
        client.student.load_state_dict(unpacked(knowledge))
        server = {name: parameter.detach().clone() for name, parameter in client.student.named_parameters()}
        yield Fit(self.loss, labels=self.labels, fixed=server)

    def loss(self, batch: Batch) -> Tensor:
        pulls = [(mine - batch.fixed[name]).square().sum() for name, mine in batch.parameters.items()]
        plain = super().loss(batch)
        return plain + self.mu / 2 * torch.stack(pulls).sum() if pulls else plain

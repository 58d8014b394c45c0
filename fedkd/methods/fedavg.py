from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from pydantic.dataclasses import dataclass
from torch import nn

from fedkd.base.catalogue import STRICT
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.weights import average, packed, unpacked
from fedkd.method import Method, Refresh
from fedkd.models import restored_model
from fedkd.node.node import Node
from fedkd.node.sending import sent_model
from fedkd.settings.alike import check_alike
from fedkd.settings.federation import Federation
from fedkd.training.batch import Fit


@dataclass(frozen=True, config=STRICT)
class FedAvg(Method):
    """Federated averaging: clients train the server's model on their own data, and it becomes their weighted mean.

    McMahan et al. 2017, arXiv 1602.05629. The first model is the mean of the models that the clients start with.
    The server's model is evaluated in every round (client −1); the clients' own rows are those of the model after their
    local steps. Buffers are averaged too.
    """

    force: bool = False
    """average models even if they did not start from common weights"""

    @property
    def refresh(self) -> Refresh:
        return "every round"

    @property
    def has_global_model(self) -> bool:
        return True

    @property
    def begins_with_average(self) -> bool:
        return True

    @property
    def replaces_models(self) -> bool:
        return True

    @property
    def uses_absent(self) -> bool:
        return False  # the mean is of the models that were trained in this round

    def check(self, federation: Federation, labelled: bool) -> None:  # noqa: ARG002
        check_alike("fedavg", federation, self.force)

    def report(self, client: Node) -> Knowledge | None:
        return Knowledge(sent_model(client), samples=torch.tensor(len(client.private)))

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        ids = sorted(reports)
        mean = average([unpacked(reports[i]) for i in ids], [float(reports[i]["samples"]) for i in ids])
        server.models["global"] = restored_model(server.specs[ids[0]], server.shape, server.classes, mean)
        knowledge = Knowledge(packed(server.models["global"]))
        return dict.fromkeys(server.learners, knowledge)

    def global_model(self, server: Node) -> nn.Module | None:
        return server.models["global"]

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
        client.student.load_state_dict(unpacked(knowledge))
        yield from super().plan(client, knowledge)

"""Consolidation: one common model from all clients' models before a method begins. The recipe key is `start`.

    best_client | average | kd(…) | dp_kd(…) | consolidate(method="kd(…)", order="sequential", rounds=1)

Exchange 0 is the usual start. Then come the hand-overs: in each, one client distils and passes the model on. In one
more exchange all clients load the common model, and the method begins. A consolidation takes rounds before those of the
method, with their costs: one round, or N − 1 if the model is handed along N clients. The last exchange belongs to the
last of these rounds. A method such as fedavg begins with the average of the models; for it `average` takes no round and
is the same as "pretrained".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from pydantic import ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.base.problems import first_problem
from fedkd.base.spec import parse
from fedkd.distillation.distilling import Distilling
from fedkd.knowledge.knowledge import Knowledge, collect, over_the_wire, to_wire
from fedkd.knowledge.scopes import scoped, under
from fedkd.knowledge.weights import WEIGHT, average, bundled, unpacked
from fedkd.method import METHODS
from fedkd.models import Model, restored_model
from fedkd.node.moment import in_round
from fedkd.node.node import Node
from fedkd.node.received import predicted
from fedkd.node.sending import sent_logits, sent_model
from fedkd.settings.alike import check_alike
from fedkd.settings.federation import Federation
from fedkd.tensors.evaluate import accuracy, mean_loss
from fedkd.tensors.ties import rank_key

PLAIN = ("pretrained", "random")
"""Starts that consolidate nothing."""
FORMS = 'it should be "pretrained", "random", "best_client", "average", or a method such as "kd(weight=0.5)"'


@dataclass(frozen=True, config=STRICT)
class Consolidate:
    """How the clients' models become one common model."""

    method: str = ""
    """spec string of a method with frozen teachers; empty: no distillation"""
    order: Literal["parallel", "sequential"] = "parallel"
    """parallel: the best client learns from all others at once; sequential: the best client's model is handed along
    the others, from good to bad by validation, and learns from each"""
    rounds: Annotated[int, Gt(0)] = 1
    """rounds' worth of training in each hand-over"""
    mean: bool = False
    """without a method: the mean of all models instead of the best one"""

    def handovers(self, clients: int) -> int:
        """Number of exchanges in which a client distils."""
        if not self.method:
            return 0
        return 1 if self.order == "parallel" else max(clients - 1, 1)

    def check(self, federation: Federation, labelled: bool) -> None:
        """Raise UserError if the clients' models cannot be consolidated; `labelled`: whether transfer labels exist."""
        check_alike(f"start = {federation.start!r}", federation, force=not self.mean)
        if self.method:
            built = METHODS.build(self.method)
            if not isinstance(built, Distilling) or (built.refresh, built.teachers) != ("once", "others"):
                raise UserError(
                    f"start = {federation.start!r}: {self.method} does not teach with all other clients, frozen as "
                    "they are; kd and dp_kd do"
                )
            built.check(replace(federation, method=self.method), labelled)
        if federation.val != "local":
            raise UserError(f'start = {federation.start!r} orders clients by validation; it needs val = "local"')
        if federation.students or federation.teachers:
            raise UserError(f"start = {federation.start!r} is of all clients; leave students and teachers out")

    def report(self, client: Node) -> Knowledge:
        """Report at the start: the client's model, its scores on the client's validation samples, and its logits."""
        assert client.val is not None
        assert client.val.y is not None
        logits = client.predict(client.val.x)
        scores = {"accuracy": accuracy(logits, client.val.y), "loss": mean_loss(logits, client.val.y)}
        report: dict[str, Tensor] = {name: torch.tensor(value, dtype=torch.float64) for name, value in scores.items()}
        if self.mean:
            report["samples"] = torch.tensor(len(client.private))
        if self.order == "parallel" and self.method and not client.exchanges_models:
            report["logits"] = sent_logits(client, client.transfer_logits(), self._distilling.wire)
        return Knowledge(report | sent_model(client))

    def begin(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        """After the start: the knowledge for the first hand-over, by client. The model is stored in `server.state`."""
        ids = sorted(reports)
        ranked = sorted(ids, key=lambda i: rank_key([float(reports[i]["accuracy"])], [float(reports[i]["loss"])]))
        if self.mean:
            shares = [float(reports[i]["samples"]) for i in ids]
            return self._keep(server, average([unpacked(reports[i]) for i in ids], shares))
        best, others = ranked[0], ranked[1:]
        self._keep(server, unpacked(reports[best]))
        if not self.method or not others:
            return {}
        if self.order == "parallel":
            if server.exchanges_models:
                return {best: bundled(reports, sorted(others))}
            method = self._distilling
            merged = method.gathered(server, collect({i: reports[i] for i in others}, server.classes))
            return {best: Knowledge(logits=to_wire(merged, method.wire))}
        server.state["order"] = torch.tensor(others)
        return {others[0]: Knowledge(packed_state(server))}

    def hand_over(self, client: Node, knowledge: Knowledge) -> Knowledge:
        """One hand-over at a client: `knowledge` is a model that the client teaches, or the teachers' predictions."""
        student = client.student
        method = self._distilling
        if handed := unpacked(knowledge):
            teacher = client.transfer_logits()
            # Rounded as if the logits were sent. Where models are sent instead, logits are not rounded.
            read = teacher if client.exchanges_models else over_the_wire(teacher, method.wire)
            knowledge = Knowledge(logits=read.unsqueeze(0))
            client.models["student"] = restored_model(client.specs[client.id], client.shape, client.classes, handed)
            client.student.to(client.device)
        else:
            knowledge = predicted(client, knowledge)
            client.models["student"] = self._copied(client, student)
        state = dict(client.state)
        method.setup(client)
        moment, rounds = client.moment, client.rounds
        client.rounds = self.rounds  # a hand-over is a training of its own
        for round in range(1, self.rounds + 1):
            client.moment = in_round(round)
            method.learn(client, knowledge)
        taught = Knowledge(sent_model(client))
        client.moment, client.rounds = moment, rounds
        client.state.clear()
        client.state.update(state)
        client.models["student"] = student
        return taught

    def proceed(self, server: Node, handover: int, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        """After a hand-over (counted from 1): the knowledge for the next one, by client; empty after the last."""
        for report in reports.values():
            self._keep(server, unpacked(report))
        order = server.state.get("order")
        if order is None or handover >= len(order):
            server.state.pop("order", None)
            return {}
        return {int(order[handover]): Knowledge(packed_state(server))}

    @property
    def _distilling(self) -> Distilling:
        method = METHODS.build(self.method)
        assert isinstance(method, Distilling), "see check"
        return method

    def _keep(self, server: Node, model: Mapping[str, Tensor]) -> dict[int, Knowledge]:
        server.state.update(scoped("start/", model))
        return {}

    def _copied(self, client: Node, model: Model) -> Model:
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return restored_model(client.specs[client.id], client.shape, client.classes, state)


def packed_state(server: Node) -> dict[str, Tensor]:
    """The consolidated model, with the names of a model in messages."""
    return scoped(WEIGHT, under("start/", server.state))


@lru_cache(maxsize=64)
def consolidation(start: str) -> Consolidate | None:
    """The consolidation that the recipe key `start` describes; None if there is none.

    Raises:
        UserError: the value is not a start.
    """
    if start in PLAIN:
        return None
    if start == "best_client":
        return Consolidate()
    if start == "average":
        return Consolidate(mean=True)
    spec = parse(start)
    if spec.name == "consolidate":
        known = {"method", "order", "rounds"}
        if set(spec.arguments) - known or "method" not in spec.arguments:
            raise UserError(f'start = {start!r}: write consolidate(method="kd", order="sequential", rounds=1)')
        try:
            made = Consolidate(**spec.arguments)
        except ValidationError as error:
            raise UserError(f"start = {start!r}: {first_problem(error)}") from error
    elif spec.name in METHODS.names:
        made = Consolidate(method=str(spec))
    else:
        raise UserError(f"start = {start!r} is unknown; {FORMS}")
    METHODS.build(made.method)  # raises UserError for wrong parameters
    return made

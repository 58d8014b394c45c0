"""A method of knowledge distillation: hooks with defaults, of which each method overrides only what it changes.

    teachers → soft predictions → (revise) → (select) → objective → student

One round: the server's `merge` turns the last reports into knowledge, one message brings it to each client, the
client `learn`s, is evaluated beside the method, and sends its `report` back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from fedkd import ensemble
from fedkd.knowledge import Knowledge, to_wire
from fedkd.losses import cross_entropy
from fedkd.node import Node, collect
from fedkd.spec import Catalogue
from fedkd.streams import stream
from fedkd.teachers import choose
from fedkd.train import Batch, Labels, Target, fit
from fedkd.weights import bundled, packed

if TYPE_CHECKING:
    from fedkd.federation import Federation

Refresh = Literal["never", "once", "every round"]
Wire = Literal["float16", "float32"]


class Method:
    """Base of all methods. A method is a frozen pydantic dataclass; its fields are its hyper-parameters."""

    @property
    def refresh(self) -> Refresh:
        """When clients report: never, only at the start (teachers stay frozen), or after every round."""
        return "once"

    @property
    def wire(self) -> Wire:
        """Type in which soft predictions travel."""
        return "float16"

    @property
    def teachers(self) -> str:
        """Who teaches a student: `others`, `self`, `one(ID)`, `k(NUMBER)`."""
        return "others"

    @property
    def labels(self) -> Labels:
        """Which labelled samples the loss reads."""
        return "all"

    @property
    def pools(self) -> bool:
        """Whether client 0 alone takes part, with everybody's data: what training could reach without borders."""
        return False

    @property
    def has_global_model(self) -> bool:
        """Whether the server holds a model that is judged in every round; then clients report after the last too."""
        return False

    @property
    def preparations(self) -> int:
        """Exchanges between the start and round 1, such as a search; charged to round 0."""
        return 0

    def check(self, federation: Federation, labelled: bool) -> None:  # noqa: ARG002 - the signature to override
        """Raise UserError where the method cannot run in such a federation.

        Too few teachers, models that are not alike, or a transfer set without the labels that it needs
        (`labelled` says whether it has them).
        """
        if self.refresh != "never":
            for student in federation.learners:
                choose(self.teachers, student, federation.tutors, stream("check"))

    def setup(self, node: Node) -> None:
        """Once for every client and the server, at the start: a frozen anchor, a second model."""

    def prepare(self, client: Node, knowledge: Knowledge) -> None:
        """A preparation exchange at the client."""

    def report(self, client: Node) -> Knowledge | None:
        """What a client uploads: its logits on the transfer set, or its model where there is none."""
        if client.exchanges_models:
            return Knowledge(packed(client.student))
        return Knowledge(logits=to_wire(client.transfer_logits(), self.wire))

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        """What each student is sent: its teachers' predictions, combined at the server, or its teachers' models."""
        chosen = {
            student: choose(self.teachers, student, server.tutors, server.rng("teachers", student, server.exchange))
            for student in server.learners
        }
        if server.exchanges_models:
            return {student: bundled(reports, teachers) for student, teachers in chosen.items()}
        stack, ids = collect(reports), sorted(reports)
        return {
            student: Knowledge(
                logits=to_wire(self.combine(server, stack[[ids.index(teacher) for teacher in teachers]]), self.wire)
            )
            for student, teachers in chosen.items()
        }

    def global_model(self, server: Node) -> nn.Module | None:  # noqa: ARG002 - methods override it
        """The model that the server holds after `merge`, where it holds one."""
        return None

    def combine(self, node: Node, predictions: Tensor) -> Tensor:  # noqa: ARG002 - some methods ask the node
        """(teachers, n, classes) logits → (n, classes): the unweighted mean of the logits."""
        return ensemble.mean_logits(predictions)

    def target(self, client: Node, predictions: Tensor | None) -> Target | None:
        """What the student shall predict; None: there is nothing to distil."""
        if predictions is None:
            return None
        return Target(self.combine(client, predictions), on="private" if client.exchanges_models else "transfer")

    def loss(self, batch: Batch) -> Tensor:
        """Loss of one step, a scalar."""
        return cross_entropy(batch.labelled, batch.labels)

    def learn(self, client: Node, knowledge: Knowledge) -> None:
        """One round of training at the client."""
        predictions = client.predictions(knowledge) if "logits" in knowledge else None
        fit(client, self.loss, self.target(client, predictions), labels=self.labels)


METHODS: Catalogue[Method] = Catalogue("method", "fedkd.methods", Method)

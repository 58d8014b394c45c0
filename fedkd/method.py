"""A method: hooks with defaults, of which each method overrides only what it changes.

One round: the server's `merge` turns the last reports into knowledge and sends it to each client. The client `learn`s
as its `plan` describes and sends its `report` back. The protocol evaluates the client's model; a method does not. By
default each client learns alone from labels, and nothing is sent. Methods that distil soft predictions derive from
`Distilling`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import Tensor, nn

from fedkd.base.catalogue import Catalogue
from fedkd.knowledge.knowledge import Knowledge
from fedkd.node.moment import Moment, Phase
from fedkd.node.node import Node
from fedkd.settings.federation import Federation
from fedkd.tensors.losses import cross_entropy
from fedkd.training.batch import Batch, Fit, Labels
from fedkd.training.fit import fit

Refresh = Literal["never", "once", "every round"]
Reporters = Literal["nobody", "teachers", "everyone"]
"""The clients that report after an exchange, among those that take part in it."""


class Method:
    """Base of all methods. A method is a frozen pydantic dataclass; its fields are its hyper-parameters."""

    @property
    def refresh(self) -> Refresh:
        """When clients send what they know: never, once at the start (teachers stay frozen), or after every round."""
        return "never"

    @property
    def keeps(self) -> bool:
        """Whether a client stores the knowledge that it receives for all later rounds, because it is sent only once."""
        return self.refresh != "every round"

    @property
    def labels(self) -> Labels:
        """Which labelled samples the loss reads."""
        return "all"

    @property
    def pools(self) -> bool:
        """Whether only client 0 takes part, with the data of all clients: an upper bound for the other methods."""
        return False

    @property
    def has_global_model(self) -> bool:
        """Whether the server has a model, evaluated in every round. If so, clients also report after the last round."""
        return False

    @property
    def begins_with_average(self) -> bool:
        """Whether the first merge averages the clients' first models, weighted by their numbers of samples.

        If so, `start = "average"` changes nothing and takes no round.
        """
        return False

    @property
    def replaces_models(self) -> bool:
        """Whether each round of a client begins with a whole model that it receives: it need not store its own."""
        return False

    @property
    def uses_absent(self) -> bool:
        """Whether the last report of a client is still used in rounds in which the client does not take part."""
        return True

    @property
    def needs_everyone(self) -> str:
        """The reason why all clients must take part in every round, for an error message; empty if they need not."""
        return ""

    @property
    def preparations(self) -> int:
        """Exchanges between the start and round 1, such as a search; charged to round 0."""
        return 0

    @property
    def preparation(self) -> str:
        """Name of the preparations. Results also count their bytes separately under it, such as `encoder_bytes`."""
        return "preparation"

    def check(self, federation: Federation, labelled: bool) -> None:
        """Raise UserError if the method cannot run in this federation.

        Causes are too few teachers, models that differ, or a transfer set without the labels that the method needs.
        `labelled`: whether the transfer set has labels.
        """

    def reports(self, moment: Moment) -> Reporters:
        """Which clients report after an exchange of the method. The schedule skips reports that nobody would read."""
        if moment.phase is Phase.PREPARE:
            return "everyone"
        renewed = moment.begins or self.refresh == "every round"
        return "teachers" if renewed and self.refresh != "never" else "nobody"

    def is_asked(self, client: Node) -> bool:
        """Whether this client is one of the clients that report after the present exchange."""
        who = self.reports(client.moment)
        return who == "everyone" or (who == "teachers" and client.id in client.tutors)

    def setup(self, node: Node) -> None:
        """Prepare a node, once at the start for every client and the server: a frozen anchor, or a second model."""

    def prepare(self, client: Node, knowledge: Knowledge) -> None:
        """Process the knowledge of one preparation exchange at the client."""

    def report(self, client: Node) -> Knowledge | None:  # noqa: ARG002 - methods override it
        """The knowledge that a client uploads after an exchange in which it reports; None: nothing."""
        return None

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:  # noqa: ARG002
        """The knowledge that the server sends to each student, by student id, made from the clients' reports."""
        return {}

    def global_model(self, server: Node) -> nn.Module | None:  # noqa: ARG002 - methods override it
        """The server's model after `merge`; None if it has none."""
        return None

    def loss(self, batch: Batch) -> Tensor:
        """Loss of one step, a scalar."""
        return cross_entropy(batch.labelled, batch.labels)

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:  # noqa: ARG002 - methods override it
        """One round of training at the client, as one `Fit` or several. Each is trained before the next is made."""
        yield Fit(self.loss, labels=self.labels)

    def learn(self, client: Node, knowledge: Knowledge) -> None:
        """One round of training at the client: train every `Fit` of `plan`."""
        for job in self.plan(client, knowledge):
            fit(client, job)


def plan_of(method: Method, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
    """One round of training at the client as a plan; empty where the method trains in a `learn` of its own."""
    if type(method).learn is Method.learn:
        yield from method.plan(client, knowledge)
    else:
        method.learn(client, knowledge)


METHODS: Catalogue[Method] = Catalogue("method", "fedkd.methods", Method)

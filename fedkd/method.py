"""A method: hooks with defaults, of which each method overrides only what it changes.

One round: the server's `merge` turns the last reports into knowledge, one message brings it to each client, the
client `learn`s as its `plan` says, is evaluated beside the method, and sends its `report` back. By default clients
learn from labels, each alone, and nothing travels. What distils soft predictions derives from `Distilling`.
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
"""Which of the clients that take part in an exchange report after it."""


class Method:
    """Base of all methods. A method is a frozen pydantic dataclass; its fields are its hyper-parameters."""

    @property
    def refresh(self) -> Refresh:
        """When what clients know travels: never, only at the start (teachers stay frozen), or after every round."""
        return "never"

    @property
    def keeps(self) -> bool:
        """Whether a client keeps what it was sent for all rounds that follow, because it travels but once."""
        return self.refresh != "every round"

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
        """Whether the server holds a model that is evaluated in every round; then clients report after the last too."""
        return False

    @property
    def begins_with_average(self) -> bool:
        """Whether the first merge makes the mean of the models that clients start with, weighted by their samples.

        `start = "average"` has nothing to add to it then, and takes no round.
        """
        return False

    @property
    def uses_absent(self) -> bool:
        """Whether a client's last report still counts in rounds in which the client takes no part."""
        return True

    @property
    def needs_everyone(self) -> str:
        """Why all clients must take part in every round, as the end of a sentence; empty: they need not."""
        return ""

    @property
    def preparations(self) -> int:
        """Exchanges between the start and round 1, such as a search; charged to round 0."""
        return 0

    @property
    def preparation(self) -> str:
        """What the preparations are, under which name their bytes stand apart too: `encoder_bytes`."""
        return "preparation"

    def check(self, federation: Federation, labelled: bool) -> None:
        """Raise UserError where the method cannot run in such a federation.

        Too few teachers, models that are not alike, or a transfer set without the labels that it needs
        (`labelled` says whether it has them).
        """

    def reports(self, moment: Moment) -> Reporters:
        """Who of those that take part in an exchange of the method reports after it, if anybody is to read it."""
        if moment.phase is Phase.PREPARE:
            return "everyone"
        renewed = moment.begins or self.refresh == "every round"
        return "teachers" if renewed and self.refresh != "never" else "nobody"

    def is_asked(self, client: Node) -> bool:
        """Whether this client is among those who report."""
        who = self.reports(client.moment)
        return who == "everyone" or (who == "teachers" and client.id in client.tutors)

    def setup(self, node: Node) -> None:
        """Once for every client and the server, at the start: a frozen anchor, a second model."""

    def prepare(self, client: Node, knowledge: Knowledge) -> None:
        """A preparation exchange at the client."""

    def report(self, client: Node) -> Knowledge | None:  # noqa: ARG002 - methods override it
        """What a client uploads after an exchange in which it `reports`; None: nothing."""
        return None

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:  # noqa: ARG002
        """What each student is sent, by its id, of what clients have reported."""
        return {}

    def global_model(self, server: Node) -> nn.Module | None:  # noqa: ARG002 - methods override it
        """The model that the server holds after `merge`, where it holds one."""
        return None

    def loss(self, batch: Batch) -> Tensor:
        """Loss of one step, a scalar."""
        return cross_entropy(batch.labelled, batch.labels)

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:  # noqa: ARG002 - methods override it
        """One round of training at the client, as one `Fit` or several: code between two sees the trained student."""
        yield Fit(self.loss, labels=self.labels)

    def learn(self, client: Node, knowledge: Knowledge) -> None:
        """One round of training at the client: all that is planned."""
        for job in self.plan(client, knowledge):
            fit(client, job)


METHODS: Catalogue[Method] = Catalogue("method", "fedkd.methods", Method)

"""Sources of soft predictions: other clients, or the student's own earlier predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from fedkd.distillation.teachers import choose
from fedkd.knowledge.knowledge import Knowledge, collect, over_the_wire, to_wire
from fedkd.knowledge.weights import bundled
from fedkd.node.node import Node
from fedkd.node.sending import sent_logits, sent_model


class Source(ABC):
    """A source of the teachers' predictions: what clients report for it, and how a student reads it."""

    @property
    @abstractmethod
    def who(self) -> Literal["teachers", "everyone"]:
        """Who reports."""

    @abstractmethod
    def report(self, client: Node) -> Knowledge | None:
        """The report that a client sends; None if it only stores its predictions."""

    @abstractmethod
    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        """The knowledge that the server sends to each student, by its id."""

    @abstractmethod
    def predictions(self, client: Node, knowledge: Knowledge) -> Tensor | None:
        """(teachers, n, classes) logits at a student; None: it has received none."""


class Peers(Source):
    """Predictions of the chosen clients, from their logits on the transfer set or from their models."""

    def __init__(self, teachers: str, wire: str, gather: Callable[[Node, Tensor], Tensor]) -> None:
        """`gather` turns (teachers, n, classes) logits into those that a student is sent: all, or (n, classes)."""
        self._teachers, self._wire, self._gather = teachers, wire, gather

    @property
    def who(self) -> Literal["teachers", "everyone"]:
        return "everyone" if self._teachers == "self" else "teachers"

    def report(self, client: Node) -> Knowledge:
        if client.exchanges_models:
            return Knowledge(sent_model(client))
        return Knowledge(logits=sent_logits(client, client.transfer_logits(), self._wire))

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        chosen = {
            student: choose(
                self._teachers, student, server.tutors, server.rng("teachers", student, server.moment.since)
            )
            for student in server.learners
        }
        if server.exchanges_models:
            return {student: bundled(reports, teachers) for student, teachers in chosen.items()}
        stack, merged = collect(reports, server.classes), {}
        at = {client: position for position, client in enumerate(sorted(reports))}
        # One buffer for all students, in which most teachers stay: with many clients, to copy all of them for each
        # student takes longer than the means.
        buffer, held = stack[:0], list[int]()
        for student, teachers in chosen.items():
            rows = [at[teacher] for teacher in teachers]
            if len(rows) == len(held):
                changed = [n for n, (row, before) in enumerate(zip(rows, held, strict=True)) if row != before]
                buffer[changed] = stack[[rows[n] for n in changed]]
            else:
                buffer = stack[rows]
            held = rows
            merged[student] = Knowledge(logits=to_wire(self._gather(server, buffer), self._wire))
        return merged

    def predictions(self, client: Node, knowledge: Knowledge) -> Tensor | None:
        if "logits" not in knowledge:
            return None
        # Logits that the server has combined have no teacher axis.
        client.combined = knowledge["logits"].dim() == 2
        return client.predictions(knowledge)


class OwnPast(Source):
    """The student's own predictions of its last report. Nothing is sent."""

    def __init__(self, wire: str) -> None:
        self._wire = wire

    @property
    def who(self) -> Literal["teachers", "everyone"]:
        return "everyone"

    def report(self, client: Node) -> None:
        # Rounded as if it were sent, so that the client is a teacher like any other.
        logits = client.transfer_logits()
        client.state[_PAST] = logits if client.exchanges_models else over_the_wire(logits, self._wire)

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:  # noqa: ARG002
        return dict.fromkeys(server.learners, Knowledge())

    def predictions(self, client: Node, knowledge: Knowledge) -> Tensor:  # noqa: ARG002 - asked of every source
        return client.state[_PAST].unsqueeze(0)


_PAST = "own"

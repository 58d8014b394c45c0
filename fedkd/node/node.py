"""A client or the server as a method sees it: data, models and state, but no test data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedkd.base.streams import stream
from fedkd.channels.contract import Channel
from fedkd.knowledge.knowledge import decode_predictions
from fedkd.models.architecture import Model, Shape
from fedkd.node.moment import AT_START, Moment, in_round
from fedkd.settings.training import Training
from fedkd.tensors.compute import CPU as CPU
from fedkd.tensors.compute import Compute
from fedkd.tensors.samples import Data

SERVER = -1
"""Id of the server among the nodes, and of the whole federation in results."""


@dataclass(eq=False)
class Node:
    """One participant as a method sees it. Evaluation on test data happens beside it, never in it."""

    id: int
    """client id from 0, or SERVER"""
    clients: int
    """number of clients in the federation"""
    seed: int
    training: Training
    classes: int
    data: Data | None = None
    """private training samples; None at the server"""
    val: Data | None = None
    """local validation samples"""
    transfer: Data | None = None
    """the public transfer set; its `y` is None unless the study labels it for every method"""
    device: torch.device = CPU
    """where models and samples live"""
    students: tuple[int, ...] = ()
    """ids of the clients that learn; empty: all"""
    teachers: tuple[int, ...] = ()
    """ids of the clients that may teach; empty: all"""
    specs: tuple[str, ...] = ()
    """spec string of each client's model"""
    shape: Shape = (0, 0, 0)
    """(channels, height, width) of an image, or (length,) of a chunk of text"""
    channel: Channel | None = None
    """what changes the client's reports before they travel; None: nothing"""
    moment: Moment = AT_START
    """the exchange that the node is in"""
    rounds: int = 0
    """rounds of the whole federation: how far a learning-rate schedule goes; 0: as far as each training"""
    models: dict[str, Model] = field(default_factory=dict)
    """the node's networks; a client's own is "student" """
    state: dict[str, Tensor] = field(default_factory=dict)
    """a method's own tensors; they survive from round to round"""
    steps: int = 0
    """optimiser steps taken in this exchange"""
    samples: int = 0
    """examples back-propagated in this exchange"""
    records: dict[tuple[str, str], float] = field(default_factory=dict)
    """further results of this exchange, by (split, metric)"""
    combined: bool = False
    """whether the soft predictions that were sent are already one, because the server has combined them"""
    _remembered: _Remembered | None = None

    @property
    def round(self) -> int:
        """Round of the method, from 1; 0 before the first. Set, it makes the node act as in that round."""
        return self.moment.round

    @round.setter
    def round(self, number: int) -> None:
        self.moment = in_round(number)

    @property
    def learners(self) -> tuple[int, ...]:
        """Ids of the clients that learn, ascending."""
        return self.students or tuple(range(self.clients))

    @property
    def tutors(self) -> tuple[int, ...]:
        """Ids of the clients that may teach, ascending."""
        return self.teachers or tuple(range(self.clients))

    @property
    def peers(self) -> tuple[int, ...]:
        """Ids of the other clients that may teach this one, ascending."""
        return tuple(client for client in self.tutors if client != self.id)

    @property
    def peer_count(self) -> int:
        """Number of the other clients that may teach this one."""
        return len(self.peers)

    @property
    def student(self) -> Model:
        """The client's own model."""
        return self.models["student"]

    @property
    def compute(self) -> Compute:
        """How the node's networks are called."""
        return Compute(self.device, self.training.precision, self.training.compile)

    @property
    def exchanges_models(self) -> bool:
        """Whether there is no transfer set: models travel, and students distil on their own samples."""
        return self.transfer is None

    @property
    def distilled(self) -> Data:
        """The samples that a student distils on: the transfer set, or its own where there is none."""
        return self.private if self.transfer is None else self.transfer

    @property
    def private(self) -> Data:
        """The client's training samples, with labels."""
        assert self.data is not None, "the server holds no private data"
        return self.data

    @property
    def public(self) -> Data:
        """The transfer set."""
        assert self.transfer is not None, "this federation has no transfer set"
        return self.transfer

    def rng(self, purpose: str, *further: int) -> torch.Generator:
        """The random stream of this node for one purpose (and, say, one round)."""
        return stream(self.seed, purpose, self.id, *further)

    def record(self, metric: str, value: float, split: str = "") -> None:
        """Report one number of this exchange in the results."""
        self.records[split, metric] = float(value)

    def predict(self, x: Tensor, model: Model | None = None) -> Tensor:
        """(rows, classes) logits of the student, or another model, in evaluation mode, without gradients."""
        return self.compute.predicted(model or self.student, [x])

    def transfer_logits(self) -> Tensor:
        """(rows, classes) logits of the student on `distilled`; computed again only after its weights have changed."""
        known = self._remembered
        if known is None or not known.holds(self.student, self.distilled):
            known = self._remembered = _Remembered.of(self, self.predict(self.distilled.x))
        return known.logits

    def remember_transfer_logits(self, logits: Tensor) -> None:
        """Keep logits that evaluation has just computed, for as long as the student does not change."""
        self._remembered = _Remembered.of(self, logits)

    def predictions(self, knowledge: Mapping[str, Tensor]) -> Tensor:
        """(teachers, n, classes) logits decoded from knowledge.

        Raises:
            KeyError: the knowledge holds no soft predictions.
        """
        return decode_predictions(knowledge["logits"], self.classes).to(self.device)


@dataclass(frozen=True, eq=False)
class _Remembered:
    """Logits, with the weights and samples that they were computed from."""

    logits: Tensor
    samples: Data
    weights: tuple[tuple[Tensor, int], ...]
    """the tensors themselves, and how often each had been changed in place"""

    @classmethod
    def of(cls, node: Node, logits: Tensor) -> _Remembered:
        return cls(logits, node.distilled, _weights(node.student))

    def holds(self, model: nn.Module, samples: Data) -> bool:
        """Whether samples and weights are unchanged; torch counts the changes of every tensor."""
        now = _weights(model)
        same = len(now) == len(self.weights) and all(
            mine is its and before == after for (mine, before), (its, after) in zip(self.weights, now, strict=True)
        )
        return same and samples is self.samples


def _weights(model: nn.Module) -> tuple[tuple[Tensor, int], ...]:
    return tuple((tensor, tensor._version) for tensor in (*model.parameters(), *model.buffers()))

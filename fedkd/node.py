"""What a client or the server holds and may touch: no test data, by construction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor, nn

from fedkd.knowledge import Knowledge, from_wire
from fedkd.models.architecture import Model, Shape
from fedkd.spec import STRICT
from fedkd.streams import stream

CPU = torch.device("cpu")
SERVER = -1
"""Id of the server among the nodes, and of the whole federation in results."""


@dataclass(frozen=True, eq=False)
class Data:
    """Samples of one split, in memory."""

    x: Tensor
    """(n, channels, height, width) float32 in [0, 1], or (n, length) int64 tokens"""
    y: Tensor | None
    """(rows,) int64: what is right in each row of predictions, or None where no method may know it. An image has one
    row, its class; a chunk of text has `length` rows, the token after each of its tokens"""

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Data:
        """The same samples on a device; itself where they are there already."""
        return Data(self.x.to(device), None if self.y is None else self.y.to(device))


def rows_a_sample(x: Tensor) -> int:
    """How many rows of predictions a model gives for each sample in x: one for an image, one a token for text."""
    return 1 if x.is_floating_point() else x.shape[1]


def rows_of(values: Tensor, index: Tensor, samples: int) -> Tensor:
    """The rows of the samples at (b,) `index`, sample by sample, out of the rows of all `samples`.

    `values` are (samples·r, …), r rows a sample: logits, labels or weights; the result is (b·r, …).
    """
    if len(values) == samples:
        return values[index]
    return values.reshape(samples, -1, *values.shape[1:])[index].flatten(0, 1)


def predicted(model: nn.Module, pieces: Iterable[Tensor], rows: int) -> Tensor:
    """(rows, classes) logits of a model for samples in pieces, in evaluation mode, without gradients."""
    model.eval()
    logits, at = torch.empty(0), 0
    for piece in pieces:
        with torch.inference_mode():
            part = model(piece).flatten(0, -2)
        # Each piece is put where it belongs at once: those of a whole text, in a list first, would be there twice.
        if not at:
            logits = torch.empty(rows, part.shape[1], dtype=part.dtype, device=part.device)
        logits[at : at + len(part)] = part
        at += len(part)
    return logits


@checked_dataclass(frozen=True, config=STRICT)
class Optimisation:
    """How steps are taken."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """optimiser; its state starts afresh each round"""
    lr: Annotated[float, Gt(0)] = 0.05
    """learning rate, constant"""
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """momentum of sgd"""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """weight decay"""
    batch_size: Annotated[int, Gt(0)] = 32
    """samples a step, of each kind: private and transfer batches have the same size"""
    augment: str = ""
    """random changes of labelled private images, such as "crop(padding=4)+flip"; empty: none. What is distilled is
    never changed, because its soft predictions were made for the images as they are"""


@checked_dataclass(frozen=True, config=STRICT)
class Training(Optimisation):
    """How models are trained in a round: the `[train]` table, equal for every method of a study."""

    epochs: Annotated[int, Gt(0)] = 1
    """local epochs a round, of ⌈private samples / batch_size⌉ steps each"""
    steps: Annotated[int, Ge(0)] = 0
    """optimiser steps a round; 0 counts in epochs"""

    def steps_a_round(self, samples: int) -> int:
        """Optimiser steps in one round of a client with this many private samples."""
        return self.steps or self.epochs * math.ceil(samples / self.batch_size)


@checked_dataclass(frozen=True, config=STRICT)
class Pretraining(Optimisation):
    """How each client's model is trained on its own shard before the federation begins: the `[pretrain]` table."""

    epochs: Literal["auto", "converged", "early_stopping"] | Annotated[int, Ge(0)] = "auto"
    """a number; "converged": until the training loss has not fallen by 1 % over `patience` epochs;
    "early_stopping": until the validation loss has not fallen over `patience` epochs, then back to its lowest;
    both at most 300. "auto": 0 for a model that brings weights (a checkpoint, published weights), "converged" for any
    other"""
    patience: Annotated[int, Gt(0)] = 10
    """epochs to wait for a fall"""
    target: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """validation accuracy at which training ends at once, however many epochs are left; 0: no such end"""

    def settled(self, brings_weights: bool) -> Pretraining:
        """The same settings with "auto" decided, for a model that brings weights or for one that does not."""
        return self if self.epochs != "auto" else replace(self, epochs=0 if brings_weights else "converged")


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
    round: int = 0
    """0 is the start"""
    exchange: int = 0
    """messages since the start: counts a method's preparations too"""
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
    _transfer_logits: Tensor | None = None

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
    def student(self) -> Model:
        """The client's own model."""
        return self.models["student"]

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

    def predict(self, x: Tensor, model: Model | None = None, chunk: int = 4096) -> Tensor:
        """(rows, classes) logits of the student, or another model, in evaluation mode, without gradients.

        At most `chunk` rows are computed at once.
        """
        each = rows_a_sample(x)
        return predicted(model or self.student, torch.split(x, max(1, chunk // each)), len(x) * each)

    def transfer_logits(self) -> Tensor:
        """(rows, classes) logits of the student on what is distilled, computed once between two trainings."""
        if self._transfer_logits is None:
            self._transfer_logits = self.predict(self.distilled.x)
        return self._transfer_logits

    def remember_transfer_logits(self, logits: Tensor | None) -> None:
        """Keep logits that evaluation has just computed; None forgets them because the student has changed."""
        self._transfer_logits = logits

    def predictions(self, knowledge: Mapping[str, Tensor]) -> Tensor:
        """(teachers, n, classes) logits that some knowledge stands for.

        Raises:
            KeyError: the knowledge holds no soft predictions.
        """
        return decode_predictions(knowledge["logits"], self.classes).to(self.device)


def decode_predictions(logits: Tensor, classes: int) -> Tensor:
    """(teachers, n, classes) float32 from (n, classes) or (teachers, n, classes) as they travelled."""
    return from_wire(logits if logits.dim() == 3 else logits.unsqueeze(0), classes)


def collect(reports: Mapping[int, Knowledge], classes: int) -> Tensor:
    """(clients, n, classes) logits of all reports, in the order of client ids."""
    return torch.stack([from_wire(reports[client]["logits"], classes) for client in sorted(reports)])

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.distillation.distilling import Distilling
from fedkd.distillation.selection import Ranked
from fedkd.distillation.teachers import peers_in
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import numbered, scoped
from fedkd.method import Refresh
from fedkd.node.node import Node
from fedkd.node.sending import sent_logits
from fedkd.settings.federation import Federation
from fedkd.tensors import ensemble
from fedkd.tensors.losses import cross_entropy, kl
from fedkd.tensors.samples import Data, rows_of
from fedkd.training.batch import Batch, Fit


@dataclass(frozen=True, config=STRICT)
class DML(Distilling):
    """Deep mutual learning: all clients learn from each other at once, CE + mean of KL(peer ‖ own) over the peers.

    Zhang et al. 2018, arXiv 1706.00384: their equation for K models has the mean over the K − 1 peers, their code the
    sum. The gradient of the mean of KL(p_j ‖ p_i) over the peers is that of KL to the mean of their probabilities, so
    one matrix travels to each client. It follows that dml takes exactly the steps of
    `kd(temperature=1.0, weight=0.5, merge_by="probabilities", refresh="every round")` at twice its learning rate where
    a step is proportional to the gradient of the loss: with SGD, with or without momentum, and no weight decay. Decay
    is no part of the loss that is halved, and Adam divides by the size of the gradient: with either they differ.

    Their algorithm exchanges predictions at every batch and updates the models one after the other on that batch:
    `dml(order="alternating", sync="step")`. To exchange once a round, and to let all learn at once, are ours; so is
    that predictions are made in evaluation mode.
    """

    reduce: Literal["mean", "sum"] = "mean"
    """over the peers: mean, or sum as in the authors' code, which weighs peers more the more there are"""
    order: Literal["simultaneous", "alternating"] = "simultaneous"
    """who learns in a round: all, or one client after the other; the rest take no step and send nothing new,
    so each takes one N-th of the steps that it takes under other methods"""
    sync: Literal["round", "step"] = "round"
    """how often predictions travel: once a round, or at every step, on one common batch (needs [train] steps = 1)"""

    @property
    def refresh(self) -> Refresh:
        return "every round"

    @property
    def needs_everyone(self) -> str:
        if self.sync == "step":
            return "all exchange predictions on a common batch at every step"
        return "one client after the other learns" if self.order == "alternating" else ""

    def check(self, federation: Federation, labelled: bool) -> None:
        super().check(federation, labelled)
        if peers_in(self.teachers) != "others":
            raise UserError(
                f'method dml: teachers = "{self.teachers}", but all learn from all others, or with autoencoder'
            )
        if self.class_teacher and (self.order, self.sync) != ("simultaneous", "round"):
            raise UserError(
                'method dml: an autoencoder among the teachers needs order = "simultaneous" and sync = "round"'
            )
        together = (self.order, self.sync) == ("simultaneous", "round")
        if isinstance(self.selection, Ranked) and self.selection.every > 1 and not together:
            raise UserError(
                f"method dml: select = {self.select!r} would hold for rounds in which a client does not learn, or "
                "learns on another batch; use every=1"
            )
        if self.sync == "step" and federation.train.steps != 1:
            steps = federation.train.steps or f"0 (and epochs = {federation.train.epochs})"
            raise UserError(
                f'method dml: sync = "step" makes a round of every step, but [train] has steps = {steps}; '
                "use steps = 1, and as many rounds as steps are wanted"
            )

    def report(self, client: Node) -> Knowledge | None:
        if not self._has_news(client):
            return None
        if self.sync == "round" or client.exchanges_models:
            return super().report(client)
        logits = sent_logits(client, client.transfer_logits(), self.wire)
        if client.id not in client.learners:
            return Knowledge(everywhere=logits)  # it reports once, before the common batches are known
        return Knowledge(logits=rows_of(logits, self.common_batch(client, client.round + 1), len(client.public)))

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        if self.order == "alternating":
            reports = _latest(server, reports)
        if self.sync == "step" and not server.exchanges_models:
            index, n = self.common_batch(server, server.round + 1), len(server.public)
            reports = {
                client: Knowledge(logits=rows_of(bag["everywhere"], index, n)) if "everywhere" in bag else bag
                for client, bag in reports.items()
            }
        students = tuple(student for student in server.learners if self._learns(server, student, server.round + 1))
        return super().merge(replace(server, students=students), reports)

    def combine(self, node: Node, predictions: Tensor) -> Tensor:  # noqa: ARG002
        return ensemble.mean_probabilities(predictions)

    def rounded(self, logits: Tensor) -> Tensor:
        return ensemble.mean_probabilities(logits.unsqueeze(0))  # rounded probabilities do not sum to 1 any more

    def loss(self, batch: Batch) -> Tensor:
        assert batch.student is not None
        assert batch.teacher is not None
        peers = 1 if self.reduce == "mean" else batch.node.peer_count + bool(self.class_teacher)
        return cross_entropy(batch.labelled, batch.labels) + peers * kl(
            batch.student, batch.teacher, weights=batch.weights
        )

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
        if self._learns(client, client.id, client.round):
            yield from super().plan(client, knowledge)

    def distilled(self, client: Node) -> Data:
        whole = client.distilled
        if self.sync == "round" or client.exchanges_models:
            return whole
        index = self.common_batch(client, client.round)
        return Data(whole.x[index], None if whole.y is None else rows_of(whole.y, index, len(whole)))

    def common_batch(self, node: Node, round: int) -> Tensor:
        """(batch,) indices of the transfer samples on which all exchange predictions for a round's step.

        They run through reshuffled passes over the transfer set, drawn from the seed and the round alone. In the
        alternating order one batch serves until everybody has learnt from it.
        """
        number = (round - 1) // (len(node.learners) if self.order == "alternating" else 1)
        n = len(node.public)
        size = min(node.training.batch_size, n)
        start, stop = number * size, (number + 1) * size
        passes = range(start // n, -(-stop // n))
        order = [torch.randperm(n, generator=stream(node.seed, "dml/transfer", part)) for part in passes]
        return torch.cat(order)[start % n :][:size].to(node.device)

    def _learns(self, node: Node, client: int, round: int) -> bool:
        """Whether a client trains in a round: all clients do, or in the alternating order only the one in turn."""
        return self.order == "simultaneous" or node.learners.index(client) == round % len(node.learners)

    def _has_news(self, client: Node) -> bool:
        """Whether a client's report would be new to the server: it has trained, or the common batch has changed."""
        if client.round == 0 or self._learns(client, client.id, client.round):
            return True
        return self.sync == "step" and not client.exchanges_models and client.round % len(client.learners) == 0


def _latest(server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
    """Latest report of every client; clients that did not train since have reported nothing newer."""
    for client, bag in reports.items():
        server.state.update(scoped(f"latest/{client}/", bag))
    return {client: Knowledge(bag) for client, bag in numbered("latest/", server.state).items()}

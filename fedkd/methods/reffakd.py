from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.distillation import autoencoder
from fedkd.distillation.class_teacher import SOFT_LABELS, ClassTeacher, book
from fedkd.distillation.similarity import pair_counts, pair_sums
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import Method, Refresh, Reporters
from fedkd.node.moment import Moment
from fedkd.node.node import Node
from fedkd.settings.federation import Federation
from fedkd.tensors.losses import Temperature, cross_entropy, kl
from fedkd.training.batch import Batch, Fit


@dataclass(frozen=True, config=STRICT)
class ReffAKD(Method):
    """Soft labels without a teacher, by how alike an autoencoder finds classes: (1 − α)·CE + α·T²·KL(q ‖ student).

    Doshi & Kim, arXiv 2404.09886. q_y, the soft label of class y, is the softmax of row y of a matrix of similarities;
    it is not softened by T. It needs the label, so it acts on labelled samples only. q is nearly uniform; its control
    is `label_smoothing` with the same α and T, which has the same defaults (ours).

    The federated form is ours. Before round 1, the server trains one autoencoder on the transfer inputs and sends its
    encoder. Clients send sums and counts of the embeddings of each class, so the similarities do not depend on which
    client has which sample. The server sends q once. With `encoder="local"` each client trains an autoencoder on its
    private images and sends its similarities. Costs are recorded separately from those of the rounds, as
    `encoder_steps` and `encoder_samples`, with the reconstruction error as `encoder_loss`. The server records `boost`,
    and with at most 20 classes each `similarity/A/B`, A ≤ B, before the boost.
    """

    alpha: Annotated[float, Interval(ge=0, le=1)] = 0.1
    """α, share of the soft label; the rest is the true one"""
    temperature: Temperature = 1.0
    """T, softens the student's prediction where it is compared with the soft label"""
    boost: Annotated[float, Ge(0)] | None = None
    """added to each class's similarity to itself; the paper: 0.0225 for CIFAR-100 and Tiny ImageNet, 0.008 for
    Fashion-MNIST; None: as little as makes it the largest of its row (ours)"""
    tau: Temperature = 1.0
    """τ, divides similarities before the softmax; 1 is the paper's"""
    samples: Annotated[int, Ge(0)] = 40
    """most samples of a class that a client embeds; 0: all. 40 is the paper's, where one party has all data"""
    encoder: Literal["shared", "local"] = "shared"
    """shared: one, trained at the server on the transfer inputs; local: each client's own, trained on its images"""
    epochs: Annotated[int, Gt(0)] = 50
    """epochs of the autoencoder's training (ours)"""

    @property
    def refresh(self) -> Refresh:
        return "once"

    @property
    def preparations(self) -> int:
        return int(self.encoder == "shared")

    @property
    def preparation(self) -> str:
        return "encoder"

    def check(self, federation: Federation, labelled: bool) -> None:  # noqa: ARG002
        if self.encoder == "shared" and federation.transfer == "private":
            raise UserError(
                'method reffakd: encoder = "shared" is trained on the transfer inputs, but transfer = "private" has '
                'none; use transfer = "public(fraction=…)" or encoder = "local"'
            )

    def setup(self, node: Node) -> None:
        if len(node.shape) != 3:
            raise UserError("method reffakd embeds images, but the samples are text; use kd or label_smoothing")

    @cached_property
    def _classes(self) -> ClassTeacher:
        return ClassTeacher(self.samples, self.boost, self.tau, self.epochs)

    def reports(self, moment: Moment) -> Reporters:
        # Every client that learns reports its class sums once, even if it is no teacher.
        return "everyone" if moment.since == self.preparations else "nobody"

    def report(self, client: Node) -> Knowledge | None:
        if client.id not in client.learners or not self.is_asked(client):
            return None
        if self.encoder == "shared":
            return Knowledge(self._classes.report(client))
        trained = autoencoder.train_once(client.private.x, self.epochs, client.rng("autoencoder"))
        book(client, trained)
        sums, counts = self._classes.sums(client, trained.network.encoder)
        return Knowledge(pair_sums=pair_sums(sums, counts).float(), counts=counts)

    def prepare(self, client: Node, knowledge: Knowledge) -> None:
        self._classes.embed(client, knowledge)

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        if server.moment.since < self.preparations:
            return dict.fromkeys(server.learners, Knowledge(self._classes.offer(server)))
        if self.encoder == "shared":
            q = self._classes.taught(server, reports)
        else:
            in_order = [reports[client] for client in sorted(reports)]
            sums = torch.stack([each["pair_sums"] for each in in_order]).double().sum(0)
            pairs = torch.stack([pair_counts(each["counts"]) for each in in_order]).sum(0)
            q = self._classes.soft_labels(server, sums, pairs)
        return dict.fromkeys(server.learners, Knowledge({SOFT_LABELS: q}))

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
        client.state[SOFT_LABELS] = knowledge[SOFT_LABELS].to(client.device)
        yield Fit(self.loss, labels=self.labels, fixed={SOFT_LABELS: client.state[SOFT_LABELS]})

    def loss(self, batch: Batch) -> Tensor:
        # `kl` divides the teacher's logits by T, but q must not be softened.
        teacher = batch.fixed[SOFT_LABELS][batch.labels] * self.temperature
        soft = kl(batch.labelled, teacher, self.temperature)
        return (1 - self.alpha) * cross_entropy(batch.labelled, batch.labels) + self.alpha * soft

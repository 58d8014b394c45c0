from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.distillation.distilling import Distilling
from fedkd.distillation.selection import Ranked
from fedkd.distillation.teachers import choose
from fedkd.knowledge.knowledge import Knowledge, over_the_wire
from fedkd.knowledge.weights import average, bundled
from fedkd.node.node import Node
from fedkd.settings.federation import Federation
from fedkd.tensors.ensemble import confidence, most_confident
from fedkd.tensors.evaluate import accuracy
from fedkd.tensors.losses import Temperature, kl
from fedkd.tensors.ties import mean_share
from fedkd.training.batch import Batch, Fit, Labels, Target


@dataclass(frozen=True, config=STRICT)
class DPKD(Distilling):
    """Data-partitioning KD: learn from the teacher where it is better, and from one's own frozen past elsewhere.

    Roth et al. 2023, "Fantastic Gains and Where to Find Them" (KL-Dist with data partitioning), arXiv 2310.17653: no
    cross-entropy, T = 1, ties go to the student. Their controls: KL-Dist, all from the teacher, is `kd(weight=1.0)`;
    XE-KL is `kd(weight=0.5)`; all from oneself is `kd(weight=1.0, teachers="self")`.

    Their three forms for several teachers are here. Parallel: each sample is learnt from the best of all teachers and
    the student itself. Sequential: the student learns from one teacher after the other within a round, and its frozen
    past is renewed between them. Soup: one student for each teacher, all from the start of the round; their weights and
    buffers are then averaged.

    How a round is divided is ours: all teachers get equal shares of its steps. The remaining steps go to some of them
    in turn, continued from round to round. With fewer steps than teachers, those without a step wait for a later round
    and are no part of the soup.
    """

    mask: Literal["unsupervised", "supervised"] = "unsupervised"
    """where a teacher is better: higher max p, or higher p of the true label (needs a labelled transfer set)"""
    form: Literal["parallel", "sequential", "soup"] = "parallel"
    """several teachers: the best one for each sample, one after the other, or the mean of a student of each"""
    order: Literal["desc", "asc"] = "desc"
    """sequential: teachers from the best to the worst on their own validation samples, or from the worst to the best"""
    temperature: Temperature = 1.0
    """T, softens both predictions"""

    @property
    def labels(self) -> Labels:
        return "all" if self.select else "none"

    def check(self, federation: Federation, labelled: bool) -> None:
        super().check(federation, labelled)
        if self.mask == "supervised" and not labelled:
            raise UserError(
                'method dp_kd: mask = "supervised" compares predictions of the true label, but the transfer set is '
                'unlabelled; use mask="unsupervised", or transfer = "public(fraction=…, labelled=true)" for all methods'
            )
        if self.class_teacher and self.form != "parallel":
            raise UserError(
                f'method dp_kd: form = "{self.form}" has teachers in turn, which an autoencoder is none of; '
                'use form="parallel", or leave it out of teachers'
            )
        if self.revision and self.revision.per_teacher:
            raise UserError(
                f"method dp_kd: revise = {self.revise!r} would hide from the mask what each teacher says; "
                "leave per_teacher at false"
            )
        if isinstance(self.selection, Ranked) and self.selection.every > 1 and self.form != "parallel":
            raise UserError(
                f"method dp_kd: select = {self.select!r} would hold for several rounds what was selected for one "
                f'teacher, but form = "{self.form}" has several in turn; use every=1'
            )
        if self.form == "sequential" and federation.val != "local":
            raise UserError(
                'method dp_kd: form = "sequential" orders teachers by accuracy on their own validation samples, which '
                f'val = "{federation.val}" leaves them without; use val = "local"'
            )

    def setup(self, node: Node) -> None:
        if node.data is not None:
            node.state["anchor"] = self._student_logits(node)

    def report(self, client: Node) -> Knowledge | None:
        report = super().report(client)
        return Knowledge(report, score=_score(client)) if report and self.form == "sequential" else report

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        if self.form == "parallel":
            return super().merge(server, reports)
        scores = {client: mean_share([float(bag.get("score", torch.tensor(0.0)))]) for client, bag in reports.items()}
        known = {
            client: Knowledge({name: value for name, value in bag.items() if name != "score"})
            for client, bag in reports.items()
        }
        sign = -1 if self.order == "desc" else 1
        merged = {}
        for student in server.learners:
            rng = server.rng("teachers", student, server.moment.since)
            teachers = choose(self.teachers, student, server.tutors, rng)
            teachers.sort(key=lambda teacher: (sign * scores[teacher], teacher))
            if server.exchanges_models:
                merged[student] = bundled(known, teachers)
            else:
                merged[student] = Knowledge(logits=torch.stack([known[teacher]["logits"] for teacher in teachers]))
        return merged

    def combine(self, node: Node, predictions: Tensor) -> Tensor:
        return most_confident(predictions, self._labels(node))

    def target(self, client: Node, predictions: Tensor | None) -> Target | None:
        assert predictions is not None
        teacher, anchor = self.combined(client, predictions), client.state["anchor"]
        labels = self._labels(client)
        better = confidence(teacher, labels) > confidence(anchor, labels)
        target = self.revised(client, predictions)
        chosen, original = (torch.where(better.unsqueeze(1), z, anchor) for z in (target.logits, teacher))
        revised = None if target.revised is None else target.revised & better
        return self.selected(client, replace(target, logits=chosen, revised=revised, original=original))

    def loss(self, batch: Batch) -> Tensor:
        assert batch.student is not None
        assert batch.teacher is not None
        distilled = kl(batch.student, batch.teacher, self.temperature, batch.weights)
        return distilled if self.labels == "none" else batch.ground_truth(1.0) + distilled

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
        if self.form == "parallel":
            yield from super().plan(client, knowledge)
            return
        teachers = self.predictions(client, knowledge)
        assert teachers is not None
        start = _copied(client) if self.form == "soup" else {}
        students = []
        for teacher, steps, first in turns(client, len(teachers)):
            if self.form == "soup":
                client.student.load_state_dict(start)
            target = self.target(client, teachers[teacher : teacher + 1])
            yield Fit(self.loss, target, self.labels, steps, first)
            if self.form == "soup":
                students.append(_copied(client))
            elif len(teachers) > 1:  # a single teacher needs no new anchor
                client.state["anchor"] = self._student_logits(client)
        if students:
            client.student.load_state_dict(average(students, [1.0] * len(students)))

    def _student_logits(self, client: Node) -> Tensor:
        """(n, classes) logits of the student as it is now.

        They are rounded like the teachers' logits on the wire. Otherwise rounding would break ties, which must go to
        the student.
        """
        logits = client.transfer_logits()
        return logits if client.exchanges_models else over_the_wire(logits, self.wire)

    def _labels(self, node: Node) -> Tensor | None:
        return node.distilled.y if self.mask == "supervised" else None


def _score(client: Node) -> Tensor:
    """Accuracy on the client's own validation samples; 0 where it holds none."""
    val = client.val
    if val is None or val.y is None or not len(val):
        return torch.tensor(0.0, dtype=torch.float64)
    return torch.tensor(accuracy(client.predict(val.x), val.y), dtype=torch.float64)


def turns(client: Node, teachers: int) -> Iterator[tuple[int, int, int]]:
    """(teacher, its steps, number of the first) for every teacher with steps in this round, in the teachers' order.

    The steps add up to those of a round of any method, on the same batches. After as many rounds as there are
    teachers, every teacher has had the same number of steps.
    """
    total = client.training.steps_a_round(len(client.private))
    share, rest = divmod(total, teachers)
    first = (client.round - 1) * total
    for teacher in range(teachers):
        waited = (teacher - (client.round - 1) * rest) % teachers
        steps = share + (waited < rest)
        if steps:
            yield teacher, steps, first
        first += steps


def _copied(client: Node) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in client.student.state_dict().items()}

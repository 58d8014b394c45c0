"""The base class of all methods that distil soft predictions.

teachers → soft predictions → (revise) → (select) → objective → student
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.base.spec import parse
from fedkd.base.streams import stream
from fedkd.distillation.class_teacher import SOFT_LABELS, ClassTeacher
from fedkd.distillation.revision import REVISIONS, Revision
from fedkd.distillation.selection import SELECTIONS, Selection
from fedkd.distillation.sources import Peers, Source
from fedkd.distillation.teachers import Teachers, choose, class_teacher_in, peers_in
from fedkd.knowledge.knowledge import Knowledge, Wire
from fedkd.method import Method, Refresh, Reporters
from fedkd.node.moment import Moment, Phase
from fedkd.node.node import Node
from fedkd.settings.federation import Federation
from fedkd.tensors import ensemble
from fedkd.tensors.evaluate import right
from fedkd.tensors.samples import Data
from fedkd.training.batch import Fit, Target


@dataclass(frozen=True, config=STRICT, kw_only=True)
class SoftPredictions:
    """How soft predictions are sent, revised and selected."""

    wire: Wire = "float16"
    """how soft predictions travel: float16, float32, or top(K), the K highest of each row and the mean of the rest
    (float16 where that is less)"""
    revise: str = ""
    """how soft predictions that contradict the labels are revised, such as "labels(eta=0.8)"; empty: not at all"""
    select: str = ""
    """which samples are distilled, such as "influence(keep=0.7)"; the rest learns from ground truth, or from
    nothing where it has no labels; empty: all are"""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Distilling(SoftPredictions, Method):
    """A method whose students learn from soft predictions."""

    teachers: Teachers = "others"
    """who teaches: others, all (oneself too), self, one(ID), k(NUMBER); +autoencoder beside them, or alone"""

    @property
    def refresh(self) -> Refresh:
        return "once"

    @property
    def has_replaceable_loss(self) -> bool:
        """Whether a revision may replace the method's loss. True only if the method does nothing but distil."""
        return False

    @cached_property
    def source(self) -> Source | None:
        """The source of the teachers' predictions; None if an autoencoder is the only teacher."""
        return Peers(self.teachers, self.wire, self.gathered) if peers_in(self.teachers) else None

    @cached_property
    def class_teacher(self) -> ClassTeacher | None:
        """The autoencoder among the teachers; None if there is none."""
        return class_teacher_in(self.teachers)

    @cached_property
    def revision(self) -> Revision | None:
        """How soft predictions are revised; None: not at all."""
        return REVISIONS.build(self.revise) if self.revise else None

    @cached_property
    def selection(self) -> Selection | None:
        """Which samples are distilled; None: all."""
        return SELECTIONS.build(self.select) if self.select else None

    @property
    def preparations(self) -> int:
        return 1 if self.class_teacher else 0

    @property
    def preparation(self) -> str:
        return "encoder"

    def check(self, federation: Federation, labelled: bool) -> None:
        if self.refresh != "never":
            # Whether there are enough teachers depends only on whether the student may teach too.
            tutors = set(federation.tutors)
            alike = {student in tutors: student for student in reversed(federation.learners)}
            for student in sorted(alike.values()):
                choose(self.teachers, student, federation.tutors, stream("check"))
        name = parse(federation.method).name
        if self.class_teacher and (federation.transfer == "private" or not labelled):
            raise UserError(
                f'method {name}: teachers = "{self.teachers}": an autoencoder is trained on the transfer inputs and '
                'knows a sample by its label; use transfer = "public(fraction=…, labelled=true)"'
            )
        for key, modifier in (("revise", self.revision), ("select", self.selection)):
            if modifier and modifier.needs_labels and not labelled:
                raise UserError(
                    f"method {name}: {key} = {getattr(self, key)!r} compares soft predictions with labels, but the "
                    'transfer set is unlabelled; use transfer = "public(fraction=…, labelled=true)" or "private"'
                )
        if self.revision and self.revision.replaces_loss and not self.has_replaceable_loss:
            raise UserError(f"method {name}: revise = {self.revise!r} brings a loss of its own, which only kd can take")
        if self.selection and self.selection.needs_validation and federation.val != "local":
            raise UserError(
                f"method {name}: select = {self.select!r} asks each client's own validation samples, which "
                f'val = "{federation.val}" leaves it without; use val = "local"'
            )

    def reports(self, moment: Moment) -> Reporters:
        if moment.phase is Phase.PREPARE or super().reports(moment) == "nobody":
            return super().reports(moment)
        return self.source.who if self.source else "nobody"

    def prepare(self, client: Node, knowledge: Knowledge) -> None:
        if self.class_teacher:
            self.class_teacher.embed(client, knowledge)
            if self.refresh == "every round" and "logits" in knowledge:
                client.state[_EARLY] = knowledge["logits"]  # no client trains before round 1, so they stay valid

    def report(self, client: Node) -> Knowledge | None:
        if self.class_teacher and client.moment.phase is Phase.PREPARE:
            return Knowledge(self.class_teacher.report(client))
        return self.source.report(client) if self.source else None

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        if self.class_teacher and server.moment.phase is Phase.PREPARE:
            q = self.class_teacher.taught(server, reports)
            return dict.fromkeys(server.learners, Knowledge({SOFT_LABELS: q}))
        nothing = dict.fromkeys(server.learners, Knowledge())
        merged = self.source.merge(server, reports) if self.source else nothing
        if not (self.class_teacher and server.moment.begins):
            return merged
        encoder = self.class_teacher.offer(server)
        return {student: Knowledge({**encoder, **bag}) for student, bag in merged.items()}

    def gathered(self, server: Node, predictions: Tensor) -> Tensor:
        """The logits that the server sends, from the peers' (teachers, n, classes) logits.

        They are combined to (n, classes), unless the client must first revise each teacher or add an autoencoder.
        """
        apart = self.class_teacher or (self.revision and self.revision.per_teacher)
        return predictions if apart else self.combine(server, predictions)

    def combine(self, node: Node, predictions: Tensor) -> Tensor:  # noqa: ARG002 - some methods ask the node
        """(teachers, n, classes) logits → (n, classes): the unweighted mean of the logits."""
        return ensemble.mean_logits(predictions)

    def combined(self, client: Node, predictions: Tensor) -> Tensor:
        """(n, classes) logits from (teachers, n, classes): combined here, unless the server has combined them."""
        return self.rounded(predictions[0]) if client.combined else self.combine(client, predictions)

    def rounded(self, logits: Tensor) -> Tensor:
        """(n, classes) combined logits after rounding by the wire. A method may correct them here."""
        return logits

    def distilled(self, client: Node) -> Data:
        """The samples that a student distils on in this round: the transfer set, or its own samples without one."""
        return client.distilled

    def predictions(self, client: Node, knowledge: Knowledge) -> Tensor | None:
        """(teachers, n, classes) logits of all teachers in a round; None: there are no teachers."""
        return self.joined(client, self.source.predictions(client, knowledge) if self.source else None)

    def joined(self, client: Node, predictions: Tensor | None) -> Tensor | None:
        """(teachers, n, classes) logits: `predictions`, then those of the autoencoder if it is a teacher."""
        if not self.class_teacher:
            return predictions
        labels = self.distilled(client).y
        assert labels is not None
        classes = client.state[SOFT_LABELS][labels].unsqueeze(0)
        return classes if predictions is None else torch.cat([predictions, classes])

    def target(self, client: Node, predictions: Tensor | None) -> Target | None:
        """The target that the student learns; None: there is nothing to distil."""
        if predictions is None:
            return None
        return self.selected(client, self.revised(client, predictions))

    def revised(self, client: Node, predictions: Tensor) -> Target:
        """The target from (teachers, n, classes) logits: combined, and revised if `revise` is set."""
        merged, samples = self.combined(client, predictions), self.distilled(client)
        if not self.revision:
            return Target(merged, samples=samples)
        assert samples.y is not None
        if not self.revision.per_teacher:
            logits, changed = self.revision(merged, samples.y)
            return Target(logits, samples=samples, revised=changed, original=merged)
        each = [self.revision(teacher, samples.y) for teacher in predictions]
        changed = torch.stack([wrong for _, wrong in each]).any(dim=0)
        merged_after = self.combine(client, torch.stack([logits for logits, _ in each]))
        return Target(merged_after, samples=samples, revised=changed, original=merged)

    def selected(self, client: Node, target: Target) -> Target:
        """The target with weight 0 for samples that are not selected.

        Records shares of all samples of the target: `selected`, `revised`, and with labels those on which the teacher
        was wrong (`teacher_wrong`) and which were also selected (`selected_wrong`).
        """
        split = target.split(client)
        mask = self.selection.mask(client, target, self.loss) if self.selection else None
        if mask is not None:
            client.record("selected", float(mask.double().mean()), split)
            target = replace(target, weights=mask.to(target.logits.dtype))
        if target.revised is not None:
            client.record("revised", float(target.revised.double().mean()), split)
        labels = target.data(client).y
        if labels is not None and (self.selection or self.revision):
            wrong = ~right(target.unrevised, labels)
            client.record("teacher_wrong", float(wrong.double().mean()), split)
            if mask is not None:
                client.record("selected_wrong", float((wrong & mask).double().mean()), split)
        return target

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
        if SOFT_LABELS in knowledge:
            client.state[SOFT_LABELS] = knowledge[SOFT_LABELS].to(client.device)
        early = client.state.pop(_EARLY, None)
        if early is not None and "logits" not in knowledge:
            knowledge = Knowledge(knowledge, logits=early)
        yield Fit(self.loss, self.target(client, self.predictions(client, knowledge)), self.labels)


_EARLY = "early/logits"

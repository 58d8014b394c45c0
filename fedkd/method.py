"""A method of knowledge distillation: hooks with defaults, of which each method overrides only what it changes.

    teachers → soft predictions → (revise) → (select) → objective → student

One round: the server's `merge` turns the last reports into knowledge, one message brings it to each client, the
client `learn`s, is evaluated beside the method, and sends its `report` back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from fedkd.base.catalogue import Catalogue
from fedkd.base.errors import UserError
from fedkd.base.spec import parse
from fedkd.base.streams import stream
from fedkd.distillation.class_teacher import SOFT_LABELS, ClassTeacher
from fedkd.distillation.revision import REVISIONS, Revision
from fedkd.distillation.selection import SELECTIONS, Selection
from fedkd.distillation.teachers import choose, class_teacher_in, peers_in
from fedkd.knowledge.knowledge import Knowledge, Wire, collect, to_wire
from fedkd.knowledge.weights import bundled
from fedkd.node.node import Node
from fedkd.node.sending import sent_logits, sent_model
from fedkd.settings.federation import Federation
from fedkd.tensors import ensemble
from fedkd.tensors.evaluate import right
from fedkd.tensors.losses import cross_entropy
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch, Fit, Labels, Target
from fedkd.training.fit import fit

Refresh = Literal["never", "once", "every round"]


class Method:
    """Base of all methods. A method is a frozen pydantic dataclass; its fields are its hyper-parameters."""

    @property
    def refresh(self) -> Refresh:
        """When clients report: never, only at the start (teachers stay frozen), or after every round."""
        return "once"

    @property
    def wire(self) -> Wire:
        """How soft predictions travel."""
        return "float16"

    @property
    def teachers(self) -> str:
        """Who teaches a student: `others`, `all`, `self`, `one(ID)`, `k(NUMBER)`, `+autoencoder`."""
        return "others"

    @property
    def revise(self) -> str:
        """Spec string of how soft predictions are revised; empty: not at all."""
        return ""

    @property
    def select(self) -> str:
        """Spec string of which samples are distilled; empty: all."""
        return ""

    @property
    def has_replaceable_loss(self) -> bool:
        """Whether a revision may bring a loss of its own: where there is no more to the method than its soft labels."""
        return False

    @cached_property
    def revision(self) -> Revision | None:
        """How soft predictions are revised."""
        return REVISIONS.build(self.revise) if self.revise else None

    @cached_property
    def selection(self) -> Selection | None:
        """Which samples are distilled."""
        return SELECTIONS.build(self.select) if self.select else None

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
        return 1 if self.class_teacher else 0

    @property
    def preparation(self) -> str:
        """What the preparations are, under which name their bytes stand apart too: `encoder_bytes`."""
        return "encoder"

    @cached_property
    def class_teacher(self) -> ClassTeacher | None:
        """The autoencoder among the teachers."""
        return class_teacher_in(self.teachers)

    def check(self, federation: Federation, labelled: bool) -> None:
        """Raise UserError where the method cannot run in such a federation.

        Too few teachers, models that are not alike, or a transfer set without the labels that it needs
        (`labelled` says whether it has them).
        """
        if self.refresh != "never":
            # Whether there are enough depends on nothing but whether the student is one of them.
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

    def setup(self, node: Node) -> None:
        """Once for every client and the server, at the start: a frozen anchor, a second model."""

    def prepare(self, client: Node, knowledge: Knowledge) -> None:
        """A preparation exchange at the client."""
        if self.class_teacher:
            self.class_teacher.embed(client, knowledge)
            if self.refresh == "every round" and "logits" in knowledge:
                client.state[_EARLY] = knowledge["logits"]  # nobody learns before round 1: they hold until then

    def report(self, client: Node) -> Knowledge | None:
        """What a client uploads: its logits on the transfer set, or its model where there is none."""
        if self.class_teacher and client.round == 0 and client.moment.since == self.preparations:
            return Knowledge(self.class_teacher.told(client))
        if not peers_in(self.teachers):
            return None
        if client.exchanges_models:
            return Knowledge(sent_model(client))
        return Knowledge(logits=sent_logits(client, client.transfer_logits(), self.wire))

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        """What each student is sent: its teachers' predictions, `gathered` at the server, or its teachers' models."""
        if self.class_teacher and server.round == 0 and server.moment.since == self.preparations:
            q = self.class_teacher.taught(server, reports)
            return dict.fromkeys(server.learners, Knowledge({SOFT_LABELS: q}))
        offered = self.class_teacher.offer(server) if self.class_teacher and server.moment.begins else {}
        if not peers_in(self.teachers):
            return dict.fromkeys(server.learners, Knowledge(offered))
        chosen = {
            student: choose(self.teachers, student, server.tutors, server.rng("teachers", student, server.moment.since))
            for student in server.learners
        }
        if server.exchanges_models:
            return {student: bundled(reports, teachers) for student, teachers in chosen.items()}
        stack, merged = collect(reports, server.classes), {}
        at = {client: place for place, client in enumerate(sorted(reports))}
        # One room for all students: among many clients, new memory for each takes longer than the means.
        room = stack.new_empty(0)
        for student, teachers in chosen.items():
            index = torch.tensor([at[teacher] for teacher in teachers], device=stack.device)
            predictions = torch.index_select(stack, 0, index, out=room.resize_(0))
            merged[student] = Knowledge(offered, logits=to_wire(self.gathered(server, predictions), self.wire))
        return merged

    def global_model(self, server: Node) -> nn.Module | None:  # noqa: ARG002 - methods override it
        """The model that the server holds after `merge`, where it holds one."""
        return None

    def gathered(self, server: Node, predictions: Tensor) -> Tensor:
        """What travels of the peers' (teachers, n, classes) logits: what `combine` makes of them, or all of them.

        All, where the client has something to do before: to revise each, or to hear an autoencoder with them.
        """
        apart = self.class_teacher or (self.revision and self.revision.per_teacher)
        return predictions if apart else self.combine(server, predictions)

    def combine(self, node: Node, predictions: Tensor) -> Tensor:  # noqa: ARG002 - some methods ask the node
        """(teachers, n, classes) logits → (n, classes): the unweighted mean of the logits."""
        return ensemble.mean_logits(predictions)

    def target(self, client: Node, predictions: Tensor | None) -> Target | None:
        """What the student shall predict; None: there is nothing to distil."""
        if predictions is None:
            return None
        return self.selected(client, self.revised(client, predictions))

    def distilled(self, client: Node) -> Data:
        """The samples that a student distils on in this round: all of the transfer set, or its own where none is."""
        return client.distilled

    def received(self, client: Node, knowledge: Knowledge) -> Tensor:
        """(teachers, n, classes) logits that the client was sent; of one teacher where the server has combined them."""
        client.combined = knowledge["logits"].dim() == 2
        return client.predictions(knowledge)

    def combined(self, client: Node, predictions: Tensor) -> Tensor:
        """(n, classes) logits of (teachers, n, classes): what `combine` makes of them, at the server or else here."""
        return self.rounded(predictions[0]) if client.combined else self.combine(client, predictions)

    def rounded(self, logits: Tensor) -> Tensor:
        """(n, classes) logits that `combine` gave and the wire has rounded, as they are used."""
        return logits

    def joined(self, client: Node, predictions: Tensor | None) -> Tensor | None:
        """(teachers, n, classes) logits of all teachers: of the peers, and last of the autoencoder if it is one."""
        if not self.class_teacher:
            return predictions
        labels = self.distilled(client).y
        assert labels is not None
        own = client.state[SOFT_LABELS][labels].unsqueeze(0)
        return own if predictions is None else torch.cat([predictions, own])

    def revised(self, client: Node, predictions: Tensor) -> Target:
        """What `combine` makes of (teachers, n, classes) logits as a target, revised where that is asked for."""
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
        """The target with weight 0 for samples that are not to be distilled.

        Records how many are `selected`, `revised`, and on how many the teacher was wrong (`teacher_wrong`,
        `selected_wrong`) as far as labels say so: shares of all samples of the target.
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

    def loss(self, batch: Batch) -> Tensor:
        """Loss of one step, a scalar."""
        return cross_entropy(batch.labelled, batch.labels)

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
        """One round of training at the client, as one `Fit` or several: code between two sees the trained student."""
        if SOFT_LABELS in knowledge:
            client.state[SOFT_LABELS] = knowledge[SOFT_LABELS].to(client.device)
        early = client.state.pop(_EARLY, None)
        if early is not None and "logits" not in knowledge:
            knowledge = Knowledge(knowledge, logits=early)
        predictions = self.joined(client, self.received(client, knowledge) if "logits" in knowledge else None)
        yield Fit(self.loss, self.target(client, predictions), self.labels)

    def learn(self, client: Node, knowledge: Knowledge) -> None:
        """One round of training at the client: all that is planned."""
        for job in self.plan(client, knowledge):
            fit(client, job)


_EARLY = "early/logits"


METHODS: Catalogue[Method] = Catalogue("method", "fedkd.methods", Method)

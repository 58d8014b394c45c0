"""kd: (1 − w)·CE + w·T²·KL(teachers ‖ student), with revised and selected soft predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.formulas import divergence, mean_of_logits, mean_of_probabilities, revised, selected
from tests.reference.ledger import Ledger
from tests.reference.rounds import Known, begin, labelled_rows, teach, teachers_of, tell
from tests.reference.training import Loss, Step, learn, rows
from tests.reference.wire import sent
from tests.reference.world import Client, World


@dataclass(frozen=True)
class KD:
    """The settings of kd."""

    temperature: float = 1.0
    weight: float = 0.5
    objective: str = "kl"
    merge_by: str = "logits"
    teachers: str = "others"
    refresh: str = "once"
    wire: str = "float16"
    eta: float | None = None
    """η of label revision; None: nothing is revised"""
    per_teacher: bool = False
    form: str = "kl"
    select: str = ""
    keep: float = 0.7
    every: int = 1

    def merge(self, teachers: Tensor) -> Tensor:
        """(k, n, classes) → (n, classes)."""
        if self.merge_by == "logits":
            return mean_of_logits(teachers)
        return mean_of_probabilities(teachers, self.temperature)


@dataclass
class Target:
    """What a student shall predict: (n, classes), of which (n,) were revised and (n,) are distilled."""

    logits: Tensor
    changed: Tensor
    kept: Tensor | None


def kd(world: World, **settings: object) -> Ledger:
    """Knowledge distillation between clients."""
    of = KD(**settings)  # type: ignore[arg-type]
    ledger = begin(world)
    known: Known = {}
    taught: dict[int, Tensor] = {}
    for round in range(world.rounds + 1):
        if round:
            for client in world.learnt():
                one_round(world, ledger, client, round, of, taught[client.id])
                merged = taught[client.id]
                merged = mean_of_logits(merged) if merged.dim() == 3 else merged
                ledger.judge(round, client, teacher=None if of.teachers == "self" else merged)
        if round == world.rounds or (round and of.refresh == "once"):
            continue
        reporting = [number for number in world.tutors if not round or number in world.learners]
        if of.teachers == "self":
            for client in world.learnt():
                own = client.predict(world.distilled(client).x)
                taught[client.id] = own if world.exchanges_models else sent(own, of.wire)[0]
            continue
        known |= tell(world, ledger, round, of.wire, reporting)
        for number in world.learners:
            chosen = teachers_of(world, of.teachers, number, round)
            merge: Callable[[Tensor], Tensor] = (lambda apart: apart) if of.per_teacher else of.merge
            taught[number] = teach(world, ledger, round + 1, of.wire, known, number, chosen, merge)
    return ledger


def one_round(world: World, ledger: Ledger, client: Client, round: int, of: KD, taught: Tensor) -> None:
    """A student's round."""
    target = made(world, client, round, of, taught)
    report(world, ledger, client, round, of, taught, target)
    only_soft = of.weight == 1 and not of.select and of.form == "kl"
    common = None if world.exchanges_models else world.transfer
    private = world.exchanges_models or not only_soft
    learn(world, client, round, loss_of(world, client, of, target), private=private, common=common)


def made(world: World, client: Client, round: int, of: KD, taught: Tensor) -> Target:
    """The target that (n, classes), or (teachers, n, classes), soft predictions make."""
    labels = world.distilled(client).y if world.labelled else None
    merged = of.merge(taught) if taught.dim() == 3 else taught
    logits, changed = merged, torch.zeros(len(merged), dtype=torch.bool)
    if of.eta is not None:
        assert labels is not None
        if of.per_teacher:
            each = [revised(teacher, labels, of.eta) for teacher in taught]
            logits = of.merge(torch.stack([found for found, _ in each]))
            changed = torch.stack([wrong for _, wrong in each]).any(0)
        else:
            logits, changed = revised(merged, labels, of.eta)
    kept = None
    if of.select:
        at = round - (round - 1) % of.every
        if at == round:
            client.state["kept"] = selected(of.select, of.keep, merged, labels, world.seed, client.id, round)
        kept = client.state["kept"]
    return Target(logits, changed, kept)


def report(world: World, ledger: Ledger, client: Client, round: int, of: KD, taught: Tensor, target: Target) -> None:
    """How many were revised and selected, and how often the teacher was wrong, as far as labels tell."""
    split = "private" if world.exchanges_models else "transfer"
    if target.kept is not None:
        ledger.add(round, client.id, "selected", target.kept.double().mean().item(), split)
    if of.eta is not None:
        ledger.add(round, client.id, "revised", target.changed.double().mean().item(), split)
    if world.labelled and (of.select or of.eta is not None):
        merged = of.merge(taught) if taught.dim() == 3 else taught
        wrong = merged.argmax(1) != world.distilled(client).y
        ledger.add(round, client.id, "teacher_wrong", wrong.double().mean().item(), split)
        if target.kept is not None:
            ledger.add(round, client.id, "selected_wrong", (wrong & target.kept).double().mean().item(), split)


def loss_of(world: World, client: Client, of: KD, target: Target) -> Loss:
    """The loss of one step; samples that are not distilled after all learn from their label in full."""
    n = len(world.distilled(client))

    def loss(step: Step) -> Tensor:
        index, student = (step.own, step.of_own) if world.exchanges_models else (step.common, step.of_common)
        teacher = rows(target.logits, index, n)
        kept = torch.ones(len(student)) if target.kept is None else rows(target.kept, index, n).float()
        far = divergence(of.objective, student, teacher, of.temperature)
        if of.weight == 1 and not of.select and of.form == "kl":
            return far.mean()
        logits, labels = labelled_rows(world, client, step)
        known = world.labelled or world.exchanges_models
        each = F.cross_entropy(logits, labels, reduction="none")
        # The distilled samples are the last of the labelled ones, where they have labels.
        distilled = torch.cat([torch.ones(len(each) - len(kept)), kept]) if known else torch.ones(len(each))
        if of.form == "mse":
            was_revised = rows(target.changed, index, n)
            right = 4 * (student - teacher).pow(2).mean(1)
            wrong = (F.softmax(student, 1) - F.softmax(teacher, 1)).pow(2).mean(1)
            from_label = torch.ones(len(each))
            from_label[len(each) - len(kept) :] -= was_revised.float() * kept
            return (from_label * each).mean() + (torch.where(was_revised, wrong, right) * kept).mean()
        from_label = torch.where(distilled > 0, 1 - of.weight, 1.0)
        return (from_label * each).mean() + of.weight * (far * kept).mean()

    return loss

"""dp_kd: from the teacher where it is better, from one's own frozen past elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tests.reference.distillation import KD, Target, loss_of
from tests.reference.formulas import better_at, mean_of_logits, mean_of_weights, revised, selected
from tests.reference.ledger import Ledger
from tests.reference.rounds import Known, begin, teach, teachers_of, tell
from tests.reference.training import steps_a_round, train
from tests.reference.wire import NUMBER, sent
from tests.reference.world import Client, World


def dp_kd(
    world: World, *, mask: str = "unsupervised", form: str = "parallel", order: str = "desc", **settings: object
) -> Ledger:
    """Data-partitioning distillation in its three forms; other settings are those of kd."""
    of = replace(KD(weight=1.0), **settings)  # type: ignore[arg-type]
    supervised = mask == "supervised"
    ledger = begin(world)
    anchors = {client.id: as_it_is(world, client, of.wire) for client in world.clients}
    scores = {client.id: accuracy(client) for client in world.clients}
    known: Known = tell(world, ledger, 0, of.wire, world.tutors)
    if form == "sequential":
        for number in world.tutors:
            ledger.up(0, number, NUMBER)
    taught: dict[int, Tensor] = {}
    for client in world.learnt():
        labels = world.distilled(client).y if supervised else None
        chosen = teachers_of(world, of.teachers, client.id, 0)
        if form == "sequential":
            chosen.sort(key=lambda number: (scores[number] if order == "asc" else -scores[number], number))

        def merge(teachers: Tensor, labels: Tensor | None = labels) -> Tensor:
            return best_of(teachers, labels) if form == "parallel" else teachers

        taught[client.id] = teach(world, ledger, 1, of.wire, known, client.id, chosen, merge)
    for round in range(1, world.rounds + 1):
        for client in world.learnt():
            one_round(world, ledger, client, round, of, supervised, form, taught[client.id], anchors)
            told = taught[client.id]
            ledger.judge(round, client, teacher=mean_of_logits(told) if told.dim() == 3 else told)
    return ledger


def one_round(
    world: World,
    ledger: Ledger,
    client: Client,
    round: int,
    of: KD,
    supervised: bool,
    form: str,
    taught: Tensor,
    anchors: dict[int, Tensor],
) -> None:
    """A student's round: all its teachers at once, one after the other, or each with a student of its own."""
    teachers = taught if taught.dim() == 3 else taught[None]
    start, students = client.weights(), []
    private = world.exchanges_models or bool(of.select)
    common = None if world.exchanges_models else world.transfer
    for number, first, steps in shares(world, client, round, len(teachers)):
        if form == "soup":
            client.model.load_state_dict(start)
        target = made(world, ledger, client, round, of, supervised, teachers[number], anchors[client.id])
        train(world, client, loss_of(world, client, of, target), first, steps, private=private, common=common)
        students.append(client.weights())
        if form == "sequential" and len(teachers) > 1:
            anchors[client.id] = as_it_is(world, client, of.wire)
    if form == "soup":
        client.model.load_state_dict(mean_of_weights(students, [1.0] * len(students)))


def made(
    world: World, ledger: Ledger, client: Client, round: int, of: KD, supervised: bool, teacher: Tensor, anchor: Tensor
) -> Target:
    """z* = the teacher's where it is better, else the anchor's; ties are the student's."""
    truth = world.distilled(client).y
    labels = truth if supervised else None
    better = better_at(teacher, labels) > better_at(anchor, labels)
    before = torch.where(better[:, None], teacher, anchor)
    logits, changed, kept = before, torch.zeros(len(before), dtype=torch.bool), None
    if of.eta is not None:
        corrected, wrong = revised(teacher, truth, of.eta)
        logits, changed = torch.where(better[:, None], corrected, anchor), wrong & better
    if of.select:
        kept = selected(of.select, of.keep, before, truth, world.seed, client.id, round)
    note(world, ledger, client, round, of, Target(logits, changed, kept), before)
    return Target(logits, changed, kept)


def note(world: World, ledger: Ledger, client: Client, round: int, of: KD, target: Target, before: Tensor) -> None:
    """What was revised and selected, and how often the soft labels were wrong as far as labels tell."""
    split = "private" if world.exchanges_models else "transfer"
    rows = {}
    if of.eta is not None:
        rows["revised"] = target.changed
    if target.kept is not None:
        rows["selected"] = target.kept
    if world.labelled and rows:
        rows["teacher_wrong"] = before.argmax(1) != world.distilled(client).y
        if target.kept is not None:
            rows["selected_wrong"] = rows["teacher_wrong"] & target.kept
    for metric, which in rows.items():
        ledger.add(round, client.id, metric, which.double().mean().item(), split)


def best_of(teachers: Tensor, labels: Tensor | None) -> Tensor:
    """(k, n, classes) → (n, classes): for each sample its best teacher, the first of those that are as good."""
    best = better_at(teachers, labels).argmax(0)
    return torch.stack([teachers[int(who), sample] for sample, who in enumerate(best)])


def as_it_is(world: World, client: Client, wire: str) -> Tensor:
    """What a client predicts now, rounded as what it is compared with."""
    logits = client.predict(world.distilled(client).x)
    return logits if world.exchanges_models else sent(logits, wire)[0]


def accuracy(client: Client) -> float:
    """On the client's own validation samples."""
    return (client.predict(client.val.x).argmax(1) == client.val.y).double().mean().item()


def shares(world: World, client: Client, round: int, teachers: int) -> Iterator[tuple[int, int, int]]:
    """(teacher, first step, steps) of a round: equal shares, and what is left over goes to the teachers in turn."""
    total = steps_a_round(world.training, len(client.private))
    equal, left = divmod(total, teachers)
    lucky = {((round - 1) * left + place) % teachers for place in range(left)}
    first = (round - 1) * total
    for teacher in range(teachers):
        steps = equal + (teacher in lucky)
        if steps:
            yield teacher, first, steps
        first += steps

"""What all methods have in common: the start, who teaches whom, and the way of soft predictions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.ledger import Ledger
from tests.reference.training import Loss, Step, pretrain, rows
from tests.reference.wire import cost_of, sent
from tests.reference.world import SERVER, Client, World, predict, stream

Merge = Callable[[Tensor], Tensor]
"""(teachers, n, classes) → (n, classes)"""
Known = dict[int, Tensor | dict[str, Tensor]]
"""What the server knows of each client: its soft predictions, or its model."""


def begin(world: World, clients: Iterable[Client] | None = None) -> Ledger:
    """Pre-train all clients, judge them, and make one model of theirs where that is asked for."""
    ledger = Ledger(world)
    for client in world.clients if clients is None else clients:
        epochs = pretrain(world, client) if world.start != "random" and world.pretraining.epochs else 0
        for name, value in (("epochs", epochs), ("steps", client.steps), ("samples", client.samples)):
            ledger.add(0, client.id, f"pretrain_{name}", value)
        client.steps = client.samples = 0
        ledger.add(0, client.id, "parameters", sum(p.numel() for p in client.model.parameters()))
        ledger.judge(0, client)
    if world.consolidate:
        world.consolidate(world, ledger)
    return ledger


def labelled_rows(world: World, client: Client, step: Step, private_only: bool = False) -> tuple[Tensor, Tensor]:
    """Logits and labels of all samples of a step whose labels are known: private ones, then labelled transfer ones."""
    y = rows(client.private.y, step.own, len(client.private))
    if not world.labelled or world.exchanges_models or private_only:
        return step.of_own, y
    common = rows(world.transfer.y, step.common, len(world.transfer))
    return torch.cat([step.of_own, step.of_common]), torch.cat([y, common])


def truth(world: World, client: Client) -> Loss:
    """The cross-entropy of all samples with labels."""
    return lambda step: F.cross_entropy(*labelled_rows(world, client, step))


def teachers_of(world: World, teachers: str, student: int, exchange: int) -> list[int]:
    """Who teaches a student."""
    others = [number for number in world.tutors if number != student]
    if teachers == "all":
        return world.tutors
    if teachers == "self":
        return [student]
    if match := re.fullmatch(r"one\((\d+)\)", teachers):
        return [int(match[1])]
    if match := re.fullmatch(r"k\((\d+)\)", teachers):
        order = torch.randperm(len(others), generator=stream(world.seed, "teachers", SERVER, student, exchange))
        return sorted(others[place] for place in order.tolist()[: int(match[1])])
    return others


def tell(world: World, ledger: Ledger, round: int, wire: str, who: Iterable[int]) -> Known:
    """What some clients upload after a round, as the server reads it: soft predictions, or the model itself."""
    known: Known = {}
    ledger.rounded |= not world.exchanges_models and wire != "float32"
    for number in who:
        client = world.clients[number]
        if world.exchanges_models:
            weights = client.weights()
            known[number], nbytes = weights, cost_of(weights)
        else:
            known[number], nbytes = sent(client.predict(world.transfer.x), wire)
        ledger.up(round, number, nbytes)
    return known


def teach(
    world: World, ledger: Ledger, round: int, wire: str, known: Known, student: int, teachers: list[int], merge: Merge
) -> Tensor:
    """What a student is sent by its teachers for a round, as it reads it: merged at the server where that is possible.

    (n, classes), or (teachers, n, classes) where `merge` leaves them apart.
    """
    if world.exchanges_models:
        predictions = []
        for teacher in teachers:
            weights = known[teacher]
            assert isinstance(weights, dict)
            ledger.down(round, student, cost_of(weights))
            predictions.append(predict(world.with_weights(teacher, weights), world.clients[student].private.x))
        return merge(torch.stack(predictions))
    told = [known[teacher] for teacher in teachers]
    read, nbytes = sent(merge(torch.stack([each for each in told if isinstance(each, Tensor)])), wire)
    ledger.down(round, student, nbytes)
    return read

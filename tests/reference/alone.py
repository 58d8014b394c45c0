"""Methods in which nothing is taught: local, pooled, label_smoothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.ledger import Ledger
from tests.reference.rounds import begin, labelled_rows
from tests.reference.training import Loss, Step, learn
from tests.reference.world import Client, Samples, World


def local(world: World, *, public: bool = True) -> Ledger:
    """Each client trains on alone."""

    def loss(client: Client) -> Loss:
        return lambda step: F.cross_entropy(*labelled_rows(world, client, step, not public))

    ledger = begin(world)
    for round in range(1, world.rounds + 1):
        for client in world.learnt():
            learn(world, client, round, loss(client), common=seen(world, public))
            ledger.judge(round, client)
    return ledger


def label_smoothing(world: World, *, alpha: float = 0.1, temperature: float = 1.0) -> Ledger:
    """(1 − α)·CE + α·T²·KL(uniform ‖ p^T), where KL(u ‖ p) = −log C − mean of log p."""

    def loss(client: Client) -> Loss:
        def of(step: Step) -> Tensor:
            logits, labels = labelled_rows(world, client, step)
            log_p = F.log_softmax(logits / temperature, 1)
            smooth = -torch.log(torch.tensor(float(world.classes))) - log_p.mean(1)
            return (1 - alpha) * F.cross_entropy(logits, labels) + alpha * temperature**2 * smooth.mean()

        return of

    ledger = begin(world)
    for round in range(1, world.rounds + 1):
        for client in world.learnt():
            learn(world, client, round, loss(client), common=seen(world))
            ledger.judge(round, client)
    return ledger


def pooled(world: World) -> Ledger:
    """Client 0 with everybody's data; nobody else takes part."""

    def all_of(parts: list[Samples]) -> Samples:
        return Samples(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))

    everything = world.clients[0]
    everything.private = all_of(world.shards)
    everything.judged |= {"val": all_of(world.val), "local_test": all_of(world.local_test)}
    world.clients, world.learners = [everything], [0]
    return local(world)


def seen(world: World, public: bool = True) -> Samples | None:
    """The transfer set where its labels are given to all, and are to be used."""
    return world.transfer if world.labelled and public and not world.exchanges_models else None

"""fedavg, fedprox and ensemble: models travel, and the server's is judged."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference.alone import seen
from tests.reference.formulas import mean_of_weights
from tests.reference.ledger import Ledger
from tests.reference.rounds import begin, truth
from tests.reference.training import Loss, Step, learn
from tests.reference.wire import NUMBER, cost_of
from tests.reference.world import Client, World


def fedavg(world: World, *, mu: float = 0.0) -> Ledger:
    """The server's model is the mean of the clients' by their samples; clients train it. With µ it is fedprox."""
    ledger, mean = begin(world), world.clients[0].weights()
    for round in range(world.rounds + 1):
        if round:
            for client in world.learnt():
                client.model.load_state_dict(mean)
                ledger.down(round, client.id, cost_of(mean))
                learn(world, client, round, near(world, client, mu), common=seen(world))
                ledger.judge(round, client)
        for client in world.learnt():
            ledger.up(round, client.id, cost_of(client.weights()) + NUMBER)
        learnt = world.learnt()
        mean = mean_of_weights([c.weights() for c in learnt], [float(len(c.private)) for c in learnt])
        ledger.judge_global(round, world.with_weights(world.learners[0], mean))
    return ledger


def near(world: World, client: Client, mu: float) -> Loss:
    """CE + µ/2·‖w − w_server‖²."""
    before = [parameter.detach().clone() for parameter in client.model.parameters()]

    def loss(step: Step) -> Tensor:
        away = [(now - then).pow(2).sum() for now, then in zip(client.model.parameters(), before, strict=True)]
        return truth(world, client)(step) + mu / 2 * torch.stack(away).sum()

    return loss


def ensemble(world: World) -> Ledger:
    """Clients train on alone; the mean of their probabilities is judged."""
    ledger = begin(world)
    for round in range(world.rounds + 1):
        if round:
            for client in world.learnt():
                learn(world, client, round, truth(world, client), common=seen(world))
                ledger.judge(round, client)
        # Those that do not learn are heard once, and count as they were.
        for client in world.learnt() if round else [world.clients[number] for number in world.tutors]:
            if client.id in world.tutors:
                ledger.up(round, client.id, cost_of(client.weights()))
        ledger.judge_global(round, Together([world.clients[number].model for number in world.tutors]))
    return ledger


class Together(nn.Module):
    """The mean of several models' probabilities, as logarithms."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """(n, …, classes) log-probabilities."""
        total: Tensor = sum(F.softmax(member(x), -1) for member in self.members)  # type: ignore[assignment]
        return (total / len(self.members)).log()

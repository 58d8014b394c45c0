"""Steps of a loss: which samples are in each, and what the optimiser does."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.world import Client, Optimisation, Samples, World, predict, shuffled

Loss = Callable[["Step"], Tensor]


class Step:
    """One step: which samples take part, and what the student predicts for them."""

    def __init__(self, own: list[int], common: list[int], of_own: Tensor, of_common: Tensor) -> None:
        self.own, self.common = own, common
        """indices of private and of transfer samples"""
        self.of_own, self.of_common = of_own, of_common
        """(rows, classes) the student's logits for them"""


def batch(n: int, size: int, step: int, *name: int | str) -> list[int]:
    """The indices of one step. Shuffled passes over the n samples follow each other; every step takes the next ones."""
    size = min(size, n)
    places = range(step * size, (step + 1) * size)
    return [shuffled(n, *name, place // n)[place % n] for place in places]


def rows(values: Tensor, index: list[int], n: int) -> Tensor:
    """The rows of some of n samples."""
    return values.reshape(n, -1, *values.shape[1:])[index].flatten(0, 1)


def steps_a_round(training: Optimisation, n: int) -> int:
    """Optimiser steps of a client with n private samples in one round."""
    return training.steps or training.epochs * math.ceil(n / training.batch_size)


def train(
    world: World,
    client: Client,
    loss: Loss,
    first: int,
    steps: int,
    *,
    settings: Optimisation | None = None,
    purpose: str = "batches",
    private: bool = True,
    common: Samples | None = None,
) -> list[float]:
    """Steps `first`, first + 1, … of a client, with an optimiser that starts afresh; the loss of each.

    A step takes a batch of private samples, one of `common` samples, or both in one forward pass.
    """
    settings = settings or world.training
    n, model, losses = len(client.private), client.model.train(), []
    optimiser: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        optimiser = torch.optim.SGD(
            model.parameters(), settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    else:
        optimiser = torch.optim.Adam(model.parameters(), settings.lr, weight_decay=settings.weight_decay)
    for number in range(first, first + steps):
        own, shared, parts = [], [], []
        if private:
            own = batch(n, settings.batch_size, number, world.seed, f"{purpose}/private", client.id)
            parts.append(client.private.x[own])
        if common is not None:
            shared = batch(len(common), settings.batch_size, number, world.seed, f"{purpose}/transfer", client.id)
            parts.append(common.x[shared])
        logits = model(torch.cat(parts))
        of_own, of_common = logits[: len(own)].flatten(0, -2), logits[len(own) :].flatten(0, -2)
        value = loss(Step(own, shared, of_own, of_common))
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(value.item())
        client.steps += 1
        client.samples += len(own) + len(shared)
    return losses


def pretrain(world: World, client: Client) -> int:
    """Train a client on its own samples as the recipe says; returns the epochs that it took."""
    settings, n = world.pretraining, len(client.private)
    many = math.ceil(n / settings.batch_size)

    def loss(step: Step) -> Tensor:
        return F.cross_entropy(step.of_own, rows(client.private.y, step.own, n))

    lowest, waited, best, best_epoch = math.inf, 0, copy.deepcopy(client.weights()), 0
    last = settings.epochs if isinstance(settings.epochs, int) else 300
    for epoch in range(1, last + 1):
        found = train(world, client, loss, (epoch - 1) * many, many, settings=settings, purpose="pretrain")
        logits, labels = predict(client.model, client.val.x), client.val.y
        if settings.target and float((logits.argmax(1) == labels).double().mean()) >= settings.target:
            last = epoch
            break
        if settings.epochs == "converged":
            now, enough = sum(found) / many, lowest * 0.99
        elif settings.epochs == "early_stopping":
            now, enough = float(F.cross_entropy(logits.double(), labels)), lowest
        else:
            continue
        lowest, waited = (now, 0) if now < enough else (lowest, waited + 1)
        if not waited:
            best, best_epoch = client.weights(), epoch
        if waited == settings.patience:
            last = epoch
            break
    if settings.epochs == "early_stopping":
        client.model.load_state_dict(best)
        last = best_epoch
    return last


def learn(
    world: World,
    client: Client,
    round: int,
    loss: Loss,
    *,
    private: bool = True,
    common: Samples | None = None,
    settings: Optimisation | None = None,
) -> None:
    """All steps of one round."""
    steps = steps_a_round(world.training, len(client.private))
    train(world, client, loss, (round - 1) * steps, steps, settings=settings, private=private, common=common)

"""Pre-training of a client's first model on its own shard, cached for all studies with the same settings."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fedkd.base.added import identity
from fedkd.base.disk import alone
from fedkd.base.errors import DivergedError
from fedkd.base.spec import own_code
from fedkd.base.store import cached_tensors, content_key, read_tensors, write_tensors
from fedkd.data import cache_root
from fedkd.knowledge.scopes import scoped, under
from fedkd.models import ARCHITECTURES, Model
from fedkd.node.node import Node
from fedkd.settings.training import Pretraining
from fedkd.tensors.evaluate import accuracy, mean_loss
from fedkd.tensors.losses import cross_entropy
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch, Fit
from fedkd.training.finite import check_weights
from fedkd.training.together import train_together

SCHEMA = 2
"""Increase it when the same settings train to other weights. Older cache files are then not used any more."""

CAP = 300
"""Epochs after which training ends even where the loss still falls."""
FALL = 0.01
"""Share by which the training loss must fall within the patience, or it has converged."""
_SPENT = "spent"
"""Key of the cost of a training, beside the weights in a cache file."""


@dataclass(frozen=True)
class Spent:
    """The cost of a pre-training. It is the same when the result comes from the cache."""

    epochs: int = 0
    steps: int = 0
    """optimiser steps"""
    samples: int = 0
    """examples back-propagated"""
    seconds: float = 0.0
    """of computing"""


def pretrain(client: Node, model: Model, name: str, settings: Pretraining) -> Spent:
    """Train `model`, whose spec is `name`, on the client's private data, or load the cached result of this training.

    A checksummed cache file holds the weights and the cost. Its name is a hash of all inputs, data and initial weights
    included. All federations with the same start report the same cost.

    Raises:
        DivergedError: the training loss or a weight is not finite; nothing is cached.
    """
    settings = settings.settled(ARCHITECTURES.build(name).brings_weights)
    if settings.epochs == 0:
        return Spent()

    def make() -> dict[str, Tensor]:
        scratch = _scratch(client, model, settings)
        (made,) = train_together([scratch], [_training(scratch, settings)])
        if isinstance(made, Exception):
            raise made
        return dict(made)

    return _taken(model, cached_tensors(_path(client, model, name, settings), make))


def pretrain_stack(
    clients: Sequence[Node], models: Sequence[Model], name: str, settings: Pretraining
) -> list[Spent | Exception]:
    """`pretrain` for clients whose models have one spec, in lockstep; the cache has one file for all of them.

    Returns what it cost each client, or the exception that ended it. Where there is one, nothing is cached.
    """
    settings = settings.settled(ARCHITECTURES.build(name).brings_weights)
    if settings.epochs == 0:
        return [Spent() for _ in clients]
    paths = [_path(client, model, name, settings) for client, model in zip(clients, models, strict=True)]
    path = paths[0].with_name(f"{content_key(*(each.name for each in paths))}.safetensors")
    with alone(path):
        stored = read_tensors(path)
        if stored is None:
            scratches = [_scratch(client, model, settings) for client, model in zip(clients, models, strict=True)]
            plans = [_training(scratch, settings, len(clients)) for scratch in scratches]
            made = train_together(scratches, plans)
            finished = {number: each for number, each in enumerate(made) if not isinstance(each, Exception)}
            stored = {}
            for number, each in finished.items():
                stored |= scoped(f"{number}/", each)
            if len(finished) < len(clients):
                taken = {number: _taken(models[number], each) for number, each in finished.items()}
                return [taken.get(number, each) for number, each in enumerate(made)]
            write_tensors(path, stored)
    return [_taken(model, under(f"{number}/", stored)) for number, model in enumerate(models)]


def _scratch(client: Node, model: Model, settings: Pretraining) -> Node:
    """A separate node, because this training must not change the client's counters or random streams."""
    training = replace(client.training, precision=settings.precision, compile=settings.compile)
    scratch = Node(client.id, client.clients, client.seed, training, client.classes, client.data, client.val)
    scratch.device, scratch.models["student"] = client.device, model
    return scratch


def _training(scratch: Node, settings: Pretraining, sharing: int = 1) -> Generator[Fit, Tensor, dict[str, Tensor]]:
    """The trainings of the node's student, epoch by epoch; returns its weights at the end, and the cost.

    `sharing` clients train in the same time.
    """
    began = time.perf_counter()
    try:
        epochs = yield from _epochs(scratch, settings)
        check_weights(scratch.student)
    except DivergedError as error:
        raise DivergedError(f"in pre-training, {error}") from error
    spent = [epochs, scratch.steps, scratch.samples, (time.perf_counter() - began) / sharing]
    return {**scratch.student.state_dict(), _SPENT: torch.tensor(spent, dtype=torch.float64)}


def _taken(model: Model, start: Mapping[str, Tensor]) -> Spent:
    """Load the weights of a finished training into the model; returns what it cost."""
    epochs, steps, samples, seconds = start[_SPENT].tolist()
    model.load_state_dict({name: value for name, value in start.items() if name != _SPENT})
    return Spent(int(epochs), int(steps), int(samples), seconds)


def _epochs(scratch: Node, settings: Pretraining) -> Generator[Fit, Tensor, int]:
    """The epochs of the node's student. Returns their number; with early stopping, the number of the best epoch."""
    model, val = scratch.student, scratch.val
    steps = math.ceil(len(scratch.private) / settings.batch_size)
    patience = _Patience(settings)
    best, best_epoch = copy.deepcopy(model.state_dict()), 0
    epochs = settings.epochs if isinstance(settings.epochs, int) else CAP
    job = Fit(
        _ground_truth,
        labels="private",
        steps=steps,
        horizon=epochs * steps,
        period=steps,
        optimisation=settings,
        purpose="pretrain",
    )
    for epoch in range(epochs):
        training_loss = yield replace(job, first=epoch * steps)
        if _watches_validation(settings):
            correct, validation_loss = _validated(scratch, val)
            if settings.target and correct >= settings.target:
                return epoch + 1
        if settings.epochs == "converged" and patience.is_over(float(training_loss), FALL):
            return epoch + 1
        if settings.epochs == "early_stopping":
            over = patience.is_over(validation_loss, 0.0)
            if not patience.waited:
                best, best_epoch = copy.deepcopy(model.state_dict()), epoch + 1
            if over:
                break
    if settings.epochs == "early_stopping":
        model.load_state_dict(best)
        return best_epoch
    return epoch + 1


def _ground_truth(batch: Batch) -> Tensor:
    return cross_entropy(batch.labelled, batch.labels)


class _Patience:
    """How long a loss has not fallen."""

    def __init__(self, settings: Pretraining) -> None:
        self.lowest, self.waited, self._patience = math.inf, 0, settings.patience

    def is_over(self, loss: float, fall: float) -> bool:
        """Record one epoch's loss. True if the loss has not fallen by the share `fall` for `patience` epochs."""
        fallen = loss < self.lowest * (1 - fall)
        self.lowest, self.waited = (loss, 0) if fallen else (self.lowest, self.waited + 1)
        return self.waited >= self._patience


def _watches_validation(settings: Pretraining) -> bool:
    return settings.epochs == "early_stopping" or settings.target > 0


def _validated(scratch: Node, val: Data | None) -> tuple[float, float]:
    """(accuracy, loss) on the client's own validation samples."""
    assert val is not None
    assert val.y is not None
    logits = scratch.predict(val.x)
    return accuracy(logits, val.y), mean_loss(logits, val.y)


def _path(client: Node, model: Model, name: str, settings: Pretraining) -> Path:
    data = client.private
    assert data.y is not None
    parts = [SCHEMA, torch.__version__, name, sorted(identity(settings).items()), client.id, client.seed]
    # Equal weights train differently in another network.
    parts += sorted((own_code(name) | own_code(settings.schedule)).items())
    tensors = [data.x, data.y]
    if _watches_validation(settings) and client.val:
        assert client.val.y is not None
        tensors += [client.val.x, client.val.y]
    state = model.state_dict()
    tensors += [state[key] for key in sorted(state)]
    return cache_root() / "pretrained" / f"{content_key(repr(parts), *tensors)}.safetensors"

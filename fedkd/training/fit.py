"""The training loop, the hot path: the steps of one `Fit`."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from fedkd.base.errors import DivergedError
from fedkd.base.streams import seed_of
from fedkd.node.node import Node
from fedkd.settings.training import Optimisation
from fedkd.tensors.draws import seeded, sources_of
from fedkd.training.batch import Fit
from fedkd.training.batches import Batches
from fedkd.training.descent import Descent
from fedkd.training.rates import Rates


def fit(node: Node, job: Fit) -> Tensor:
    """Train the node's student by the steps of `job`.

    Each step makes one forward pass with a batch of private and a batch of transfer samples, if the loss needs both.
    Batches are slices of reshuffled passes over the data. Returns the mean loss over the steps, a scalar.

    Raises:
        DivergedError: the loss of a step was not finite; checked once, after the last step.
    """
    settings = job.optimisation or node.training
    numbers = job.numbers(node)
    rates = Rates(settings, numbers.horizon, numbers.period)
    sources = sources_of(node.student.train())
    descent = Descent(node.student, settings, node.compute)
    batches = Batches(node, job)
    total = torch.zeros((), device=node.device)
    for number, samples in batches.steps(numbers.steps, numbers.first):
        named = (node.seed, f"{job.purpose}/forward", node.id, number)
        with seeded(sources, seed_of(*named), node.device) if sources else nullcontext():
            loss = job.loss(batches.seen(descent.outputs(samples.x), samples))
            descent.step(loss, rates.at(number))
        total += loss.detach()
        node.samples += len(samples)
    node.steps += numbers.steps
    if not bool(total.isfinite()):
        raise diverged(settings)
    return total / max(numbers.steps, 1)


def diverged(settings: Optimisation) -> DivergedError:
    """The error of a training whose loss was not finite."""
    return DivergedError(f"its training loss is not finite at lr = {settings.lr:g}")

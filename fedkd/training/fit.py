"""Steps of a loss: the hot path, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from fedkd.base.errors import DivergedError
from fedkd.base.streams import seed_of
from fedkd.node.node import Node
from fedkd.settings.training import Optimisation
from fedkd.tensors.draws import seeded, sources_of
from fedkd.tensors.samples import Data, rows_of
from fedkd.training.augment import augmentation
from fedkd.training.batch import Batch, Labels, Loss, Target
from fedkd.training.optimisers import make_optimiser


def fit(
    node: Node,
    loss: Loss,
    target: Target | None = None,
    *,
    labels: Labels = "all",
    steps: int | None = None,
    first: int | None = None,
    optimisation: Optimisation | None = None,
    purpose: str = "batches",
) -> Tensor:
    """Train the node's student for `steps` steps (default: one round's) of `loss`.

    Each step takes one batch of private and one of transfer samples, where the loss needs them, in one forward
    pass. Batches run through reshuffled passes over the data; `first` is the number of the first step in that
    endless sequence (default: where the last round stopped), so that every method sees the same batches.
    Returns the mean loss over the steps, a scalar.

    Raises:
        DivergedError: the loss of a step was not finite; looked at once, after the last step.
    """
    settings = optimisation or node.training
    steps = node.training.steps_a_round(len(node.private)) if steps is None else steps
    first = (node.round - 1) * steps if first is None else first
    node.remember_transfer_logits(None)
    model = node.student.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sources = sources_of(model)
    optimiser = make_optimiser(parameters, settings)

    distil_private = target is not None and target.on == "private"
    distil_transfer = target is not None and target.on == "transfer"
    known = node.transfer is not None and node.transfer.y is not None
    use_private = labels != "none" or distil_private
    use_transfer = distil_transfer or (labels == "all" and known)

    private = _batches(node, "private", node.private, settings, steps, first, purpose) if use_private else None
    transfer = _batches(node, "transfer", node.public, settings, steps, first, purpose) if use_transfer else None
    change = None if distil_private else augmentation(settings.augment)
    none = torch.empty(0, dtype=torch.int64, device=node.device)
    total = torch.zeros((), device=node.device)
    for step in range(first, first + steps):
        own = none if private is None else next(private).to(node.device, non_blocking=True)
        common = none if transfer is None else next(transfer).to(node.device, non_blocking=True)
        x = [node.private.x[own]] if len(own) else []
        if change is not None and x:
            x = [change(x[0], node.rng(f"{purpose}/augment", step))]
        x += [node.public.x[common]] if len(common) else []
        named = (node.seed, f"{purpose}/forward", node.id, step)
        with seeded(sources, seed_of(*named), node.device) if sources else nullcontext():
            logits = model(torch.cat(x) if len(x) > 1 else x[0]).flatten(0, -2)  # one forward pass for both
            value = loss(_batch(node, logits, own, common, target, labels))
            gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
        optimiser.step(gradients)
        total += value.detach()
        node.samples += len(own) + len(common)
    node.steps += steps
    if not bool(total.isfinite()):
        raise DivergedError(f"its training loss is not finite at lr = {settings.lr:g}")
    return total / max(steps, 1)


def _batch(node: Node, logits: Tensor, own: Tensor, common: Tensor, target: Target | None, labels: Labels) -> Batch:
    """What a loss sees of (rows, classes) logits of the private samples `own`, then the transfer samples `common`."""
    border = len(own) * (len(logits) // (len(own) + len(common)))
    of_own, of_common = logits[:border], logits[border:]
    both = labels == "all" and node.transfer is not None and node.transfer.y is not None
    labelled, y = of_own, own[:0]
    if labels != "none":
        y = _labels(node.private, own)
        if both:
            labelled, y = logits, torch.cat([y, _labels(node.public, common)])
    if target is None:
        return Batch(node, labelled, y, None, None, known=both)
    on_own = target.on == "private"
    student, index, n = (of_own, own, len(node.private)) if on_own else (of_common, common, len(node.public))
    teacher = rows_of(target.logits, index, n)
    weights = None if target.weights is None else rows_of(target.weights, index, n)
    revised = None if target.revised is None else rows_of(target.revised, index, n)
    return Batch(node, labelled, y, student, teacher, weights, revised, known=both or (on_own and labels != "none"))


def _labels(data: Data, index: Tensor) -> Tensor:
    assert data.y is not None
    return rows_of(data.y, index, len(data))


def _batches(
    node: Node, kind: str, data: Data, settings: Optimisation, steps: int, first: int, purpose: str
) -> Iterator[Tensor]:
    """(batch,) indices of each step: consecutive slices of endless, reshuffled passes over the data."""
    n = len(data)
    size = min(settings.batch_size, n)
    start, stop = first * size, (first + steps) * size
    passes = range(start // n, -(-stop // n))
    order = [torch.randperm(n, generator=node.rng(f"{purpose}/{kind}", part)) for part in passes]
    if not order:
        return iter(())
    skipped = start % n
    return iter(torch.split(torch.cat(order)[skipped : skipped + steps * size], size))

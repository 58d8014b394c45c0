"""Steps of a loss: the hot path, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.augment import augmentation
from fedkd.draws import seeded, sources_of
from fedkd.errors import DivergedError
from fedkd.losses import cross_entropy
from fedkd.node import Data, Node, Optimisation, rows_of
from fedkd.streams import seed_of

Labels = Literal["all", "private", "none"]
"""Which labelled samples a loss reads: private and labelled transfer, private alone, or none."""


@dataclass(frozen=True, eq=False)
class Target:
    """What a student shall predict."""

    logits: Tensor
    """(n, classes): soft labels are softmax(logits / T)"""
    weights: Tensor | None = None
    """(n,) how much each sample counts in the mean over a batch, 0 to 1, or None for all in full"""
    on: Literal["transfer", "private"] = "transfer"
    """which samples these are the soft labels of"""
    revised: Tensor | None = None
    """(n,) bool: which soft labels are not the teacher's any more; None: none"""
    said: Tensor | None = None
    """(n, classes) what they were before any revision; None: the same"""

    @property
    def unrevised(self) -> Tensor:
        """(n, classes) soft labels as they were before any revision."""
        return self.logits if self.said is None else self.said


@dataclass(frozen=True, eq=False)
class Batch:
    """What a loss sees at one step."""

    node: Node
    labelled: Tensor
    """(b, classes) student logits of samples whose labels are known; with a labelled transfer set its share is last"""
    labels: Tensor
    """(b,) their labels"""
    student: Tensor | None
    """(m, classes) student logits of distilled samples, with gradients; None where nothing is distilled"""
    teacher: Tensor | None
    """(m, classes) their target logits"""
    weights: Tensor | None = None
    """(m,) their weights"""
    revised: Tensor | None = None
    """(m,) bool: which targets were revised"""
    known: bool = False
    """whether the distilled samples are among the labelled ones: then they are the last m of them"""

    def ground_truth(self, distilled: float) -> Tensor:
        """(1 − distilled)·CE, where that share goes to distillation; of samples that are not distilled after all,
        because their weight is 0, the whole CE."""
        if self.weights is None or not self.known:
            return (1 - distilled) * cross_entropy(self.labelled, self.labels)
        each = F.cross_entropy(self.labelled, self.labels, reduction="none")
        share = torch.full_like(each, 1 - distilled)
        share[len(each) - len(self.weights) :] += distilled * (1 - self.weights)
        return (share * each).mean()


Loss = Callable[[Batch], Tensor]


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


class Optimiser(Protocol):
    """Turns gradients into a step."""

    def step(self, gradients: tuple[Tensor, ...]) -> None: ...


def make_optimiser(parameters: Sequence[Tensor], settings: Optimisation) -> Optimiser:
    """The optimiser that the settings name, with fresh state."""
    return SGD(parameters, settings) if settings.optimizer == "sgd" else _TorchOptimiser(parameters, settings)


class SGD:
    """Stochastic gradient descent with momentum and weight decay, as in torch.optim.

    Its own three lines, because the first optimiser made by torch.optim imports the compiler: two seconds in
    every worker.
    """

    def __init__(self, parameters: Sequence[Tensor], settings: Optimisation) -> None:
        self._parameters = list(parameters)
        self._settings = settings
        self._velocity: list[Tensor] = []

    @torch.no_grad()
    def step(self, gradients: tuple[Tensor, ...]) -> None:
        settings, step = self._settings, list(gradients)
        if settings.weight_decay:
            step = list(torch._foreach_add(step, self._parameters, alpha=settings.weight_decay))
        if settings.momentum:
            if self._velocity:
                torch._foreach_mul_(self._velocity, settings.momentum)
                torch._foreach_add_(self._velocity, step)
            else:
                self._velocity = [gradient.clone() for gradient in step]
            step = self._velocity
        torch._foreach_add_(self._parameters, step, alpha=-settings.lr)


class _TorchOptimiser:
    def __init__(self, parameters: Sequence[Tensor], settings: Optimisation) -> None:
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        self._parameters = parameters
        self._optimiser = kinds[settings.optimizer](
            parameters, lr=settings.lr, weight_decay=settings.weight_decay, foreach=True
        )

    def step(self, gradients: tuple[Tensor, ...]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimiser.step()

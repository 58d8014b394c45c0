"""Several clients trained in lockstep: their networks are stacked, and one pass computes a step of each.

Parameters and buffers of N clients become tensors (N, …), on which `torch.func` runs the network of one client for
all. Each client has the batches, the learning rates and the optimiser state that it has alone, so its weights are
those of `fit` but for rounding. Clients are sorted by their steps: those that have finished are the last, and the
others go on as the first rows of the same tensors.

Clients with batches of different sizes, as where one has fewer samples than a batch, are stacked apart, so that no
sample is padded and BatchNorm sees what it sees alone. Networks that draw random numbers (dropout) and networks or
losses that `torch.func` cannot run train one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fedkd.node.node import Node
from fedkd.settings.training import Optimisation
from fedkd.tensors.draws import sources_of
from fedkd.training.batch import Fit, Numbers
from fedkd.training.batches import Batches
from fedkd.training.fit import diverged, fit
from fedkd.training.rates import Rates
from fedkd.training.stacked_layers import StackedNetwork
from fedkd.training.stacked_losses import StackedLosses, function_of
from fedkd.training.stacked_optimisers import clip_each, make_stacked_optimiser, per_client

BLOCK = 2**25
"""Bytes of inputs that are gathered at once, for several steps of all clients."""


def fit_stacked(nodes: Sequence[Node], jobs: Sequence[Fit]) -> list[Tensor | Exception]:
    """Train the students of several nodes, each by its own job, together as far as they fit together.

    The networks must be of one spec. Returns what `fit` returns for each node, or the exception that it raises there:
    a client that diverges changes no other client.
    """
    if len(nodes) == 1:
        return [_alone(nodes[0], jobs[0])]
    results: dict[int, Tensor | Exception] = {}
    clients = [Member.of(number, node, job) for number, (node, job) in enumerate(zip(nodes, jobs, strict=True))]
    for stack in _stacks(clients):
        try:
            losses = Stack(stack).trained() if len(stack) > 1 else None
        except Exception as error:  # nothing has changed yet: what is wrong shows again, where it belongs
            _say(", ".join(str(client.node.id) for client in stack), f"{type(error).__name__}: {error}")
            losses = None
        if losses is None:
            results |= {client.number: _alone(client.node, client.job) for client in stack}
        else:
            results |= {client.number: loss for client, loss in zip(stack, losses, strict=True)}
    return [results[number] for number in range(len(nodes))]


def _alone(node: Node, job: Fit) -> Tensor | Exception:
    try:
        return fit(node, job)
    except Exception as error:
        return error


@lru_cache(maxsize=256)
def _say(clients: str, reason: str) -> None:
    logging.getLogger("fedkd").warning("clients %s train one by one: %s", clients, reason.splitlines()[0])


@dataclass(frozen=True, eq=False)
class Member:
    """One client of a stack: its node, its job, and the batches that follow from both."""

    number: int
    node: Node
    job: Fit
    settings: Optimisation
    numbers: Numbers
    batches: Batches

    @classmethod
    def of(cls, number: int, node: Node, job: Fit) -> Member:
        return cls(number, node, job, job.optimisation or node.training, job.numbers(node), Batches(node, job))

    @property
    def form(self) -> tuple[object, ...]:
        """Clients with equal forms are stacked."""
        settings, x = self.settings, self.node.private.x
        fixed = tuple((name, value.shape, value.dtype) for name, value in self.job.fixed.items())
        how = (settings.optimizer, settings.clip > 0, self.node.compute, function_of(self.job.loss))
        specs, id = self.node.specs, self.node.id
        network = specs[id] if 0 <= id < len(specs) else repr(self.node.student)
        return (network, x.shape[1:], x.dtype, fixed, *how, *self.batches.form)


def _stacks(clients: Sequence[Member]) -> Iterator[list[Member]]:
    """The clients that train together, those with the most steps first."""
    by_form: dict[object, list[Member]] = {}
    for client in clients:
        by_form.setdefault(client.form, []).append(client)
    for stack in by_form.values():
        if sources_of(stack[0].node.student):
            yield from ([client] for client in stack)
        else:
            yield sorted(stack, key=lambda client: -client.numbers.steps)


class Stack:
    """The training of clients with equal forms, those with the most steps first."""

    def __init__(self, clients: Sequence[Member]) -> None:
        self.clients, student = clients, clients[0].node.student.train()
        named = [client.batches.parameters for client in clients]
        buffers = [dict(client.node.student.named_buffers()) for client in clients]
        self._trained = {name: _column(named, name) for name in named[0] if named[0][name].requires_grad}
        frozen = [{name: each[name] for name in each if name not in self._trained} for each in named]
        self._theirs = {name: _column(buffers, name) for name in buffers[0]}
        self._parameters = {name: torch.stack(each).detach() for name, each in self._trained.items()}
        self._buffers = _stacked(frozen) | {name: torch.stack(each) for name, each in self._theirs.items()}
        self._like = next(iter(self._parameters.values()))
        settings = [client.settings for client in clients]
        self._clip = per_client([each.clip for each in settings], self._like) if settings[0].clip else 0.0
        self._optimiser = make_stacked_optimiser(settings, self._like)
        self._network, self._compute = StackedNetwork(student), clients[0].node.compute
        self._losses = StackedLosses([(client.node, client.job.loss, client.batches) for client in clients])
        self._fixed = _stacked([client.job.fixed for client in clients])

    def trained(self) -> list[Tensor | Exception]:
        """Take all steps; the students change at the end. Returns each client's mean loss, or that it diverged."""
        clients = self.clients
        steps = [client.numbers.steps for client in clients]
        totals = torch.zeros(len(clients), dtype=self._like.dtype, device=self._like.device)
        drawn = [client.batches.indices(client.numbers.steps, client.numbers.first) for client in clients]
        rates = self._rates()
        begin = 0
        for end in sorted(set(steps) - {0}):
            active = sum(each >= end for each in steps)
            self.begin(active)
            for start, x, rows in blocks(clients[:active], begin, end, drawn):
                for step in range(x.shape[1]):
                    now = {name: each[:, step] for name, each in rows.items()}
                    totals[:active] += self.step(x[:, step], now, rates[start + step])
            begin = end
        self._write_back()
        return list(self._results(totals))

    def _rates(self) -> list[float | Tensor]:
        """The learning rate at every step: one for all, or (clients,) with those that have finished at 0."""
        first = self.clients[0]
        if all(_constant(client.settings) == _constant(first.settings) != 0 for client in self.clients):
            return [first.settings.lr] * first.numbers.steps
        plans = [
            [rates.at(client.numbers.first + step) for step in range(client.numbers.steps)]
            for client in self.clients
            for rates in [Rates(client.settings, client.numbers.horizon, client.numbers.period)]
        ]
        return [
            per_client([plan[step] for plan in plans if step < len(plan)], self._like) for step in range(len(plans[0]))
        ]

    def begin(self, active: int) -> None:
        """From now on the first `active` clients take steps."""
        self._active = {name: each[:active].requires_grad_() for name, each in self._parameters.items()}
        self._leaves = list(self._active.values())
        self._network.tensors = self._active | {name: each[:active] for name, each in self._buffers.items()}
        self._read = {name: each[:active] for name, each in self._fixed.items()}
        self._norms = self._clip[:active] if isinstance(self._clip, Tensor) else self._clip

    def step(self, x: Tensor, rows: Mapping[str, Tensor], rate: float | Tensor) -> Tensor:
        """One step of the active clients on inputs and `Batches.rows`, (active, …); returns their (active,) losses."""
        losses = self._losses(self._compute(self._network, x), rows, self._active, self._read)
        gradients = list(torch.autograd.grad(losses.sum(), self._leaves, materialize_grads=True))
        if isinstance(self._norms, Tensor) or self._norms:
            gradients = clip_each(gradients, self._norms)
        self._optimiser.step(self._leaves, gradients, rate)
        return losses.detach()

    @torch.no_grad()
    def _write_back(self) -> None:
        for given, ours in ((self._trained, self._parameters), (self._theirs, self._buffers)):
            for name, theirs in given.items():
                torch._foreach_copy_(theirs, list(ours[name].unbind()))

    def _results(self, totals: Tensor) -> Iterator[Tensor | Exception]:
        """Book the steps of every client; yields its mean loss, or that it diverged."""
        for client, total, finite in zip(self.clients, totals.unbind(), totals.isfinite().tolist(), strict=True):
            steps = client.numbers.steps
            client.node.steps += steps
            client.node.samples += steps * sum(client.batches.sizes)
            yield total / max(steps, 1) if finite else diverged(client.settings)


def _constant(settings: Optimisation) -> float:
    """The learning rate of all steps; 0: it changes."""
    return settings.lr if settings.schedule == "constant" and not settings.warmup else 0.0


def _stacked(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack(_column(parts, name)) for name in parts[0]}


def _column(parts: Sequence[Mapping[str, Tensor]], name: str) -> list[Tensor]:
    return [part[name] for part in parts]


def blocks(
    clients: Sequence[Member], begin: int, end: int, drawn: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[tuple[int, Tensor, dict[str, Tensor]]]:
    """(first step, inputs (clients, steps, samples, …), rows (clients, steps, …)) of some steps at a time."""
    x = clients[0].node.private.x
    a_step = len(clients) * sum(clients[0].batches.sizes) * x[0].numel() * x.element_size()
    length = max(1, BLOCK // max(a_step, 1))
    for start in range(begin, end, length):
        stop = min(start + length, end)
        blocks = [
            client.batches.block(client.numbers.first + start, private[start:stop], common[start:stop])
            for client, (private, common) in zip(clients, drawn, strict=False)
        ]
        yield start, torch.stack([x for x, _ in blocks]), _stacked([rows for _, rows in blocks])

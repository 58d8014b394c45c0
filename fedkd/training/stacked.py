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
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedkd.node.node import Node
from fedkd.settings.training import Optimisation
from fedkd.tensors.draws import sources_of
from fedkd.training.batch import Fit, Numbers
from fedkd.training.batches import Batches
from fedkd.training.fit import diverged, fit
from fedkd.training.rates import Rates
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
    clients = [_Client.of(number, node, job) for number, (node, job) in enumerate(zip(nodes, jobs, strict=True))]
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
class _Client:
    """One client of a stack."""

    number: int
    node: Node
    job: Fit
    settings: Optimisation
    numbers: Numbers
    batches: Batches

    @classmethod
    def of(cls, number: int, node: Node, job: Fit) -> _Client:
        return cls(number, node, job, job.optimisation or node.training, job.numbers(node), Batches(node, job))

    @property
    def form(self) -> tuple[object, ...]:
        """Clients with equal forms are stacked."""
        settings, x = self.settings, self.node.private.x
        fixed = tuple((name, value.shape, value.dtype) for name, value in self.job.fixed.items())
        how = (settings.optimizer, settings.clip > 0, self.node.compute, function_of(self.job.loss))
        return (repr(self.node.student), x.shape[1:], x.dtype, fixed, *how, *self.batches.form)


def _stacks(clients: Sequence[_Client]) -> Iterator[list[_Client]]:
    """The clients that train together, those with the most steps first."""
    by_form: dict[object, list[_Client]] = {}
    for client in clients:
        draws = bool(sources_of(client.node.student))
        by_form.setdefault(client.number if draws else client.form, []).append(client)
    for stack in by_form.values():
        yield sorted(stack, key=lambda client: -client.numbers.steps)


class _Network(nn.Module):
    """The networks of the first k clients as one: (k, n, …) inputs → (k, n, …) outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.tensors: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        """parameters and buffers, (k, …)"""
        # In a tuple, because a module must not have its parameters twice.
        self._network = (network,)

    def forward(self, x: Tensor) -> Tensor:
        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self._network[0], (parameters, buffers), (x,))
            return outputs

        outputs: Tensor = vmap(one)(*self.tensors, x)
        return outputs


class Stack:
    """The training of clients with equal forms, those with the most steps first."""

    def __init__(self, clients: Sequence[_Client]) -> None:
        self.clients, students = clients, [client.node.student.train() for client in clients]
        named = [dict(student.named_parameters()) for student in students]
        buffers = [dict(student.named_buffers()) for student in students]
        trained = [name for name, parameter in named[0].items() if parameter.requires_grad]
        self._parameters = {name: torch.stack([each[name].detach() for each in named]) for name in trained}
        fixed = [each | {name: value for name, value in part.items() if name not in trained}
                 for each, part in zip(buffers, named, strict=True)]  # fmt: skip
        self._buffers = {name: torch.stack([each[name].detach() for each in fixed]) for name in fixed[0]}
        self._like = next(iter(self._parameters.values()))
        settings = [client.settings for client in clients]
        self._clip = per_client([each.clip for each in settings], self._like) if settings[0].clip else 0.0
        self._optimiser = make_stacked_optimiser(settings, self._like)
        self._network, self._compute = _Network(students[0]), clients[0].node.compute
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
            self._segment(active, begin, end, drawn, rates, totals)
            begin = end
        self._write_back()
        return [self._result(client, total) for client, total in zip(clients, totals.unbind(), strict=True)]

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

    def _segment(
        self,
        active: int,
        begin: int,
        end: int,
        drawn: Sequence[tuple[Tensor, Tensor]],
        rates: Sequence[float | Tensor],
        totals: Tensor,
    ) -> None:
        """Steps from `begin` up to `end` of the first `active` clients."""
        clients = self.clients[:active]
        parameters = {name: each[:active].requires_grad_() for name, each in self._parameters.items()}
        leaves = list(parameters.values())
        self._network.tensors = (parameters, {name: each[:active] for name, each in self._buffers.items()})
        fixed = {name: each[:active] for name, each in self._fixed.items()}
        for start, x, rows in _blocks(clients, begin, end, drawn):
            for step in range(x.shape[1]):
                outputs = self._compute(self._network, x[:, step])
                now = {name: each[:, step] for name, each in rows.items()}
                losses = self._losses(outputs, now, parameters, fixed)
                gradients = list(torch.autograd.grad(losses.sum(), leaves, materialize_grads=True))
                if isinstance(self._clip, Tensor) or self._clip:
                    norms = self._clip[:active] if isinstance(self._clip, Tensor) else self._clip
                    gradients = clip_each(gradients, norms)
                self._optimiser.step(leaves, gradients, rates[start + step])
                totals[:active] += losses.detach()

    @torch.no_grad()
    def _write_back(self) -> None:
        for row, client in enumerate(self.clients):
            for name, parameter in client.node.student.named_parameters():
                if name in self._parameters:
                    parameter.copy_(self._parameters[name][row])
            for name, buffer in client.node.student.named_buffers():
                buffer.copy_(self._buffers[name][row])

    def _result(self, client: _Client, total: Tensor) -> Tensor | Exception:
        steps = client.numbers.steps
        client.node.steps += steps
        client.node.samples += steps * sum(client.batches.sizes)
        if not bool(total.isfinite()):
            return diverged(client.settings)
        return total / max(steps, 1)


def _constant(settings: Optimisation) -> float:
    """The learning rate of all steps; 0: it changes."""
    return settings.lr if settings.schedule == "constant" and not settings.warmup else 0.0


def _stacked(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def _blocks(
    clients: Sequence[_Client], begin: int, end: int, drawn: Sequence[tuple[Tensor, Tensor]]
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

"""The trainings of several clients, each described by a plan, advanced together so that they can be stacked."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, cast

from torch import Tensor

from fedkd.node.node import Node
from fedkd.training.batch import Fit
from fedkd.training.stacked import fit_stacked

Plan = Generator[Fit, Tensor, Any] | Iterator[Fit]
"""The trainings of one client, in order. A generator is sent the mean loss of each; what it returns is the result."""


def train_together(nodes: Sequence[Node], plans: Sequence[Plan]) -> list[Any]:
    """Train every `Fit` of every node's plan: the first ones of all nodes together, then the second ones, and so on.

    A node whose plan is at its end drops out. Returns what each plan returns (None if it is no generator), or the
    exception that ended it; the others go on without it.
    """
    results: dict[int, Any] = {}
    losses: dict[int, Tensor | None] = dict.fromkeys(range(len(plans)))
    while losses:
        jobs: dict[int, Fit] = {}
        for number, loss in losses.items():
            try:
                jobs[number] = _advanced(plans[number], loss)
            except StopIteration as end:
                results[number] = end.value
            except Exception as error:
                results[number] = error
        trained = fit_stacked([nodes[number] for number in jobs], list(jobs.values()))
        losses = {}
        for number, loss in zip(jobs, trained, strict=True):
            if isinstance(loss, Exception):
                results[number] = loss
                if isinstance(plan := plans[number], Generator):
                    plan.close()
            else:
                losses[number] = loss
    return [results[number] for number in range(len(plans))]


def _advanced(plan: Plan, loss: Tensor | None) -> Fit:
    """The next training of a plan, after one whose mean loss is `loss`; None: it is the first."""
    if loss is None or not isinstance(plan, Generator):
        return next(plan)
    return cast(Fit, plan.send(loss))

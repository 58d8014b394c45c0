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
    outcomes: dict[int, Tensor | Exception | None] = dict.fromkeys(range(len(plans)))
    while outcomes:
        jobs: dict[int, Fit] = {}
        for number, outcome in outcomes.items():
            try:
                jobs[number] = _advanced(plans[number], outcome)
            except StopIteration as end:
                results[number] = end.value
            except Exception as error:
                results[number] = error
        trained = fit_stacked([nodes[number] for number in jobs], list(jobs.values()))
        outcomes = dict(zip(jobs, trained, strict=True))
    return [results[number] for number in range(len(plans))]


def _advanced(plan: Plan, outcome: Tensor | Exception | None) -> Fit:
    """The next training of a plan, after the mean loss of one or the exception that ended it; None: the first."""
    if not isinstance(plan, Generator):
        if isinstance(outcome, Exception):
            raise outcome
        return next(plan)
    if isinstance(outcome, Exception):
        return cast(Fit, plan.throw(outcome))
    return cast(Fit, next(plan) if outcome is None else plan.send(outcome))

"""Which points are tried next, and which are given up: Optuna's samplers and pruner, with nothing on disk.

Optuna keeps no memory between two calls: a study is built anew from what was found so far, so that whoever resumes
is told the same.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from fedkd.base.streams import seed_of
from fedkd.tuning.grid import Grid, Point, Range, Values

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

Sampler = Literal["grid", "random", "qmc", "tpe"]
Direction = Literal["maximize", "minimize"]

_ATTEMPTS = 20
"""Draws for each point that is wanted, before a grid's own order fills what only known points were drawn for."""


def propose(
    grid: Grid,
    sampler: Sampler,
    number: int,
    seed: int,
    told: Mapping[Point, float | None],
    direction: Direction = "maximize",
) -> list[Point]:
    """`number` points that were not tried before, as `sampler` draws them; fewer where a grid has no more.

    `told`: what was tried so far, in order, and what came of it; None where nothing did.
    """
    if sampler == "grid":
        return list(itertools.islice((point for point in grid.points() if point not in told), number))
    found: dict[Point, None] = {}
    with _quiet():
        import optuna

        # Low-discrepancy sequences fill numbers: a list is its places there, and a choice elsewhere.
        space = {name: _distribution(values, places=sampler == "qmc") for name, values in grid.entries}
        study = optuna.create_study(
            sampler=_sampler(sampler, seed_of(seed, "tuning", len(told)), number), direction=direction
        )
        for point, value in told.items():
            if value is not None:
                study.add_trial(_finished(point, value, space))
        left = grid.size - sum(point in told for point in grid.points()) if math.isfinite(grid.size) else math.inf
        for _ in range(_ATTEMPTS * number):
            if len(found) >= min(number, left):
                break
            trial = study.ask(space)
            point = tuple(float(trial.params[name]) for name in grid.names)
            if point in found or point in told:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                found[point] = None
    if len(found) < min(number, left) and math.isfinite(grid.size):
        rest = (point for point in grid.points() if point not in found and point not in told)
        found.update(dict.fromkeys(itertools.islice(rest, number - len(found))))
    return list(found)


def given_up(histories: Mapping[int, Sequence[float]], direction: Direction) -> set[int]:
    """Which cells successive halving stops: after rounds 1, 2, 4, … all but the better half, rounded down.

    histories: each cell's value after each of its rounds. Li et al. 2020, arXiv 1810.05934, as Optuna's
    SuccessiveHalvingPruner has it. That decides as trials come in; here every cell is asked last, so that it is
    measured against all others.
    """
    furthest = max(map(len, histories.values()))
    stopped = set()
    with _quiet():
        import optuna

        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        for cell in (cell for cell, history in histories.items() if len(history) == furthest):
            study = optuna.create_study(pruner=pruner, direction=direction)
            for other in (*(other for other in histories if other != cell), cell):
                if _told_of(study, histories[other]) and other == cell:
                    stopped.add(cell)
    return stopped


def _told_of(study: Study, history: Sequence[float]) -> bool:
    """Tell a study of one more trial's rounds; whether its last round should be its last."""
    trial, verdict = study.ask(), False
    for step, value in enumerate(history, start=1):
        trial.report(value, step)
        verdict = trial.should_prune()
    return verdict


def _sampler(name: Sampler, seed: int, number: int) -> BaseSampler:
    import optuna

    seed %= 2**32
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "qmc":
        return optuna.samplers.QMCSampler(seed=seed, scramble=True)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=number, constant_liar=True)


def _distribution(values: Values, *, places: bool) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        many = len(values)
        return IntDistribution(0, many - 1) if places else CategoricalDistribution(tuple(range(many)))
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _finished(point: Point, value: float, space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    import optuna

    names = {name: number for (name, _), number in zip(space.items(), point, strict=True)}
    whole = {name: number if _real(space[name]) else int(number) for name, number in names.items()}
    return optuna.trial.create_trial(params=whole, distributions=dict(space), value=value)


def _real(distribution: BaseDistribution) -> bool:
    from optuna.distributions import FloatDistribution

    return isinstance(distribution, FloatDistribution)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's lines about every study, and without its notes on what is experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)

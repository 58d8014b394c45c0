"""Which points to try next and which cells to stop, by Optuna's samplers and pruner, without files.

Each call builds a new Optuna study from the results so far, so a resumed run gets the same points.
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
"""Draws for each point that is wanted. If they give too few new points, the next points of the grid are taken."""


def propose(
    grid: Grid,
    sampler: Sampler,
    number: int,
    seed: int,
    tried: Mapping[Point, float | None],
    direction: Direction = "maximize",
) -> list[Point]:
    """`number` new points, drawn by `sampler`; fewer if the grid has no more.

    `tried`: the points tried so far, in order, with their values; None for a point without a value.
    """
    if sampler == "grid":
        return list(itertools.islice((point for point in grid.points() if point not in tried), number))
    proposed: dict[Point, None] = {}
    with _quiet():
        import optuna

        # Low-discrepancy sequences need numbers: for them a list is its indices, for others a choice.
        space = {name: _distribution(values, indices=sampler == "qmc") for name, values in grid.entries}
        study = optuna.create_study(
            sampler=_sampler(sampler, seed_of(seed, "tuning", len(tried)), number), direction=direction
        )
        for point, value in tried.items():
            if value is not None:
                study.add_trial(_finished(point, value, space))
        left = grid.size - sum(point in tried for point in grid.points()) if math.isfinite(grid.size) else math.inf
        for _ in range(_ATTEMPTS * number):
            if len(proposed) >= min(number, left):
                break
            trial = study.ask(space)
            point = tuple(float(trial.params[name]) for name in grid.names)
            if point in proposed or point in tried:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                proposed[point] = None
    if len(proposed) < min(number, left) and math.isfinite(grid.size):
        rest = (point for point in grid.points() if point not in proposed and point not in tried)
        proposed.update(dict.fromkeys(itertools.islice(rest, number - len(proposed))))
    return list(proposed)


def given_up(histories: Mapping[int, Sequence[float]], direction: Direction) -> set[int]:
    """The cells that successive halving stops: after rounds 1, 2, 4, … all but the better half, rounded down.

    histories: each cell's value after each of its rounds. Li et al. 2020, arXiv 1810.05934, as in Optuna's
    SuccessiveHalvingPruner. That compares a trial only with earlier ones; here each cell in turn is the last trial,
    so that it is compared with all others.
    """
    furthest = max(map(len, histories.values()))
    stopped = set()
    with _quiet():
        import optuna

        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        for cell in (cell for cell, history in histories.items() if len(history) == furthest):
            study = optuna.create_study(pruner=pruner, direction=direction)
            for other in (*(other for other in histories if other != cell), cell):
                if _prunes(study, histories[other]) and other == cell:
                    stopped.add(cell)
    return stopped


def _prunes(study: Study, history: Sequence[float]) -> bool:
    """Add a trial with these values to a study; whether the pruner stops it after the last value."""
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


def _distribution(values: Values, *, indices: bool) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        many = len(values)
        return IntDistribution(0, many - 1) if indices else CategoricalDistribution(tuple(range(many)))
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
    """Silence Optuna's log lines and its warnings about experimental features."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)

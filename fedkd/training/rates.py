"""The learning rate of each step, and the base class of schedules. The folder `schedules/` holds a file for each."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fedkd.base.catalogue import Catalogue
from fedkd.base.files import file_cache
from fedkd.settings.training import Optimisation


class RateSchedule(ABC):
    """How the learning rate changes in a training: a frozen pydantic dataclass whose fields are its parameters."""

    @abstractmethod
    def share(self, time: float, horizon: float) -> float:
        """Share of `lr` at a time from 0 up to the horizon, the end of the training; both are in rounds.

        In pre-training they are in epochs. Warm-up is over at time 0, and is no part of the horizon.
        """


SCHEDULES: Catalogue[RateSchedule] = Catalogue("schedule", "fedkd.training.schedules", RateSchedule)  # type: ignore[type-abstract]


class Rates:
    """The learning rate of every step of a training that begins with a warm-up and then follows its schedule.

    It depends only on the number of the step, so a resumed training continues with the right rate.
    """

    def __init__(self, settings: Optimisation, horizon: int, period: int) -> None:
        """`horizon` counts the steps of the whole training, and `period` those of a round or an epoch."""
        self._schedule, self._lr, self._period = _built(settings.schedule), settings.lr, max(period, 1)
        self._warmup = round(settings.warmup * self._period)
        self._after = max(horizon - self._warmup, 0) / self._period

    def at(self, step: int) -> float:
        """Learning rate at a step, counted from 0. After the horizon it stays at its last value."""
        if step < self._warmup:
            return self._lr * (step + 1) / self._warmup
        return self._lr * self._schedule.share(min((step - self._warmup) / self._period, self._after), self._after)


@file_cache(maxsize=64)
def _built(schedule: str) -> RateSchedule:
    return SCHEDULES.build(schedule)

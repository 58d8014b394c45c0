"""The order in which a study's federations run."""

from __future__ import annotations

import json
import threading
from functools import lru_cache

from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.tuning.plan import SearchPlan
from simulations.journal import Journal
from simulations.recipe import settings_of


class Queue:
    """Federations that wait for a lane.

    The first federation of each start pre-trains its clients. Others with the same start wait for it here and not in
    a worker. All workers pre-train one start at a time, so that the first results come early.

    Long federations run first: of each start, and of the starts that with the longest. So no worker is idle at the end
    while another has a long federation before it. Equally long ones stay in the order of the recipe.
    """

    def __init__(self, federations: list[tuple[Federation, Journal]]) -> None:
        costs = {federation: cost(federation) for federation, _ in federations}
        longest: dict[str, float] = {}
        for federation, much in costs.items():
            longest[_start_of(federation)] = max(much, longest.get(_start_of(federation), 0.0))
        first = {start: place for place, start in enumerate(longest)}

        def rank(item: tuple[Federation, Journal]) -> tuple[float, int, float]:
            start = _start_of(item[0])
            return -longest[start], first[start], -costs[item[0]]

        self._queued = sorted(federations, key=rank)
        self._starting: set[str] = set()
        self._ready: set[str] = set()
        self._changed = threading.Condition()

    def take(self, stop: threading.Event) -> tuple[Federation, Journal] | None:
        """The next federation that can run without waiting; None when nothing is left or `stop` is set."""
        with self._changed:
            while self._queued and not stop.is_set():
                for index, (federation, _) in enumerate(self._queued):
                    start = _start_of(federation)
                    if start in self._ready or not self._starting:
                        if start not in self._ready:
                            self._starting.add(start)
                        return self._queued.pop(index)
                self._changed.wait(timeout=1.0)
        return None

    def started(self, federation: Federation) -> None:
        """This federation's start is cached (or has failed): its siblings may run."""
        with self._changed:
            self._starting.discard(_start_of(federation))
            self._ready.add(_start_of(federation))
            self._changed.notify_all()


def cost(federation: Federation) -> float:
    """About how long a federation takes, in trainings of one client in one round; searches try each cell."""
    method = schedule_of(federation).method
    rounds = float(federation.rounds)
    if isinstance(method, SearchPlan):
        cells = method.trials or method.grid.size
        rounds += method.rounds * cells
    clients = max(1.0, len(federation.learners) * federation.participation)
    train = federation.train
    return rounds * clients * (train.steps or train.epochs)


@lru_cache(maxsize=4096)
def _start_of(federation: Federation) -> str:
    settings = settings_of(federation)
    ours = {k: v for k, v in settings.items() if k not in ("method", "rounds") and not k.startswith("train.")}
    return json.dumps(ours, sort_keys=True)

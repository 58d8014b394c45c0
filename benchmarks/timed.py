"""Federations run and timed round by round, without a results folder: nothing is imported that only tables need."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.node.holdings import Holdings, Loader, Row
from fedkd.protocol.client import use_one_thread
from fedkd.settings.federation import Federation
from simulations.engine import Drive, Engine, Lane, chosen
from simulations.ray_settings import RaySettings


@dataclass
class Timing:
    """One federation."""

    federation: Federation
    start: float = 0.0
    """seconds of round 0: data, first models, pre-training, evaluation"""
    seconds: list[float] = field(default_factory=list)
    """of each round after it"""
    parts: list[dict[str, float]] = field(default_factory=list)
    """the same by part, as in `fedkd.flower.timing`; their sum is without what lies between rounds"""
    rows: list[Row] = field(default_factory=list)
    """of the last round"""


class Runner(Protocol):
    """What runs `drive` on some lanes: an engine."""

    def run(self, drive: Drive, clients: int, lanes: int) -> None: ...


def recipe_data(federation: Federation, client: int) -> Holdings:
    """What a recipe says; imported when it is first needed."""
    from simulations.data import load_holdings

    return load_holdings(federation, client)


@contextmanager
def started(runtime: str = "ray", ray: RaySettings | None = None, load: Loader = recipe_data) -> Iterator[Engine]:
    """An engine that runs, and is ended after the block."""
    use_one_thread()
    engine = chosen(runtime, client_app(load), ray or RaySettings())
    engine.begin(lambda: None)
    try:
        yield engine
    finally:
        engine.close()


def timed(
    engine: Runner,
    federation: Federation,
    on_round: Callable[[int], None] = lambda _: None,
    load: Loader = recipe_data,
) -> Timing:
    """Run one federation alone on a running engine; `on_round` is called with the number of each complete round."""
    timing = Timing(federation)

    def drive(lanes: Sequence[Lane]) -> None:
        with tempfile.TemporaryDirectory() as store:
            before = time.perf_counter()
            rounds = Rounds(federation, load, Path(store))

            def note(number: int, rows: list[Row]) -> None:
                nonlocal before
                now = time.perf_counter()
                if number:
                    timing.seconds.append(now - before)
                    timing.parts.append(dict(rounds.seconds))
                else:
                    timing.start = now - before
                timing.rows = rows
                on_round(number)
                before = time.perf_counter()

            rounds.start(lanes[0].grid, lanes[0].nodes, note)

    engine.run(drive, federation.clients, 1)
    return timing

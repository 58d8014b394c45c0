"""Lanes: parts of a Flower grid that run one federation at a time, side by side with others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flwr.serverapp import Grid

from fedkd.settings.federation import Federation

MOST_CLIENTS = 400
"""Clients whose messages are in flight at once, in all lanes together: the driver holds them in memory."""


@dataclass(frozen=True)
class Lane:
    """A part of a grid that runs one federation at a time."""

    grid: Grid
    nodes: list[int]
    kinds: Callable[[Federation], Sequence[str]] = lambda federation: ()  # noqa: ARG005
    """the kind of each client of a federation: clients of different kinds need different workers"""
    least: int = 1
    """groups that the clients are to be divided into at least"""


Drive = Callable[[list[Lane]], None]
"""Uses the lanes; the runtime ends when it returns."""


def divided(grid: Grid, lanes: int) -> list[list[int]]:
    """The nodes of a grid, for each of some lanes the same number."""
    nodes = sorted(grid.get_node_ids())
    width = len(nodes) // lanes
    return [nodes[lane * width : (lane + 1) * width] for lane in range(lanes)]


def lanes_for(clients: int, federations: int, workers: int) -> int:
    """Number of federations to run in parallel: twice the number of workers, as far as memory allows.

    While the server of one federation merges and writes its journal, the workers serve the others.
    """
    return max(1, min(2 * workers, federations, MOST_CLIENTS // clients))


def cpu_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

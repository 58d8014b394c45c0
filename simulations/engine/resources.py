"""What workers are given of a machine or a cluster, and how many of them there is room for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedkd.base.errors import UserError
from simulations.ray_settings import RaySettings

MEMORY_A_WORKER = 2**29
"""Bytes of main memory to be there for each worker: PyTorch, Flower, and what small clients need."""
_SLACK = 1e-6
"""Ray counts resources in units of 1/10,000, so ten tenths may be less than one."""


@dataclass(frozen=True)
class Need:
    """What a worker is given."""

    cpus: float
    gpus: float

    def covers(self, other: Need) -> bool:
        """Whether a worker of this size can serve what needs a worker of the other size."""
        return self.cpus >= other.cpus and self.gpus >= other.gpus


@dataclass(frozen=True)
class Room:
    """What one node of a cluster has."""

    cpus: float
    gpus: float
    memory: float = math.inf

    def holds(self, need: Need) -> int:
        """Number of workers that this node has room for: never more than it has CPU cores, or memory for."""
        cores = max(1, int(self.cpus + _SLACK)) if self.cpus else 0
        counts = [self.cpus / need.cpus, cores, self.memory / MEMORY_A_WORKER]
        if need.gpus:
            # A share of a GPU cannot be put together from two GPUs.
            counts.append(int(self.gpus) * int(1 / need.gpus + _SLACK) if need.gpus < 1 else self.gpus / need.gpus)
        fits = self.cpus >= need.cpus and self.gpus >= need.gpus
        return max(1 if fits else 0, int(min(counts) + _SLACK))


def default_need(settings: RaySettings) -> Need:
    """What each client is given."""
    return Need(settings.num_cpus, settings.num_gpus)


def workers(need: Need, rooms: Sequence[Room]) -> int:
    """Number of workers of one size that nodes have room for together."""
    return sum(room.holds(need) for room in rooms)


def check(settings: RaySettings, rooms: Sequence[Room], where: str) -> None:
    """Raise UserError if no node has what one client needs: Ray would wait for ever."""
    most = {
        "num_cpus": max((room.cpus for room in rooms), default=0.0),
        "num_gpus": max((room.gpus for room in rooms), default=0.0),
    }
    several = " on one node" if len(rooms) > 1 else ""
    for key, available in most.items():
        asked, what = getattr(settings, key), key[4:].upper().rstrip("S") + "s"
        if asked > available:
            has = f"has {available:g}{several}" if available else "has none"
            raise UserError(f"recipe key 'ray.{key}': each client is to have {asked:g} {what}, but {where} {has}")
    if settings.num_gpus > 1 and settings.num_gpus % 1:
        raise UserError(f"recipe key 'ray.num_gpus': {settings.num_gpus:g}; above 1, only whole GPUs can be given")


def rooms_of(nodes: Sequence[Mapping[str, object]]) -> list[Room]:
    """What the living nodes have, from Ray's description of them."""
    rooms = []
    for node in nodes:
        resources = node["Resources"]
        assert isinstance(resources, Mapping)
        if node["Alive"]:
            has = {name: float(resources.get(name, 0.0)) for name in ("CPU", "GPU")}
            rooms.append(Room(has["CPU"], has["GPU"], float(resources.get("memory", math.inf))))
    return rooms

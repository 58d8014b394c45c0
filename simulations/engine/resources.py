"""What workers are given of a machine or a cluster, and how many of them there is room for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedkd.base.errors import UserError
from simulations.ray_settings import RaySettings

MEMORY_A_WORKER = 2**29
"""Bytes of main memory that must be there for each worker: PyTorch, Flower, and what small clients need."""
_SLACK = 1e-6
"""Ray counts resources in units of 1/10,000, so ten tenths may be less than one."""


@dataclass(frozen=True, order=True)
class Need:
    """What a worker is given."""

    gpus: float
    cpus: float

    def covers(self, other: Need) -> bool:
        """Whether a worker of this size can serve what needs a worker of the other size."""
        return self.cpus >= other.cpus and self.gpus >= other.gpus

    def joined(self, other: Need) -> Need:
        """The smallest size that covers both."""
        return Need(max(self.gpus, other.gpus), max(self.cpus, other.cpus))

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True)
class Room:
    """What one node of a cluster has."""

    cpus: float
    gpus: float
    memory: float = math.inf


class Space:
    """What is left on one node while workers are placed there."""

    def __init__(self, room: Room) -> None:
        self._cpus = room.cpus
        self._gpus = [1.0] * int(room.gpus)
        # However small the share of a CPU: more workers than cores make nothing faster, and each takes memory.
        self._places = max(1, min(int(room.cpus), int(min(room.memory, 2**62) / MEMORY_A_WORKER)))

    def place(self, need: Need) -> bool:
        """Place a worker if there is room for it."""
        free = [gpu for gpu, share in enumerate(self._gpus) if share >= min(need.gpus, 1.0) - _SLACK]
        wanted = math.ceil(need.gpus - _SLACK)
        if not self._places or self._cpus < need.cpus - _SLACK or len(free) < wanted:
            return False
        self._places -= 1
        self._cpus -= need.cpus
        # A share of a GPU cannot be put together from two GPUs; the fullest that fits leaves whole ones whole.
        for gpu in sorted(free, key=lambda each: self._gpus[each])[:wanted]:
            self._gpus[gpu] -= min(need.gpus, 1.0)
        return True


def plan(work: Mapping[Need, float], rooms: Sequence[Room]) -> list[Need]:
    """The workers to start: one of each size, then as many as there is room for, in proportion to the work of each.

    A size for which there is no room beside larger ones is left out if one of these can serve it. `work` is, for each
    size, how much there is to do for it.

    Raises:
        UserError: workers of several sizes are needed, and not even one of each has room.
    """
    spaces = [Space(room) for room in rooms]
    counts: dict[Need, int] = {}
    for need in sorted(work, reverse=True):
        if any(space.place(need) for space in spaces):
            counts[need] = 1
        elif not any(other.covers(need) for other in counts):
            return _one_for_all(work, rooms)
    growing = dict(counts)
    while growing:
        need = max(growing, key=lambda each: (work[each] / counts[each], each))
        if any(space.place(need) for space in spaces):
            counts[need] += 1
        else:
            del growing[need]
    return [need for need, count in counts.items() for _ in range(count)]


def _one_for_all(work: Mapping[Need, float], rooms: Sequence[Room]) -> list[Need]:
    """Workers that are large enough for everything, where workers of different sizes do not fit beside each other."""
    whole = Need(0.0, 0.0)
    for need in work:
        whole = whole.joined(need)
    if len(work) == 1 or not any(Space(room).place(whole) for room in rooms):
        raise UserError(
            f"recipe table [ray]: there is no room for a worker with {whole}; Ray sees {described(rooms)}; "
            "ask for less, or for the same for all models"
        )
    return plan({whole: 1.0}, rooms)


def described(rooms: Sequence[Room]) -> str:
    """What there is, in words."""
    nodes = "one node" if len(rooms) == 1 else f"{len(rooms)} nodes"
    cpus, gpus = sum(room.cpus for room in rooms), sum(room.gpus for room in rooms)
    return f"{nodes} with {cpus:g} CPUs and {gpus:g} GPUs" + (" together" if len(rooms) > 1 else "")


def check(settings: RaySettings, rooms: Sequence[Room], where: str) -> None:
    """Raise UserError if no node has what one client needs: Ray would wait for ever."""
    most = {
        "num_cpus": max((room.cpus for room in rooms), default=0.0),
        "num_gpus": max((room.gpus for room in rooms), default=0.0),
    }
    several = " on one node" if len(rooms) > 1 else ""
    general: dict[str, float] = {"num_cpus": settings.num_cpus}
    if settings.num_gpus != "auto":
        general["num_gpus"] = settings.num_gpus
    for model, amounts in {"": general, **settings.resources}.items():
        for key, amount in amounts.items():
            name = f"ray.resources.{model}.{key}" if model else f"ray.{key}"
            available, what = most[key], key[4:].upper().rstrip("S") + "s"
            if amount > available:
                has = f"has {available:g}{several}" if available else "has none"
                raise UserError(f"recipe key {name!r}: each client is to have {amount:g} {what}, but {where} {has}")
            if key == "num_gpus" and amount > 1 and amount % 1:
                raise UserError(f"recipe key {name!r}: {amount:g}; above 1, only whole GPUs can be given")


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

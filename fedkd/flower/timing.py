"""Where the time of a round goes, as a division of the time by the clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

PARTS = ("waiting", "transport", "state", "training", "evaluation", "reports", "server")
"""The parts of a round. waiting: its messages wait for a free worker; transport: messages travel; state: data and state
are read and written at the clients; reports: clients make what they send; server: it merges, and writes results."""


@dataclass(frozen=True)
class Flight:
    """One message: when a worker got it and when its answer was back, in seconds of one clock, and its answer's parts.

    `spent` are the seconds that the worker's work took, by part.
    """

    handed: float
    back: float
    spent: Mapping[str, float]


def divided(began: float, sent: float, ended: float, flights: Sequence[Flight]) -> dict[str, float]:
    """Seconds of each of PARTS in an exchange from `began` to `ended`; they add up to the time between.

    Its messages were `sent` all at once.

    At any moment the exchange is with its workers, or waits for one, or is at the server. The time with the workers is
    divided in proportion to what they did: three workers that train side by side for a second are one second of
    training.
    """
    if not flights:
        return {"server": ended - began}
    with_workers = _covered([(flight.handed, flight.back) for flight in flights])
    last = max(flight.back for flight in flights)
    parts = {"waiting": max(last - sent - with_workers, 0.0)}
    flown = sum(flight.back - flight.handed for flight in flights)
    worked: dict[str, float] = {}
    for flight in flights:
        for part, seconds in flight.spent.items():
            worked[part] = worked.get(part, 0.0) + seconds
    worked["transport"] = max(flown - sum(worked.values()), 0.0)
    all_work = sum(worked.values())
    for part, seconds in worked.items():
        parts[part] = with_workers * seconds / all_work if all_work else 0.0
    parts["server"] = max(ended - began - sum(parts.values()), 0.0)
    return parts


def added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The sums of two divisions, by part."""
    return {part: one.get(part, 0.0) + other.get(part, 0.0) for part in (*one, *(set(other) - set(one)))}


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total

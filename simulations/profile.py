"""Where the time of a study went: a table with a line a round, and one line in words."""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedkd.base.disk import write_whole
from fedkd.flower.timing import PARTS, added
from fedkd.settings.federation import Federation

FILE = "profile.csv"
KEYS = ("dataset", "partition", "method", "models", "clients", "seed")
"""Columns that say which federation a line is of."""
WORTH_A_LINE = 60.0
"""Seconds after which the summary of a study says where its time went."""
STARTING = "start-up"

ADVICE = {
    "evaluation": "[evaluate] evaluates less often, on fewer splits or on fewer samples",
    "training": "[train] precision and stack, more workers or a GPU make it faster",
    "transport": "what travels is large, or the work of a message is small: fewer workers, or larger groups",
    "state": "models and data are large: a faster disk for the results folder helps",
    "reports": "soft predictions are made on the whole transfer set: a smaller one makes them faster",
    "server": "merging and writing results: fewer clients a round (participation), or a faster disk",
    STARTING: "more federations in one study share it, and a Ray cluster that runs already saves half",
}
"""What to change about the largest part."""


@dataclass
class Profile:
    """Seconds of every round by part, and of the start-up. Its methods may be called from several threads."""

    began: float = field(default_factory=time.perf_counter)
    startup: float = 0.0
    """seconds until the first message could be sent"""
    rounds: list[tuple[Federation, int, Mapping[str, float]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def started(self) -> None:
        """The workers are ready, and federations begin."""
        self.startup = time.perf_counter() - self.began

    def add(self, federation: Federation, round: int, seconds: Mapping[str, float]) -> None:
        """Count one round: its seconds by the clock, divided as in `fedkd.flower.timing`."""
        with self._lock:
            self.rounds.append((federation, round, dict(seconds)))

    def shares(self) -> dict[str, float]:
        """Share of each part in the time of the study, largest first; empty if no round has run.

        Several federations run at once, so the time in which one waits for workers is the work of the others: it is
        not counted again.
        """
        sums: dict[str, float] = {}
        for _, _, seconds in self.rounds:
            sums = added(sums, seconds)
        sums.pop("waiting", None)
        whole = time.perf_counter() - self.began
        work = sum(sums.values())
        if not work:
            return {}
        shares = {part: seconds / work * (1 - self.startup / whole) for part, seconds in sums.items()}
        shares[STARTING] = self.startup / whole
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def line(self) -> str:
        """Where the time went, in words; empty if no round has run."""
        shares = self.shares()
        if not shares:
            return ""
        largest = next(iter(shares))
        listed = ", ".join(f"{part} {share:.0%}" for part, share in shares.items() if share >= 0.005)
        return f"where the time went: {listed}. Largest is {largest}: {ADVICE[largest]}"

    @property
    def is_worth_a_line(self) -> bool:
        """Whether the study took so long that its summary says where the time went."""
        return time.perf_counter() - self.began >= WORTH_A_LINE

    def write(self, folder: Path) -> Path:
        """Write the table, one line a round, as `profile.csv` into a results folder; returns its path.

        The first line is the start-up of the study, which no federation has to itself.
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*KEYS, "round", "seconds", STARTING, *PARTS])
        table.writerow([*[""] * len(KEYS), "", f"{self.startup:.6f}", f"{self.startup:.6f}", *[0] * len(PARTS)])
        for federation, number, seconds in self.rounds:
            of = [getattr(federation, key) for key in KEYS]
            each = [f"{seconds.get(part, 0.0):.6f}" for part in PARTS]
            table.writerow([*of, number, f"{sum(seconds.values()):.6f}", 0, *each])
        write_whole(folder / FILE, text.getvalue().encode())
        return folder / FILE

"""Progress of one long task in lines, with the time left."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape

PATIENCE = 2.0
"""Seconds of silence between two lines."""


class StageProgress:
    """Prints the progress of each stage of a task; called with (name of the stage, done, total)."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._what = ""
        self._began = self._printed = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began = what, now
        if now - self._printed < PATIENCE or done >= total:
            return
        self._printed, spent = now, now - self._began
        left = f", about {spent / done * (total - done):.0f} s left" if done else ""
        self._out.print(f"{escape(what)}: {done} of {total}{left}")

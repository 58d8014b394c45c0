"""Where the time of a piece of work goes."""

from __future__ import annotations

import time


class Stopwatch:
    """Divides the time since it was made among the parts of a piece of work, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """by part"""
        self._began = self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the time since the last lap, or since the beginning, for `part`."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now

    def resume(self, seconds: float) -> None:
        """Go on after work that several pieces shared since the last lap; `seconds` of it are this one's."""
        shared = time.perf_counter() - self._last - seconds
        self._began += shared
        self._last += shared

    @property
    def total(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

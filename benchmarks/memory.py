"""The memory of a process and of all below it."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from pathlib import Path


def descendants(root: int) -> set[int]:
    """The process and everything below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def memory(processes: set[int]) -> int:
    """Proportional set size of the processes together, in bytes: pages that k share count 1/k in each."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):
            match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
            total += 1024 * int(match[1]) if match else 0
    return total


class Peak:
    """The largest memory of a job and all below it, looked at once a second in a thread of its own."""

    def __init__(self, job: subprocess.Popen[str]) -> None:
        self.bytes = 0
        self._job = job
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self._job.poll() is None:
            self.bytes = max(self.bytes, memory(descendants(self._job.pid)))
            time.sleep(1.0)

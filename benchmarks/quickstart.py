"""The main job from the command to the last figure, with nothing cached: seconds and memory.

    python -m benchmarks.quickstart [--engine ray|inline]

Prints seconds to the first line, to the first finished federation and to the end, and the peak memory of all
processes together: proportional set size, in which pages shared by k processes count 1/k in each.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
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
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def memory(processes: set[int]) -> int:
    """Proportional set size of the processes together, in bytes."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):
            match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
            total += 1024 * int(match[1]) if match else 0
    return total


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="ray", choices=("ray", "inline"))
    engine = parser.parse_args().engine
    with tempfile.TemporaryDirectory() as folder:
        command = ["fedkd", "run", "quickstart", "--report", "--engine", engine, "--out", f"{folder}/results"]
        environment = {**os.environ, "FEDKD_CACHE": f"{folder}/cache", "PYTHONUNBUFFERED": "1"}
        fedkd = Path(sys.executable).parent / "fedkd"
        began = time.monotonic()
        job = subprocess.Popen([str(fedkd), *command[1:]], stdout=subprocess.PIPE, text=True, env=environment)
        peak = 0

        def watch() -> None:
            nonlocal peak
            while job.poll() is None:
                peak = max(peak, memory(descendants(job.pid)))
                time.sleep(1.0)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        first_line = first_federation = last_federation = 0.0
        assert job.stdout is not None
        for line in job.stdout:
            now = time.monotonic() - began
            first_line = first_line or now
            if match := re.match(r"\s+(\d+)/(\d+) ", line):
                first_federation = first_federation or now
                last_federation = now if match[1] == match[2] else last_federation
        job.wait()
        total = time.monotonic() - began
    print(f"engine {engine}, {os.cpu_count()} cores, exit code {job.returncode}")
    print(f"first line             {first_line:7.1f} s")
    print(f"first federation done  {first_federation:7.1f} s")
    print(f"last federation done   {last_federation:7.1f} s")
    print(f"table and report done  {total:7.1f} s")
    print(f"peak memory together   {peak / 2**30:7.2f} GiB")
    sys.exit(job.returncode)


if __name__ == "__main__":
    main()

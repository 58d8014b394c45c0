"""The main job from the command to the last figure, with nothing cached: seconds and memory.

    python -m benchmarks.quickstart [--engine ray|inline]

Prints seconds to the first line, to the first finished federation and to the end, and the peak memory of all
processes together: proportional set size, in which pages shared by k processes count 1/k in each.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.memory import Peak


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
        peak = Peak(job)
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
    print(f"peak memory together   {peak.bytes / 2**30:7.2f} GiB")
    sys.exit(job.returncode)


if __name__ == "__main__":
    main()

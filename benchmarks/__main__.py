"""Every ratio of docs/performance.md, one script after the other, with its spread; what needs a GPU is marked.

    make bench                                  # python -m benchmarks
    python -m benchmarks --quick                # small sizes: a few minutes
    python -m benchmarks --only floor peers --data mnist.npz --htfllib FOLDER

Each script runs by itself too and says at its head what it measures. `--data`, `--htfllib` and `--python` go to
`benchmarks.peers`, `--data` to `benchmarks.before_after` too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
NO_GPU = 2
"""exit code of benchmarks.gpu where there is none"""


@dataclass(frozen=True)
class Script:
    """One script, with its arguments in full and in small."""

    name: str
    what: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None
    """None: the same as in full"""

    def arguments(self, quick: bool) -> tuple[str, ...]:
        return self.full if self.quick is None or not quick else self.quick


SCRIPTS = (
    Script("floor", "a training step and a round against a bare loop"),
    Script(
        "evaluation", "images a second in evaluation, by size of chunk", (), ("--networks", "cnn", "--repeats", "1")
    ),
    Script("stacking", "clients in lockstep against one by one"),
    Script("startup", "seconds to the first federation"),
    Script("quickstart", "the main job from the command to the last figure", (), ("--engine", "inline")),
    Script("peers", "side by side with others", ("--repeats", "3"), ("--repeats", "1", "--rounds", "2")),
    Script("before_after", "a round by part, before and now", ("--repeats", "3"), ()),
    Script("scale", "a client and round at 100 and 1,000 clients", (), ("--clients", "100")),
    Script("cost", "a cost model and its error", ("--sizes", "10", "100", "1000", "10000"), ("--sizes", "10", "100")),
    Script("long", "200 rounds: does anything grow", ("rounds",), ("rounds", "--rounds", "40")),
    Script("long large", "100 clients with ResNet-18: memory", ("large",), ("large", "--clients", "4")),
    Script("gpu", "everything on a GPU", (), ("--quick",)),
)


def run(script: Script, asked: argparse.Namespace) -> str:
    """Run one script, whose output is shown as it comes; returns how it ended."""
    module = f"benchmarks.{script.name.split()[0]}"
    if find_spec(module) is None:
        return "not run: there is no such script"
    command = [sys.executable, "-m", module, *script.arguments(asked.quick)]
    if script.name == "before_after" and not asked.data:
        return "not run: it needs --data"
    if script.name in ("peers", "before_after") and asked.data:
        command += ["--data", asked.data]
    if script.name == "peers":
        command += ["--htfllib", asked.htfllib] if asked.htfllib else []
        command += [part for text in asked.python for part in ("--python", text)]
    print(f"\n## {' '.join(command[2:])}\n{script.what}\n", flush=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    began = time.monotonic()
    try:
        code = subprocess.run(command, env=environment, timeout=asked.limit).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {asked.limit:.0f} s"
    if script.name == "gpu" and code == NO_GPU:
        return "not run: no GPU"
    return f"{time.monotonic() - began:.0f} s" if code == 0 else f"failed with exit code {code}"


def main() -> int:
    """Run what was asked for, and say how each script ended."""
    names = [script.name for script in SCRIPTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which a script is stopped")
    parser.add_argument("--data", default="", help="the archive of job A")
    parser.add_argument("--htfllib", default="", help="a checkout of HtFLlib")
    parser.add_argument("--python", action="append", default=[], metavar="MODULE=PATH")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}")
    ended = {script.name: run(script, asked) for script in SCRIPTS if script.name in asked.only}
    print("\n| script | ended |\n|---|---|")
    for name, how in ended.items():
        print(f"| {name} | {how} |")
    return int(any(how.startswith(("failed", "stopped")) for how in ended.values()))


if __name__ == "__main__":
    raise SystemExit(main())

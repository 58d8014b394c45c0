"""All contenders that are installed, on the two jobs, interleaved in one run: seconds a round and ratios with spread.

    python -m benchmarks.peers --data mnist.npz [--htfllib FOLDER] [--python blazefl=/path/to/python3.12 …]

A contender that is not installed is left out, with the reason. `README.md` says what each of them does.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.job import JOBS, NOT_INSTALLED, Measured
from benchmarks.spread import Spread, ratios

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Contender:
    """How one contender is started, and for which jobs."""

    name: str
    module: str
    jobs: str = "AB"
    options: tuple[str, ...] = ()


CONTENDERS = (
    Contender("fedkd", "ours"),
    Contender("fedkd, bfloat16", "ours", "A", ("--precision", "bfloat16")),
    Contender("fedkd, stacked", "ours", "B", ("--set", 'train.stack="auto"')),
    Contender("bare loop", "bare"),
    Contender("bare loop, channels last", "bare", "A", ("--layout", "channels_last")),
    Contender("HtFLlib", "htfllib", "A"),
    Contender("Flower alone", "flower"),
    Contender("pfl-research", "pfl_research"),
    Contender("BlazeFL", "blazefl", "B"),
)


@dataclass
class Table:
    """What was measured on one job, by contender: one `Measured` for each repeat."""

    job: str
    runs: dict[str, list[Measured]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def seconds(self, name: str) -> list[float]:
        """Median seconds of a round, one for each repeat."""
        return [statistics.median(run.seconds) for run in self.runs[name]]

    def lines(self) -> Iterator[str]:
        """A Markdown table."""
        yield f"| job {self.job} | s a round | × fedkd | images/s × bare loop | accuracy | start-up, s |"
        yield "|---|--:|--:|--:|--:|--:|"
        for name, runs in self.runs.items():
            times = Spread.of([second for run in runs for second in run.seconds])
            against = ratios(self.seconds(name), self.seconds("fedkd")) if "fedkd" in self.runs else "–"
            speed = self.speed(name) or "–"
            accuracy = "–" if runs[-1].accuracy is None else f"{runs[-1].accuracy:.1%}"
            startup = statistics.median(run.startup for run in runs)
            yield f"| {name} | {times} | {against} | {speed} | {accuracy} | {startup:.0f} |"
        for name, reason in self.left_out.items():
            yield f"| {name} | left out: {reason} | | | | |"

    def speed(self, name: str) -> Spread | None:
        """Training images a second against those of the faster bare loop; None without one."""
        bare = [runs for other, runs in self.runs.items() if other.startswith("bare loop")]
        if not bare:
            return None
        best = [max(run.images / statistics.median(run.seconds) for run in runs) for runs in zip(*bare, strict=True)]
        return ratios([run.images / statistics.median(run.seconds) for run in self.runs[name]], best)

    def targets(self) -> Iterator[str]:
        """The targets of job A, and what was measured."""
        if self.job != "A" or "fedkd" not in self.runs:
            return
        if "HtFLlib" in self.runs:
            for name, least in (("fedkd", 2.5), ("fedkd, bfloat16", 4.5)):
                if name in self.runs:
                    times = ratios(self.seconds("HtFLlib"), self.seconds(name))
                    yield f"HtFLlib's round against that of {name}: {times} times as long; target {least}"
            theirs, ours = self.runs["HtFLlib"][-1].accuracy, self.runs["fedkd"][-1].accuracy
            if theirs is not None and ours is not None:
                yield f"accuracy: fedkd {ours:.1%}, HtFLlib {theirs:.1%}; target: at most 2 points less"
        if speed := self.speed("fedkd"):
            yield f"images a second against the faster bare loop: {speed}; target 0.95"


def run(contender: Contender, job: str, asked: argparse.Namespace) -> Measured | str:
    """One run of one contender, or why there is none."""
    pythons = dict(text.split("=", 1) for text in asked.python)
    command = [pythons.get(contender.module, sys.executable), "-m", f"benchmarks.peers.{contender.module}"]
    command += ["--job", job, "--rounds", str(asked.rounds), *contender.options]
    if asked.data is not None:
        command += ["--data", str(asked.data.absolute())]
    if contender.module == "htfllib" and asked.htfllib is not None:
        command += ["--htfllib", str(asked.htfllib.absolute())]
    if contender.module == "ours":
        command += [part for override in asked.overrides for part in ("--set", override)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=asked.limit)
        except subprocess.TimeoutExpired:
            # With its workers, which would keep the pipes open.
            os.killpg(process.pid, signal.SIGKILL)
            return f"stopped after {asked.limit:.0f} s"
    lines = [line for line in out.splitlines() if line.startswith('{"contender"')]
    if process.returncode == 0 and lines:
        return Measured(**json.loads(lines[-1]))
    last = (err.strip() or out.strip() or "no output").splitlines()[-1]
    return last if process.returncode == NOT_INSTALLED else f"failed: {last}"


def compared(job: str, contenders: Sequence[Contender], asked: argparse.Namespace) -> Table:
    """Every contender of a job, `repeats` times, each time all of them one after the other."""
    table = Table(job)
    for repeat in range(asked.repeats):
        for contender in contenders:
            if job not in contender.jobs or contender.name in table.left_out:
                continue
            outcome = run(contender, job, asked)
            if isinstance(outcome, str):
                table.left_out[contender.name] = outcome
                table.runs.pop(contender.name, None)
            else:
                table.runs.setdefault(contender.name, []).append(outcome)
            shown = outcome if isinstance(outcome, str) else f"{statistics.median(outcome.seconds):.2f} s a round"
            print(f"job {job}, repeat {repeat + 1}, {contender.name}: {shown}", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=".npz with images, labels, peer_client and peer_is_test (job A)")
    parser.add_argument("--htfllib", type=Path, help="a checkout of HtFLlib")
    parser.add_argument("--python", action="append", default=[], metavar="MODULE=PATH", help="its own interpreter")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--only", nargs="+", choices=[each.name for each in CONTENDERS], metavar="NAME")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=0, help="0: as each job says")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a run is stopped")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="for fedkd")
    asked = parser.parse_args()
    contenders = [each for each in CONTENDERS if asked.only is None or each.name in asked.only]
    for job in asked.jobs:
        if job == "A" and asked.data is None:
            print("job A left out: it needs --data")
            continue
        table = compared(job, contenders, asked)
        print()
        for line in (*table.lines(), *table.targets()):
            print(line)
        print(flush=True)


if __name__ == "__main__":
    main()

"""What a round of job A costs by part, at an earlier commit and now: table and figure.

    python -m benchmarks.before_after --data mnist.npz [--before 0cd2d8e] [--repeats 1]

Seconds of one core: the engine without Ray, one federation in one process, so that parts add up. Both trees run one
after the other in each repeat. The earlier fedkd evaluated every client on all test images and could neither leave
that out nor train on the tenth that it held out for validation; each tree runs the job as far as it can express it.
Writes docs/figures/round_time.svg and .png.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.equality import worktree
from benchmarks.spread import ratios

ROOT = Path(__file__).parent.parent
PARTS = ("training", "evaluation", "everything else")
NETWORK = """
from torch import nn
def network(num_classes):
    return nn.Sequential(nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 5), nn.MaxPool2d(2),
        nn.ReLU(), nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, num_classes))
"""
JOB = """
dataset = "npz:{data}(test='peer_is_test')"
partition = "by_column(name='peer_client')"
method = "fedavg"
clients = 20
rounds = 2
start = "random"
transfer = "private"
models = "{models}"
{more}
[train]
batch_size = 64
lr = 0.01
{tables}
"""
BEFORE = {"models": "network.py:network(mean=0.5, std=0.5)", "more": "", "tables": ""}
NOW = {
    "models": "fedavg_cnn(padding=0)",
    "more": 'val = "none"',
    "tables": '[evaluate]\non = ["local_test"]\nof = ["clients"]',
}
BFLOAT16 = {**NOW, "tables": 'precision = "bfloat16"\n' + NOW["tables"]}

MEASURE = """
import json, sys, time
from pathlib import Path
import fedkd.methods.fedavg, fedkd.method
from fedkd.node.holdings import Holdings
from simulations.recipe import read
from simulations.study import Study
from simulations.watcher import Watcher

spent = {"training": 0.0, "evaluation": 0.0}
ends = []

def timed(part, owner, name):
    function = getattr(owner, name)
    def timing(*given, **named):
        began = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            spent[part] += time.perf_counter() - began
    setattr(owner, name, timing)

timed("evaluation", Holdings, "evaluate")
timed("training", fedkd.method.Method, "learn")

class Clock(Watcher):
    def round(self, federation, number):
        ends.append((time.perf_counter(), dict(spent)))
    def failed(self, federation, why):
        sys.exit(why)

Study(read(sys.argv[1]), Path(sys.argv[2])).run("inline", watcher=Clock())
(began, before), (ended, after) = ends[1:3]
parts = {part: after[part] - before[part] for part in spent}
parts["everything else"] = ended - began - sum(parts.values())
print("PARTS" + json.dumps(parts))
"""
"""The second round, in which everything has been imported and read. It runs in either tree."""


def measured(tree: Path, data: Path, words: Mapping[str, str]) -> dict[str, float]:
    """Seconds of a round by part, in a tree."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "network.py").write_text(NETWORK, encoding="utf-8")
        recipe = folder / "job.toml"
        recipe.write_text(JOB.format(data=data, **words), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(recipe), str(folder / "out")],
            capture_output=True, text=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": str(tree), "FEDKD_CACHE": str(folder / "cache")},
        )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("PARTS")]
    if done.returncode or not lines:
        raise SystemExit(f"{tree}: {done.stderr.strip().splitlines()[-1:] or done.stdout}")
    parts: dict[str, float] = json.loads(lines[0].removeprefix("PARTS"))
    return parts


def draw(rows: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """One bar a row, of its parts one after the other."""
    from matplotlib.figure import Figure

    from analysis.drawing.style import GAIN, LOSS, QUIET, save, styled

    with styled():
        figure = Figure(figsize=(8, 0.9 + 0.5 * len(rows)), layout="constrained")
        axes = figure.subplots()
        left = [0.0] * len(rows)
        for part, colour in zip(PARTS, (GAIN, LOSS, QUIET), strict=True):
            widths = [row[part] for row in rows.values()]
            axes.barh(list(rows), widths, left=left, label=part, color=colour)
            left = [at + width for at, width in zip(left, widths, strict=True)]
        for at, total in enumerate(left):
            axes.text(total, at, f" {total:.1f} s", va="center")
        axes.invert_yaxis()
        axes.set_xlabel("seconds of one core a round: FedAvg, 20 clients, 52,492 images")
        axes.margins(x=0.12)
        axes.legend(frameon=False, loc="lower right")
        save(figure, folder / "round_time")


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each part's median over repeats."""
    return {part: statistics.median(run[part] for run in runs) for part in PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the archive of job A")
    parser.add_argument("--before", default="0cd2d8e", metavar="COMMIT")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    asked = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {}
    data = asked.data.absolute()
    with worktree(asked.before) as earlier:
        for _ in range(asked.repeats):
            for name, tree, words in (
                ("before", earlier, BEFORE), ("now", ROOT, NOW), ("now, bfloat16", ROOT, BFLOAT16)
            ):  # fmt: skip
                runs.setdefault(name, []).append(measured(tree, data, words))
    rows = {name: medians(each) for name, each in runs.items()}
    totals = {name: [sum(run.values()) for run in each] for name, each in runs.items()}
    print("| a round, seconds of one core | " + " | ".join(PARTS) + " | together | before / this |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, row in rows.items():
        cells = " | ".join(f"{row[part]:.1f}" for part in PARTS)
        print(f"| {name} | {cells} | {sum(row.values()):.1f} | {ratios(totals['before'], totals[name])} |")
    draw(rows, asked.out)


if __name__ == "__main__":
    main()

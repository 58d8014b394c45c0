"""Equal numbers: the tables of small studies of every shipped recipe, by this tree and by another one.

    python -m benchmarks.equality --save before.json          # at the older commit
    python -m benchmarks.equality --against before.json       # after the change
    python -m benchmarks.equality --before COMMIT             # both at once, the older in a worktree of its own

A change that shall move no number is held to it: each study runs on both engines, and the table, but for seconds and
the names of federations, must be equal to the last digit. The hashes are those of one machine and one torch: they are
compared where they are made. Ends with exit code 1 where a table differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

import analysis

ROOT = Path(__file__).parent.parent
ENGINES = ("inline", "ray")
COLUMNS = ("dataset", "partition", "method", "seed", "start", "students", "round", "client", "split", "metric", "value")
"""What is compared. A setting that a recipe does not sweep has no column."""
SMALL = {"seed": "[0]", "rounds": "2", "pretrain.epochs": "2"}
IMAGES = {"dataset": "digits"}
OTHERS: dict[str, dict[str, str]] = {
    "quickstart": {"seed": "[0, 1]", "rounds": "3", "clients": "4"},
    "heterogeneous_cifar": {"dataset": "synthetic(samples=600, shape=[3, 32, 32])", "transfer": "public(size=100)"},
    "heterogeneous_mnist": {"dataset": "synthetic(samples=600, shape=[1, 28, 28])", "transfer": "public(size=100)"},
    "reffakd": {"partition": '["iid"]'},
    "selection": {"partition": '["pathological(classes=2)"]'},
    "miniplm": {
        "dataset": 'noisy_text(share=0.3, chunks="even", limit=200)',
        "transfer": 'public(size=80, source="noisy_text(share=0.15, kind=\\"boilerplate\\", chunks=\\"odd\\")")',
        "models": "gpt(layers=1, width=16, heads=2)",
        "method": '["local", "miniplm(teacher=\\"gpt(layers=2, width=16, heads=2)\\", keep=0.5)", '
        '"miniplm(cut=\\"global\\", teacher=\\"gpt(layers=2, width=16, heads=2)\\", then=\\"kd\\")", '
        '"miniplm(teacher=\\"gpt(layers=2, width=16, heads=2)\\", score=\\"all\\", distil=0.5)"]',
        "train.steps": "6",
        "pretrain.epochs": "0",
    },
}
"""What makes a recipe small, beside `SMALL`; where it names no data set, it is tried on the digits."""
BEYOND: dict[str, dict[str, str]] = {
    "methods": {
        "method": """['fedprox', 'ensemble', 'pooled', 'label_smoothing', 'dml(order="alternating", reduce="sum")',
            'kd(teachers="k(2)", objective="js", wire="top(3)")', 'kd(refresh="every round", teachers="all")',
            'kd(teachers="others+autoencoder", refresh="every round")', 'dml(teachers="others+autoencoder")',
            'kd(revise="labels(eta=0.8, per_teacher=true)")', 'kd(select="random(keep=0.5, every=2)")',
            'kd(weight=1.0, objective="mse")', 'dp_kd(mask="supervised", select="confidence(keep=0.5)")',
            'tuned(method="dml", grid={"lr": [0.01, 0.05]}, rounds=2, pruner="halving", per="client")',
            'tuned(method="fedavg", grid={"lr": [0.01, 0.05]}, rounds=1)',
            'tuned(grid={"temperature": {"low": 1.0, "high": 9.0}}, sampler="tpe", trials=4, batch=2, rounds=1)']""",
        "partition": '["dirichlet(alpha=0.5)"]',
        "transfer": "public(fraction=0.2, labelled=true)",
        "clients": "3",
        "train.momentum": "0.9",
    },
    "private": {
        "method": """['kd', 'kd(refresh="every round")', 'dml', 'dp_kd(form="soup")', 'dp_kd(form="sequential")',
            'kd(teachers="self")', 'reffakd(encoder="local", epochs=2)', 'tuned_kd(temperatures=[1.0, 4.0],
            weights=[0.5], rounds=1)']""".replace("\n", " "),
        "partition": '["dirichlet(alpha=0.5)"]',
        "transfer": "private",
        "clients": "3",
        "init": "per_client",
    },
    "starts": {
        "method": """['dml', 'tuned_kd(temperatures=[1.0, 4.0], weights=[0.5], rounds=1)', 'reffakd(epochs=2)']""",
        "start": """['average', 'kd(temperature=4.0)', 'consolidate(method="dp_kd", order="sequential", rounds=2)']""",
        "partition": '["iid"]',
        "clients": "3",
    },
    "steps": {
        "method": """['dml(sync="step")', 'dml(sync="step", order="alternating")', 'kd']""",
        "partition": '["iid"]',
        "clients": "4",
        "students": "[0, 1, 2]",
        "teachers": "[1, 2, 3]",
        "rounds": "6",
        "train.steps": "1",
        "val": "common",
    },
}
"""What no shipped recipe tries, as changes of the quickstart."""


STUDIES = (*sorted(path.stem for path in (ROOT / "simulations" / "recipes").glob("*.toml")), *BEYOND)


def overrides(study: str) -> Iterator[str]:
    """The options that make a study of a recipe."""
    given = SMALL | IMAGES | OTHERS.get(study, {}) | BEYOND.get(study, {})
    for key, value in given.items():
        yield from ("--set", f"{key}={value}")


def table_hash(table: pd.DataFrame) -> str:
    """sha256 of a table without seconds and names, whatever the order of its rows and columns."""
    kept = table[~table.metric.astype(str).str.endswith("seconds")]
    columns = [column for column in COLUMNS if column in kept.columns]
    lines = kept[columns].astype(object).map(repr).agg("|".join, axis=1)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def run(tree: Path, study: str, engine: str, cache: Path) -> str:
    """The hash of one small study by the code of a tree."""
    recipe = "quickstart" if study in BEYOND else study
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "simulations.cli", "run", recipe, "--engine", engine, "--out", folder]
        environment = os.environ | {
            "PYTHONPATH": str(tree),
            "FEDKD_CACHE": str(cache),
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        done = subprocess.run(
            [*command, *overrides(study)], cwd=tree, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{study} on {engine}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return table_hash(analysis.load(Path(folder)))


def hashes(tree: Path, studies: Sequence[str], engines: Sequence[str], label: str) -> dict[str, str]:
    """The hash of every study, by `study engine`; each engine pre-trains anew."""
    results: dict[str, str] = {}
    for engine in engines:
        with tempfile.TemporaryDirectory() as cache:
            for study in studies:
                results[f"{study} {engine}"] = run(tree, study, engine, Path(cache))
                print(f"{label:6}  {engine:6}  {study:20} {results[f'{study} {engine}']}", flush=True)
    return results


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A checkout of a commit, removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def report(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """Print which tables differ from those before, or between engines; whether all are equal."""
    by_study: dict[str, set[str]] = {}
    for name, value in after.items():
        by_study.setdefault(name.split()[0], set()).add(value)
    differing = [name for name, value in after.items() if before.get(name, value) != value]
    apart = [study for study, values in by_study.items() if len(values) > 1]
    missing = [name for name in after if before and name not in before]
    for name in differing:
        print(f"{name}: {before[name]} before, {after[name]} after")
    for study in apart:
        print(f"{study}: the engines differ")
    for name in missing:
        print(f"{name}: was not run before")
    compared = len(after) - len(missing) if before else 0
    print(
        f"{compared - len(differing)} of {compared} tables equal those before; of {len(by_study)} studies "
        f"{len(apart)} differ between engines"
    )
    return not (differing or apart or missing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="COMMIT", help="run this commit too, and compare with it")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with hashes that were saved")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the hashes")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=STUDIES, metavar="STUDY")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, metavar="ENGINE")
    asked = parser.parse_args()
    before: dict[str, str] = json.loads(asked.against.read_text(encoding="utf-8")) if asked.against else {}
    if asked.before:
        with worktree(asked.before) as tree:
            before = hashes(tree, asked.only, asked.engines, "before")
    after = hashes(ROOT, asked.only, asked.engines, "now")
    if asked.save:
        asked.save.write_text(json.dumps(after, indent=1), encoding="utf-8")
    return 0 if report(before, after) else 1


if __name__ == "__main__":
    raise SystemExit(main())

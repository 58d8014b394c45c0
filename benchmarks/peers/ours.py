"""fedkd on the two jobs, as its command line runs them: the recipes `round20.toml` and `small100.toml`.

python -m benchmarks.peers.ours --job A --data mnist.npz [--precision bfloat16] [--set KEY=VALUE …]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.job import JOBS, SIDE, Measured, arguments, shares

RECIPES = {job: Path(__file__).parent / f"{name}.toml" for job, name in (("A", "round20"), ("B", "small100"))}
MARGIN = {"A": 0, "B": 1}
"""rounds that are run but not counted: job B evaluates nothing, and fedkd always evaluates the last round"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--engine", choices=("ray", "inline"), default="ray")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")


def archive(job: str, data: Path | None, folder: Path) -> str:
    """The source string of the data; that of job B is written to the folder."""
    if job == "A":
        if data is None:
            raise SystemExit("job A needs --data: an .npz with images, labels, peer_client and peer_is_test")
        return f"npz:{data.absolute()}(test='peer_is_test')"
    parts = shares("B", None).train
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    owner = np.repeat(np.arange(len(parts)), [len(y) for _, y in parts])
    tests = len(parts)
    np.savez(
        folder / "random.npz",
        images=np.concatenate([images, np.zeros((tests, SIDE, SIDE), np.uint8)]),
        labels=np.concatenate([labels, np.zeros(tests, np.int64)]),
        client=np.concatenate([owner, np.arange(tests)]),
        is_test=np.arange(len(images) + tests) >= len(images),
    )
    return f"npz:{folder / 'random.npz'}"


def journal(folder: Path) -> dict[int, dict[tuple[int, str, str], float]]:
    """(client, split, metric) → value of each round."""
    (file,) = (folder / "journal").glob("*.jsonl")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    return {line["round"]: {(c, s, m): value for c, s, m, value in line["rows"]} for line in lines}


def run(asked: argparse.Namespace, folder: Path) -> tuple[list[float], float, dict[tuple[int, str, str], float]]:
    """(seconds of each round, time of day at which the first began, rows of the last round)."""
    from fedkd.settings.federation import Federation
    from simulations.recipe import read
    from simulations.study import Study
    from simulations.watcher import Watcher

    class Clock(Watcher):
        def round(self, federation: Federation, number: int) -> None:
            del federation, number
            times.append(time.perf_counter())

        def failed(self, federation: Federation, why: str) -> None:
            del federation
            raise SystemExit(why)

    times: list[float] = []
    rounds = asked.rounds + MARGIN[asked.job]
    source = archive(asked.job, asked.data, folder)
    overrides = [f"dataset={source}", f"rounds={rounds}", f"train.precision={asked.precision}", *asked.overrides]
    Study(read(str(RECIPES[asked.job]), overrides), folder / "results").run(asked.engine, watcher=Clock())
    seconds = [after - before for before, after in itertools.pairwise(times)]
    return seconds[: asked.rounds], times[0], journal(folder / "results")[rounds]


def main() -> None:
    began = time.perf_counter()
    asked = arguments(__doc__, options)
    held: Any = shares(asked.job, asked.data)
    with tempfile.TemporaryDirectory() as name:
        os.environ.setdefault("FEDKD_CACHE", f"{name}/cache")
        seconds, started, rows = run(asked, Path(name))
    clients = range(JOBS[asked.job].clients)
    images = round(sum(rows[client, "", "samples"] for client in clients))
    accuracy = None
    if held.test:
        right = sum(rows[client, "local_test", "accuracy"] * len(held.test[client][1]) for client in clients)
        accuracy = right / sum(len(y) for _, y in held.test)
    evaluated = "each client's model after its steps, on its own test part: accuracy, loss" if held.test else "nothing"
    Measured(
        "fedkd" if asked.precision == "float32" else "fedkd, bfloat16", asked.job, seconds, images, accuracy,
        f"engine {asked.engine}, a worker of one thread a core", evaluated, started - began,
        [asked.precision, *asked.overrides],
    ).said()  # fmt: skip


if __name__ == "__main__":
    main()

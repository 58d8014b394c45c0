"""`flwr run .` from the repository runs one federation, on the same two apps and to the same numbers."""

from __future__ import annotations

import os
import signal
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from analysis.results.journal import read_journal
from fedkd.data import cache_root
from fedkd.tensors.compute import CPU
from simulations.recipe import expand
from simulations.study import Study
from tests.conftest import FEDKD, ROOT, Ended, Process

CONFIG = {
    "method": "kd(temperature=2.0, teachers='others')",
    "models": "mlp(hidden=[8])",
    "partition": "dirichlet(alpha=0.5)",
    "rounds": 2,
    "seed": 1,
    "pretrain.epochs": 2,
}
CLIENTS = 3


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return str(bound.getsockname()[1])


def quoted(value: object) -> str:
    """A value as TOML; Flower splits what it is given at spaces outside of quotes."""
    return '"' + value.replace('"', '\\"') + '"' if isinstance(value, str) else str(value)


class Run(NamedTuple):
    """A federation that `flwr run .` has run."""

    ended: Ended
    out: Path
    left: set[Path]
    """what its clients have left on their disks"""


def timeless(journal: Path) -> pd.DataFrame:
    """The rows of a journal, without the time that things took."""
    read = read_journal(journal)
    assert read is not None
    return read.rows[~read.rows["metric"].str.endswith("seconds")].reset_index(drop=True)


def state_on_nodes() -> set[Path]:
    """What clients keep on their disks between rounds."""
    return set((cache_root() / "nodes").rglob("client-*"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run on a SuperLink of its own, which `flwr` starts and leaves running."""
    folder = tmp_path_factory.mktemp("flwr")
    environment = {
        "PATH": os.pathsep.join([str(FEDKD.parent), os.environ.get("PATH", "")]),
        "FLWR_HOME": str(folder / "home"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_ADDRESS": "local",  # a Ray that other tests have started would be used, and end with them
        # A SuperLink that is there already would be used, with its own folder and environment.
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
        "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
    }
    config = " ".join(f"{key}={quoted(value)}" for key, value in (CONFIG | {"out": str(folder / "out")}).items())
    nodes = f"num-supernodes={CLIENTS} client-resources-num-cpus=1"
    command = [FEDKD.with_name("flwr"), "run", ".", "--stream", "--run-config", config, "--federation-config", nodes]
    before = state_on_nodes()
    process = Process(*command, cwd=ROOT, environment=environment)
    try:
        ended = process.ended(timeout=240)
        for pid in process.alive():
            if b"flower-superlink" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGTERM)
        yield Run(ended, folder / "out", state_on_nodes() - before)
    finally:
        process.kill_orphans()


def test_it_ends_well_and_tells_every_round(run: Run) -> None:
    # Its exit code is 0 even where the ServerApp has raised: what was streamed tells.
    assert run.ended.code == 0, run.ended.said
    for number in range(3):
        assert f"round {number} of 2: mean test accuracy" in run.ended.said
    assert "Traceback" not in run.ended.said


def test_its_journal_holds_the_rows_of_the_inline_engine(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkd.protocol.client.best_device", lambda: CPU)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    # One client a node where the number of clients is not said.
    settings = declared | {"clients": CLIENTS}
    settings = {key: value for key, value in settings.items() if key != "out"}
    recipe = expand("inline", settings, [f"{key}={value}" for key, value in CONFIG.items()])
    Study(recipe, tmp_path).run("inline")
    (expected,) = (tmp_path / "journal").iterdir()
    (found,) = (run.out / "journal").iterdir()
    assert found.name == expected.name, "the settings are the same, and with them their hash"
    rows = timeless(found)
    assert len(rows) > 100
    pd.testing.assert_frame_equal(rows, timeless(expected), check_exact=True)


def test_it_leaves_nothing_on_the_nodes(run: Run) -> None:
    assert run.out.is_dir()
    assert run.left == set()


def test_every_declared_setting_is_a_key_of_a_recipe() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert declared.pop("out") == ""
    assert declared.pop("clients") == 0, "as many as there are nodes"
    assert len(expand("declared", declared).federations) == 1

"""A cluster of two nodes that do not see the driver's files, one of which is killed in mid-study."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedkd.base.errors import UserError
from fedkd.models import build_model
from fedkd.models.checkpoint import save_checkpoint
from fedkd.tensors.compute import CPU
from simulations.engine.starting import reachable
from simulations.recipe import read
from simulations.study import Study
from tests.conftest import FEDKD, ROOT, Process, assert_same_numbers, written

RAY = Path(sys.executable).parent / "ray"
pytestmark = pytest.mark.skipif(not RAY.is_file(), reason="the command `ray` is not installed")

NETWORK = '''
"""A network of one's own, which imports from beside it, and which is slow enough to be killed in mid-round."""

import os
import time

import torch
from helping import WIDTH


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(64, WIDTH)
        self.head = torch.nn.Linear(WIDTH, 4)

    def forward(self, x):
        time.sleep(0.002)
        assert "travelled" in __file__ or "absent" not in os.environ.get("FEDKD_DATA", ""), "a node reads a copy"
        return self.head(torch.relu(self.body(x.flatten(1))))
'''
RECIPE = """
dataset = "npz:images.npz"
method = ["kd", "dml"]
models = "network.py:Network|checkpoint:start.safetensors|mlp(hidden=[8])"
clients = 4
rounds = 4
seed = 0
save = "last"
[pretrain]
epochs = 1
[ray]
shared_disk = false
"""


def files(folder: Path) -> Path:
    """A recipe, and beside it data, a network and a checkpoint that it names by relative paths."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    np.savez(folder / "images.npz", images=draw.integers(0, 255, (400, 8, 8), np.uint8), labels=np.arange(400) % 4)
    written(folder / "helping.py", "WIDTH = 8\n")
    written(folder / "network.py", NETWORK)
    model = build_model("mlp(hidden=[9])", (1, 8, 8), 4, 0, "test")
    save_checkpoint(folder / "start.safetensors", "mlp(hidden=[9])", model, (1, 8, 8), 4)
    return written(folder / "study.toml", RECIPE)


def free_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        port: int = there.getsockname()[1]
        return port


class Cluster:
    """Ray nodes on this machine, each with a cache of its own, in empty folders."""

    def __init__(self, folder: Path) -> None:
        self.address, self._folder = f"127.0.0.1:{free_port()}", folder
        self.nodes: list[Process] = []

    def start(self, *options: str) -> Process:
        """Start a node with one CPU."""
        home = self._folder / f"node-{len(self.nodes)}"
        home.mkdir(parents=True)
        own = {
            "FEDKD_CACHE": str(home / "cache"),
            "FEDKD_DATA": str(home / "absent"),
            "PYTHONPATH": str(ROOT),
        }
        here = ("--node-ip-address=127.0.0.1", "--num-cpus=1", "--disable-usage-stats", "--block")
        node = Process(RAY, "start", *options, *here, cwd=home, environment=own)
        self.nodes.append(node)
        return node

    def cache(self, number: int) -> Path:
        """The cache of a node."""
        return self._folder / f"node-{number}" / "cache"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes."""
    there = Cluster(tmp_path_factory.mktemp("cluster"))
    # Where Ray usually has its files, it notes a cluster that every later `ray.init()` would join. The path is short,
    # because sockets lie below it.
    files_of_ray = tempfile.mkdtemp(prefix="ray-")
    try:
        port = there.address.rpartition(":")[2]
        head = there.start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={files_of_ray}")
        head.wait_until(lambda: listens(there.address))
        other = there.start(f"--address={there.address}")
        while "Ray runtime started" not in (line := other.first_line()):
            assert line, other.ended().said
        yield there
    finally:
        for node in there.nodes:
            node.kill()
        shutil.rmtree(files_of_ray, ignore_errors=True)


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as there:
        there.settimeout(1)
        return there.connect_ex((host, int(port))) == 0


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files(tmp_path_factory.mktemp("recipe") / "driver")


@pytest.fixture(scope="module")
def reference(recipe: Path) -> Path:
    """Results of the study in this process."""
    out = recipe.parent.parent / "reference"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedkd.protocol.client.best_device", lambda: CPU)
        Study(read(str(recipe)), out).run("inline")
    return out


def test_a_study_outlives_a_node_and_changes_no_number(
    cluster: Cluster, recipe: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("run", recipe, "--out", out, "--set", f"ray.address={cluster.address}")
    process = Process(FEDKD, *command, cwd=tmp_path)
    process.wait_until(lambda: all((cluster.cache(number) / "travelled").is_dir() for number in (0, 1)))
    process.wait_until(lambda: any(b'"round":1' in file.read_bytes() for file in (out / "journal").glob("*.jsonl")))
    cluster.nodes[1].kill()
    ended = process.ended()
    assert (ended.code, ended.err) == (0, ""), ended.said
    assert_same_numbers(out, reference)
    assert sorted(path.name for path in out.iterdir()) == ["journal", "models", "rounds.parquet", "study.json"]
    for number in (0, 1):
        copies = {path.name for path in (cluster.cache(number) / "travelled").rglob("*") if path.is_file()}
        assert {"network.py", "helping.py", "start.safetensors"} <= copies
        assert not [name for name in copies if name.endswith(".npz")], "prepared data travel, not their source"
    saved, expected = (
        {path.relative_to(each): path.read_bytes() for path in each.rglob("*.safetensors")} for each in (out, reference)
    )
    assert len(saved) == 8
    assert saved == expected


def test_more_than_the_cluster_has_is_said_at_once(cluster: Cluster, recipe: Path, tmp_path: Path) -> None:
    sets = ("--set", f"ray.address={cluster.address}", "--set", "ray.num_cpus=9")
    ended = Process(FEDKD, "run", recipe, "--out", tmp_path / "out", *sets, cwd=tmp_path).ended()
    assert ended.code == 2
    assert "'ray.num_cpus': each client is to have 9 CPUs, but Ray's cluster has 1" in ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", ["HOST:PORT", "auto"])
def test_no_cluster_there_is_said_at_once(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", nowhere)
    with pytest.raises(UserError, match=f"'ray.address'.*nothing answers at {nowhere}"):
        reachable(nowhere if given == "HOST:PORT" else given)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(UserError, match=r"no cluster has been started.*RAY_ADDRESS is 'local'"):
        reachable("auto")

"""Who ran beside whom on GPUs that Ray counts and this machine need not have; and a GPU that is too small."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedkd.tensors.compute import CPU
from simulations.recipe import read
from simulations.study import Study
from tests.conftest import Ended, Process, assert_same_numbers, written

OWN = '''
"""Knowledge distillation whose clients write down when they learnt, on which GPU, and beside whom there is no room."""

import json
import os
import time
from pathlib import Path

from pydantic.dataclasses import dataclass

from fedkd import STRICT
from fedkd.methods.kd import KD


@dataclass(frozen=True, config=STRICT)
class Recorded(KD):
    folder: str = ""
    needs: float = 0.0

    def learn(self, client, knowledge):
        import ray

        inside = ray.is_initialized()
        share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0) if inside else 1.0
        if share < self.needs:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        began = time.time()
        time.sleep(0.2)
        super().learn(client, knowledge)
        line = [client.id, client.specs[client.id], os.environ.get("CUDA_VISIBLE_DEVICES"), share, began, time.time()]
        with Path(self.folder, f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\\n")
'''
RECIPE = """
dataset = "digits"
method = "{own}:recorded(folder='{folder}', needs={needs})"
models = "mlp(hidden=[8])|mlp(hidden=[9])"
clients = 8
rounds = 2
seed = 0
start = "random"
[ray]
{ray}
"""
SCRIPT = """
import sys
from pathlib import Path

import ray
from simulations.engine.starting import lean, prepare_environment
from simulations.recipe import read
from simulations.study import Study

if __name__ == "__main__":
    prepare_environment()
    with lean():
        ray.init("local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    for folder in map(Path, sys.argv[1:]):
        Study(read(str(folder / "study.toml")), folder / "out").run()
    ray.shutdown()
"""
SETTINGS = {
    "shares": (0.0, 'num_gpus = 0.5\nresources = {"mlp(hidden=[9])" = {num_gpus = 1}}'),
    "memory": (0.5, "num_cpus = 1.5\nnum_gpus = 0.25"),
}
Line = tuple[int, str, str, float, float, float]
"""(client, model, GPU, share, from, until)"""


@pytest.fixture(scope="module", autouse=True)
def no_gpu() -> Iterator[None]:
    """Numbers are compared to the last digit: those of one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedkd.protocol.client.best_device", lambda: CPU)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each study; all ran on one Ray with two GPUs that only count."""
    root = tmp_path_factory.mktemp("gpus")
    own = written(root / "own.py", OWN)
    for name, (needs, ray) in SETTINGS.items():
        (root / name / "log").mkdir(parents=True)
        text = RECIPE.format(own=own, folder=root / name / "log", needs=needs, ray=ray)
        written(root / name / "study.toml", text)
    script = written(root / "script.py", SCRIPT)
    # Ray counts the GPUs that it may see.
    seen = {"CUDA_VISIBLE_DEVICES": "0,1"}
    process = Process(sys.executable, script, *(root / name for name in SETTINGS), cwd=root, environment=seen)
    assert process.ended() == Ended(0, "", "")
    return {name: root / name for name in SETTINGS}


def lines(folder: Path) -> list[Line]:
    """What the clients of a study wrote down, in the order of time."""
    every: list[Any] = [
        tuple(json.loads(line)) for file in (folder / "log").iterdir() for line in file.read_text().splitlines()
    ]
    return sorted(every, key=lambda line: line[4])


def beside(line: Line, others: Sequence[Line]) -> list[Line]:
    """Who was on the same GPU at the same time."""
    _, _, gpu, _, began, ended = line
    return [other for other in others if other != line and other[2] == gpu and other[4] < ended and other[5] > began]


def test_two_small_models_share_a_gpu_and_a_larger_one_is_alone(folders: dict[str, Path]) -> None:
    every = lines(folders["shares"])
    assert len(every) == 16
    assert {line[2] for line in every} == {"0", "1"}
    large = [line for line in every if line[1] == "mlp(hidden=[9])"]
    assert {line[3] for line in large} == {1.0}
    assert not any(beside(line, every) for line in large)
    # How many of the small ones have half a GPU, and how often two are there at once, depends on how fast workers start
    # and on who is idle; that three are not there does not.
    small = [line for line in every if line[3] == 0.5]
    assert small
    assert max(len(beside(line, small)) for line in small) <= 1, "never three"


def test_a_gpu_that_is_too_small_is_shared_by_half_as_many(folders: dict[str, Path]) -> None:
    every = lines(folders["memory"])
    assert len(every) == 16, "no message was lost, and none was answered twice"
    assert {line[3] for line in every} == {0.5}


def undisturbed(folder: Path) -> Path:
    """Results of the same study in this process, one client after the other."""
    recipe = read(str(folder / "study.toml"))
    Study(recipe, folder / "inline").run("inline")
    return folder / "inline"


def test_scheduling_changes_no_number(folders: dict[str, Path]) -> None:
    assert_same_numbers(folders["shares"] / "out", undisturbed(folders["shares"]))

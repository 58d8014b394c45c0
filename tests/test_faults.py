"""What is killed, dies or raises costs time, never a number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import analysis
from fedkd.tensors.compute import CPU
from simulations.recipe import read
from simulations.study import Study
from tests.conftest import FEDKD, Ended, Process, assert_same_numbers, fedkd, written

ENGINES = ("inline", "ray")

OWN = '''
"""Knowledge distillation in which something happens, at client 1, as long as a marker file is not there."""

import os
import signal
import time
from pathlib import Path

from pydantic.dataclasses import dataclass

from fedkd import STRICT
from fedkd.methods.kd import KD


@dataclass(frozen=True, config=STRICT)
class Happening(KD):
    folder: str = ""

    @property
    def marker(self):
        # Not the file itself as a parameter: its content would be part of the federation's name.
        return Path(self.folder, f"no-{type(self).__name__.lower()}")

    def learn(self, client, knowledge):
        if client.round == 2 and client.id == 1 and not self.marker.exists():
            self.happen()
        KD.learn(self, client, knowledge)

    def happen(self):
        pass


@dataclass(frozen=True, config=STRICT)
class Waiting(Happening):
    def happen(self):
        while not self.marker.exists():
            time.sleep(0.01)


@dataclass(frozen=True, config=STRICT)
class Dying(Happening):
    def happen(self):
        self.marker.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, config=STRICT)
class Raising(Happening):
    def happen(self):
        raise RuntimeError("the disk is full")
'''

RECIPE = """
dataset = "digits"
method = [{methods}]
models = "mlp(hidden=[8])"
clients = 3
rounds = 4
seed = {seeds}
[pretrain]
epochs = 2
"""


@pytest.fixture(scope="module", autouse=True)
def no_gpu() -> Iterator[None]:
    """Numbers are compared to the last digit: those of one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedkd.protocol.client.best_device", lambda: CPU)
        yield


class Setting(NamedTuple):
    """A study in which things happen, in a folder of its own."""

    folder: Path
    recipe: Path
    seeds: list[int]

    def marker(self, method: str) -> Path:
        """The file that keeps a method from what it does."""
        return self.folder / f"no-{method}"

    def command(self, engine: str, *options: str) -> list[object]:
        """How the study is run; its results go to a folder named after the engine."""
        return ["run", self.recipe, "--engine", engine, "--out", self.folder / engine, *options]

    def journals(self, engine: str) -> dict[str, bytes]:
        """The journals as they are now, by name."""
        return {path.name: path.read_bytes() for path in (self.folder / engine / "journal").glob("*.jsonl")}

    def undisturbed(self) -> Path:
        """Results of the same study, run to its end in this process without anything happening."""
        out = self.folder / "undisturbed"
        if not out.exists():
            Study(read(str(self.recipe)), out).run("inline")
        return out


def setting(folder: Path, methods: list[str], seeds: list[int]) -> Setting:
    """A study of kd and of methods of one's own."""
    own = written(folder / "own.py", OWN)
    specs = ["kd", *(f"{own}:{method}(folder='{folder}')" for method in methods)]
    text = RECIPE.format(methods=", ".join(f'"{spec}"' for spec in specs), seeds=seeds)
    return Setting(folder, written(folder / "study.toml", text), seeds)


def rounds(journal: bytes) -> int:
    """Complete rounds after the start."""
    return journal.count(b"\n") - 2


def assert_silent(ended: Ended) -> None:
    """Nothing but fedkd's own lines was printed."""
    assert ended.err == ""
    chatter = re.compile(r"\b(INFO|DEBUG|WARNING|ERROR)\b|raylet|ray::|flwr|pid=|Traceback")
    assert not [line for line in ended.out.splitlines() if chatter.search(line)]


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_in_mid_study_the_same_command_ends_with_the_undisturbed_table(engine: str, tmp_path: Path) -> None:
    study = setting(tmp_path, ["waiting"], [0, 1])
    process = Process(FEDKD, *study.command(engine), cwd=tmp_path)
    # Client 1 waits within round 2: round 1 is complete, and whatever is in flight dies with it.
    process.wait_until(
        lambda: any(rounds(text) == 1 for name, text in study.journals(engine).items() if "waiting" in name)
    )
    process.kill()
    kept = study.journals(engine)
    assert max(rounds(text) for name, text in kept.items() if "waiting" in name) == 1
    assert not (tmp_path / engine / "rounds.parquet").exists()

    study.marker("waiting").touch()
    ended = fedkd(*study.command(engine), cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert_silent(ended)
    after = study.journals(engine)
    assert len(after) == 4
    assert {rounds(text) for text in after.values()} == {4}
    for name, text in kept.items():
        # To the byte, and so with the seconds that it took then: what was complete has not been run again.
        assert after[name].startswith(text[: text.rfind(b"\n") + 1])
    assert_same_numbers(tmp_path / engine, study.undisturbed())
    assert sorted(path.name for path in (tmp_path / engine).iterdir()) == ["journal", "rounds.parquet", "study.json"]


class Twice(NamedTuple):
    """A study of which a federation failed, and the same command once the cause was mended."""

    study: Setting
    first: Ended
    journals: dict[str, bytes]
    """as the first left them"""
    finished: set[str]
    """methods whose federations the first completed"""
    second: Ended


def run_twice(engine: str, study: Setting) -> Twice:
    """Run a study in which a client raises, mend that, run it again."""
    first = fedkd(*study.command(engine), cwd=study.folder)
    journals = study.journals(engine)
    finished = set(analysis.finished(analysis.load(study.folder / engine))["method"])
    study.marker("raising").touch()
    second = fedkd(*study.command(engine, "--verbose"), cwd=study.folder)
    return Twice(study, first, journals, {name(method) for method in finished}, second)


def name(method: str) -> str:
    """The bare name of a method of one's own, or of fedkd's."""
    return method.rpartition(":")[2].partition("(")[0]


@pytest.fixture(scope="module")
def by_engine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Twice]:
    """The same failure on both engines; on Ray, a worker process dies on top of it."""
    ray, inline = tmp_path_factory.mktemp("ray"), tmp_path_factory.mktemp("inline")
    return {
        "ray": run_twice("ray", setting(ray, ["dying", "raising"], [0])),
        "inline": run_twice("inline", setting(inline, ["raising"], [0])),
    }


class TestAWorkerThatIsKilled:
    def test_it_was(self, by_engine: dict[str, Twice]) -> None:
        pid = int(by_engine["ray"].study.marker("dying").read_text())
        assert not Path(f"/proc/{pid}").exists()

    def test_its_federation_goes_on(self, by_engine: dict[str, Twice]) -> None:
        assert "dying" in by_engine["ray"].finished

    def test_no_number_changes(self, by_engine: dict[str, Twice]) -> None:
        study = by_engine["ray"].study
        assert_same_numbers(study.folder / "ray", study.undisturbed())


@pytest.mark.parametrize("engine", ENGINES)
class TestAClientThatRaises:
    def test_the_command_fails_and_says_where_and_why(self, engine: str, by_engine: dict[str, Twice]) -> None:
        ended = by_engine[engine].first
        assert ended.code == 1
        (line,) = [line for line in ended.err.splitlines() if line.strip()]
        assert line.startswith("failed: 1 of ")
        assert "raising" in line
        assert line.endswith(
            ", iid, seed 0: 1 of 3 clients failed in round 2; client 1: own.py, line 50: RuntimeError: the disk is full"
        )
        assert "Traceback" not in ended.said

    def test_its_federation_ends_before_the_round_in_which_it_does(
        self, engine: str, by_engine: dict[str, Twice]
    ) -> None:
        (journal,) = [text for name, text in by_engine[engine].journals.items() if name.startswith("raising")]
        assert rounds(journal) == 1, "survivors are not averaged"

    def test_all_others_are_completed(self, engine: str, by_engine: dict[str, Twice]) -> None:
        study = by_engine[engine].study
        others = {name(federation.method) for federation in read(str(study.recipe)).federations} - {"raising"}
        assert by_engine[engine].finished == others

    def test_mended_the_same_command_goes_on_from_there(self, engine: str, by_engine: dict[str, Twice]) -> None:
        twice = by_engine[engine]
        assert twice.second.code == 0, twice.second.said
        assert "1 to run, 3 rounds in all" in twice.second.out
        after = twice.study.journals(engine)
        assert all(after[name].startswith(text) for name, text in twice.journals.items())
        assert_same_numbers(twice.study.folder / engine, twice.study.undisturbed())


def test_both_engines_tell_the_same_failure(by_engine: dict[str, Twice]) -> None:
    told = []
    for twice in by_engine.values():
        (line,) = [line for line in twice.first.out.splitlines() if line.startswith("failed ")]
        told.append(line.replace(str(twice.study.folder), ""))
    assert told[0] == told[1]


def test_flower_and_ray_speak_when_asked_to(by_engine: dict[str, Twice]) -> None:
    said = by_engine["ray"].second.said
    assert "workers with 1 CPUs and 0 GPUs each" in said
    assert "Ray instance" in said

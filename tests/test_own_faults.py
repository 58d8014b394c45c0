"""Whatever is wrong with the user's own code, machine or disk is told in one line that names where."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from analysis.results.files import replacing
from analysis.results.journal import ResultsError
from fedkd.flower.apps import client_app
from simulations.data import load_holdings
from simulations.engine import chosen
from simulations.ray_settings import RaySettings
from tests.conftest import TINY, Call, Ended, written

MODEL = """
from pydantic.dataclasses import dataclass

from fedkd.models import Architecture, Model
from fedkd import STRICT


@dataclass(frozen=True, config=STRICT)
class Mine(Architecture):
    def build(self, shape, classes):
        import torch

        class Body(torch.nn.Module):
            def forward(self, x):
                {forward}
                return x.flatten(1)

        {build}
        return Model(Body(), shape[0] * shape[1] * shape[2], classes)
"""
METHOD = """
from pydantic.dataclasses import dataclass

from fedkd.methods.kd import KD
from fedkd import STRICT


@dataclass(frozen=True, config=STRICT)
class Mine(KD):
    def check(self, federation, labelled):
        {check}

    def learn(self, client, knowledge):
        {learn}
        super().learn(client, knowledge)

    def merge(self, server, reports):
        {merge}
        return super().merge(server, reports)
"""
PARTITION = """
from pydantic.dataclasses import dataclass

from partitions.contract import STRICT, Partition
from partitions.contract import Strategy


@dataclass(frozen=True, config=STRICT)
class Mine(Strategy):
    def split(self, samples, clients, rng):
        {split}
"""


def wrong(folder: Path, text: str, at: str) -> tuple[str, int]:
    """A spec of a file of one's own that divides by zero at one place, and the line of it."""
    places = dict.fromkeys(("forward", "build", "check", "learn", "merge", "split"), "pass") | {at: "1 / 0"}
    for name, statement in places.items():
        text = text.replace("{" + name + "}", statement)
    file = written(folder / "mine.py", text)
    return f"{file}:Mine", 1 + text[: text.index("1 / 0")].count("\n")


def run(call: Call, folder: Path, **settings: str) -> Ended:
    settings = {"method": "local"} | settings
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return call("run", written(folder / "study.toml", TINY), "--engine", "inline", "--out", folder / "out", *sets)


def check_resources(settings: RaySettings) -> None:
    """Whether there is what the clients are to have; nothing is started for it."""
    chosen("ray", client_app(load_holdings), settings)


def one_line(ended: Ended) -> str:
    (line,) = [line for line in ended.err.splitlines() if line.strip()]
    assert "Traceback" not in ended.said
    return line


class TestOwnCode:
    @pytest.mark.parametrize(
        ("key", "text", "at"),
        [
            ("models", MODEL, "build"),
            ("models", MODEL, "forward"),
            ("method", METHOD, "check"),
            ("partition", PARTITION, "split"),
        ],
    )
    def test_it_fails_while_it_is_tried(self, key: str, text: str, at: str, call: Call, tmp_path: Path) -> None:
        spec, line = wrong(tmp_path, text, at)
        ended = run(call, tmp_path, **{key: f'"{spec}"'})
        assert ended.code == 2, ended.said
        assert one_line(ended) == f"error: mine.py, line {line}: ZeroDivisionError: division by zero"
        assert not (tmp_path / "out").exists()

    def test_it_fails_while_it_is_read(self, call: Call, tmp_path: Path) -> None:
        file = written(tmp_path / "mine.py", "import os\n\nos.nothing\n")
        ended = run(call, tmp_path, method=f'"{file}:Mine"')
        assert ended.code == 2
        assert "cannot be loaded: mine.py, line 3: AttributeError" in one_line(ended)

    @pytest.mark.parametrize(("at", "who"), [("learn", "clients failed in round 1; client 0: "), ("merge", "")])
    def test_it_fails_in_a_federation(self, at: str, who: str, call: Call, tmp_path: Path) -> None:
        spec, line = wrong(tmp_path, METHOD, at)
        ended = run(call, tmp_path, method=f'"{spec}"')
        assert ended.code == 1, ended.said
        last = one_line(ended)
        assert last.startswith("failed: 1 of 1 federations failed")
        assert last.endswith(f"{who}mine.py, line {line}: ZeroDivisionError: division by zero")

    def test_the_innermost_line_of_what_it_imports_is_named(self, call: Call, tmp_path: Path) -> None:
        written(tmp_path / "helping.py", "def help():\n    return [][0]\n")
        spec, _ = wrong(tmp_path, METHOD.replace("{check}", "import helping; helping.help()"), "learn")
        ended = run(call, tmp_path, method=f'"{spec}"')
        assert ended.code == 2
        assert one_line(ended) == "error: helping.py, line 2: IndexError: list index out of range"

    def test_a_mistake_of_ours_keeps_its_traceback(self, call: Call, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("simulations.study.Study.run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(call, tmp_path)


class TestResources:
    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"num_cpus": 100.0}, r"ray\.num_cpus.*100 CPUs.*this machine has 2"),
            ({"num_gpus": 0.5}, r"ray\.num_gpus.*0\.5 GPUs.*this machine has none"),
        ],
    )
    def test_more_than_there_is(self, asked: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("simulations.engine.cluster.cpu_cores", lambda: 2)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
        with pytest.raises(ValueError, match=message):
            check_resources(RaySettings(**asked))

    def test_all_there_is_may_be_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("simulations.engine.cluster.cpu_cores", lambda: 2)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        check_resources(RaySettings(num_cpus=2, num_gpus=1.0))
        monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
        with pytest.raises(ValueError, match="whole GPUs"):
            check_resources(RaySettings(num_gpus=1.5))

    def test_a_cluster_has_what_it_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Cluster:
            is_initialized = staticmethod(lambda: True)
            nodes = staticmethod(lambda: [{"Alive": True, "Resources": {"CPU": 64.0}}])

        monkeypatch.setitem(__import__("sys").modules, "ray", Cluster)
        check_resources(RaySettings(num_cpus=64))
        with pytest.raises(ValueError, match="Ray's cluster has 64"):
            check_resources(RaySettings(num_cpus=65))

    def test_the_command_says_so_at_once(self, call: Call, tmp_path: Path) -> None:
        began = time.monotonic()
        sets = ("--set", "method=local", "--set", "ray.num_cpus=1000")
        ended = call("run", written(tmp_path / "study.toml", TINY), "--out", tmp_path / "out", *sets)
        assert ended.code == 2
        assert "each client is to have 1000 CPUs" in one_line(ended)
        assert time.monotonic() - began < 20
        assert not (tmp_path / "out").exists()

    def test_more_clients_than_samples_are_refused_before_work_that_grows_with_them(
        self, call: Call, tmp_path: Path
    ) -> None:
        methods = '["kd", "dml", "dp_kd"]'
        run(call, tmp_path, method=methods, rounds="0")  # data sets and modules are read before
        began = time.process_time()
        ended = run(call, tmp_path, method=methods, clients="99999")
        assert time.process_time() - began < 5
        assert ended.code == 2
        assert "99999 clients cannot share" in one_line(ended)


class TestFullDisk:
    def test_a_report_that_cannot_be_written(self, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert run(call, tmp_path).code == 0

        def draw(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("matplotlib.figure.Figure.savefig", draw)
        ended = call("report", tmp_path / "out")
        assert ended.code == 2
        line = one_line(ended)
        assert str(tmp_path / "out" / "figures") in line
        assert "cannot be written (No space left on device); free some space" in line

    def test_what_was_there_before_stays(self, tmp_path: Path) -> None:
        path = written(tmp_path / "report.html", "before")

        def write() -> None:
            with replacing(path) as half:
                half.write_text("after")
                Path("/dev/full").write_text("after")

        with pytest.raises(ResultsError, match=r"report\.html: cannot be written \(No space left"):
            write()
        assert path.read_text() == "before"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_journal_that_cannot_be_written(self, call: Call, tmp_path: Path, monkeypatch: Any) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("simulations.journal.os.fsync", full)
        ended = run(call, tmp_path)
        assert ended.code in (1, 2)
        assert ".jsonl" in one_line(ended) or ".partial" in one_line(ended)
        assert "No space left on device" in one_line(ended)

"""What tests of the application share: one cache, no telemetry, and two ways to give a command."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest
import torch

import analysis
from analysis.results.metrics import metric
from fedkd.tensors.compute import CPU

FEDKD = Path(sys.executable).parent / "fedkd"
ROOT = Path(__file__).parent.parent
MARK = "FEDKD_TESTED_BY"
"""Environment variable by which the processes of one command are found, orphans included."""


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests, no telemetry, one torch thread; commands inherit it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDKD_CACHE", str(tmp_path_factory.getbasetemp() / "fedkd"))
        patch.setenv("FLWR_TELEMETRY_ENABLED", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.out + self.err


class Process:
    """A `fedkd` command in a process of its own, and whatever processes that starts."""

    def __init__(self, *arguments: object, cwd: Path, environment: dict[str, str] | None = None) -> None:
        self._mark = uuid4().hex
        # Numbers are compared to the last digit: no GPU, here and where there is one.
        own = {MARK: self._mark, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
        self._popen = subprocess.Popen(
            [str(part) for part in arguments],
            cwd=cwd,
            env=os.environ | own | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def ended(self, timeout: float = 200) -> Ended:
        """Wait for its end; a command that does not come to one is stopped, with all that it started."""
        try:
            out, err = self._popen.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return Ended(self._popen.returncode, out, err)

    def first_line(self, *, of_errors: bool = False) -> str:
        """The first line that it prints; waits for it."""
        stream = self._popen.stderr if of_errors else self._popen.stdout
        assert stream is not None
        return stream.readline()

    def wait_until(self, happened: Callable[[], bool], timeout: float = 120) -> None:
        """Wait until something has happened; it must while the command runs."""
        deadline = time.monotonic() + timeout
        while not happened():
            if self._popen.poll() is not None:
                pytest.fail(f"the command ended before: {self.ended().said}")
            if time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"it has not happened within {timeout:.0f} s")
            time.sleep(0.02)

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._popen.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """kill -9 the command itself, then whatever it has left behind."""
        self._popen.kill()
        self._popen.communicate()
        self.kill_orphans()

    def kill_orphans(self) -> None:
        """End processes that this command started and that are still there."""
        deadline = time.monotonic() + 30
        while left := self.alive():
            assert time.monotonic() < deadline, f"processes {left} cannot be ended"
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)

    def alive(self) -> list[int]:
        """Ids of this command's processes, its children's children included."""
        mark = f"{MARK}={self._mark}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue  # it has just ended, or belongs to somebody else
        return found


def fedkd(*arguments: object, cwd: Path, timeout: float = 200) -> Ended:
    """Run `fedkd …` in a process of its own."""
    return Process(FEDKD, *arguments, cwd=cwd).ended(timeout)


Call = Callable[..., Ended]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run `fedkd …` in this process, with an empty folder as the working directory: quick, and as strict."""
    from simulations import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("fedkd.protocol.client.best_device", lambda: CPU)

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["fedkd", *map(str, arguments)])
        code: Any = 0
        before = signal.getsignal(signal.SIGINT)
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            signal.signal(signal.SIGINT, before)
        return Ended(code, *capsys.readouterr())

    return call


def numbers(folder: Path) -> pd.DataFrame:
    """The result table of a study, without the time that things took."""
    table = analysis.load(folder)
    timed = table["metric"].map(lambda name: metric(name).unit == "seconds")
    return table[~timed].reset_index(drop=True)


def assert_same_numbers(one: Path, other: Path) -> None:
    """Two results folders hold the same tables, to the last digit."""
    left, right = numbers(one), numbers(other)
    assert len(left) > 0
    pd.testing.assert_frame_equal(left, right, check_exact=True)


TINY = """
dataset = "digits"
models = "mlp(hidden=[8])"
clients = 3
rounds = 2
seed = 0
[pretrain]
epochs = 2
"""
"""Settings with which a federation takes a tenth of a second; the method is still to be said."""


def written(path: Path, text: str) -> Path:
    """A file with this text."""
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """The system lets no file of this process grow beyond `size` bytes: writing more fails as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

"""There is one estimate of the time left, and the bar moves while clients pre-train."""

from __future__ import annotations

import io
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from rich.console import Console
from torch import Tensor

from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining
from fedkd.tensors.compute import CPU
from fedkd.training.batch import Fit
from fedkd.training.pretrain import _epochs
from simulations import progress
from simulations.engine import InlineGrid
from simulations.progress import Bar
from simulations.recipe import expand
from simulations.study import Study
from simulations.watcher import Watcher

ONE, TWO = Federation("local"), Federation("kd")


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    hand = Clock()
    monkeypatch.setattr(progress, "time", hand)
    return hand


def bar(*, terminal: bool = False) -> tuple[Bar, io.StringIO]:
    """A bar, and where it writes."""
    text = io.StringIO()
    return Bar(Console(file=text, force_terminal=terminal, width=160, highlight=False)), text


def lines(text: io.StringIO) -> list[str]:
    return text.getvalue().splitlines()


class TestTheEstimate:
    def test_bar_and_line_say_the_same(self, clock: Clock) -> None:
        shown, text = bar(terminal=True)
        with shown:
            shown.begins(2, 6)
            for number in range(3):
                clock.now += 10
                shown.round(ONE, number)
            shown.finished(ONE, {0: 0.5, 2: 0.75})
            shown._bar.refresh()
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
        assert set(re.findall(r"about (\d+) s left", plain)) == {"30"}
        assert len(re.findall(r"about 30 s left", plain)) > 1
        assert not re.search(r"\d:\d\d:\d\d", plain), "a second estimate"

    def test_there_is_none_before_a_federation_is_complete(self, clock: Clock) -> None:
        shown, _ = bar()
        shown.begins(2, 6)
        clock.now += 10
        shown.round(ONE, 0)
        assert shown.left() is None

    def test_a_start_counts_by_its_clients(self, clock: Clock) -> None:
        shown, _ = bar()
        shown.begins(2, 6)
        seen = []
        for done in range(1, 5):
            shown.starting(ONE, done, 4)
            seen.append(shown.done)
        assert seen == [0.25, 0.5, 0.75, 1.0]
        shown.round(ONE, 0)
        assert shown.done == 1.0
        shown.round(ONE, 1)
        shown.starting(TWO, 2, 4)
        assert shown.done == 2.5
        shown.round(ONE, 2)
        clock.now = 70
        shown.finished(ONE, {0: 0.5, 2: 0.75})
        assert shown.left() == pytest.approx(70 / 3.5 * 2.5)

    def test_a_federation_that_fails_in_its_start_leaves_nothing_behind(self) -> None:
        shown, text = bar()
        shown.begins(1, 3)
        shown.starting(ONE, 1, 4)
        shown.failed(ONE, "why [not]")
        assert shown.done == 0
        assert lines(text)[-1] == "failed why [not]"


def test_the_lines_of_a_study(clock: Clock) -> None:
    shown, text = bar()
    with shown:
        for done in range(21):
            shown.preparing("digits", done, 20)
        shown.begins(2, 6)
        for number in range(3):
            clock.now += 2
            shown.round(TWO, number)
        shown.finished(TWO, {0: 0.5, 1: 0.6, 2: 0.75})
        clock.now += 6
        for number in range(3):
            shown.round(ONE, number)
        shown.finished(ONE, {0: 0.5, 2: 0.5})
    found = lines(text)
    assert found[:2] == ["preparing digits: 0 of 20", "preparing digits: 2 of 20"]
    assert found[11:] == [
        "2 to run, 6 rounds in all; starting workers",
        "   1/2  0.500 → 0.750  kd, iid, seed 0  6 s, about 6 s left",
        "   2/2  0.500 → 0.500  local, iid, seed 0  12 s, about 0 s left",
    ]
    nothing, text = bar()
    nothing.begins(0, 0)
    assert lines(text) == ["all federations are complete already"]


class Told(Watcher):
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def begins(self, federations: int, rounds: int) -> None:
        self.calls.append(("begins", federations, rounds))

    def starting(self, federation: Federation, done: int, clients: int) -> None:
        self.calls.append(("starting", federation.method, done, clients))

    def round(self, federation: Federation, number: int) -> None:
        self.calls.append(("round", federation.method, number))

    def finished(self, federation: Federation, accuracy: dict[int, float]) -> None:
        self.calls.append(("finished", federation.method, sorted(accuracy)))


def test_a_study_tells_of_each_client_that_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fedkd.protocol.client.best_device", lambda: CPU)
    trained: list[int] = []
    watched = Told()

    def counting(*arguments: Any) -> Generator[Fit, Tensor, int]:
        trained.append(len(watched.calls))
        return _epochs(*arguments)

    monkeypatch.setattr("fedkd.training.pretrain._epochs", counting)
    settings = {"models": "mlp(hidden=[8])", "clients": 3, "rounds": 1, "pretrain": {"epochs": 1}}
    recipe = expand("study", {"method": ["local", "kd"]} | settings)
    assert recipe.federations[0].pretrain == Pretraining(epochs=1)
    Study(recipe, tmp_path / "out").run("inline", lanes=1, watcher=watched)
    expected: list[tuple[Any, ...]] = [("begins", 2, 4)]
    for method in ("local", "kd"):
        expected += [("starting", method, done, 3) for done in (1, 2, 3)]
        expected += [("round", method, 0), ("round", method, 1), ("finished", method, [0, 1])]
    assert watched.calls == expected
    # Told between two trainings, not after the last.
    assert trained == [1, 2, 3]


def test_a_node_answers_when_it_is_asked_for_its_reply() -> None:
    answered: list[int] = []

    def app(message: Message, context: Any) -> Message:
        answered.append(context.node_id)
        return Message(RecordDict(), reply_to=message)

    grid = InlineGrid(app, 3)  # type: ignore[arg-type]
    ids = list(grid.push_messages([Message(RecordDict(), node, "train") for node in (1, 2, 3)]))
    assert answered == []
    for count in (1, 2, 3):
        (reply,) = grid.pull_messages(ids)
        assert reply.metadata.reply_to_message_id == ids[count - 1]
        assert answered == [1, 2, 3][:count]
    assert list(grid.pull_messages(ids)) == []

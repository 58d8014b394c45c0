"""Students and teachers by id: who learns, who teaches, what travels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedkd.base.errors import UserError
from fedkd.flower import wire
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.knowledge.knowledge import Knowledge
from fedkd.node.holdings import Row
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from simulations.engine import InlineGrid
from tests import small
from tests.small import own_cache

__all__ = ["own_cache"]

METHODS = (
    "local", "label_smoothing", "kd", 'kd(refresh="every round")', "dml", 'dml(order="alternating")',
    "dp_kd", 'dp_kd(form="sequential")', 'dp_kd(form="soup")', small.cornered("tuned_kd"),
)  # fmt: skip
CLIENTS = 4
Numbers = dict[tuple[int, int, str, str], float]


class Heard(InlineGrid):
    """A grid that remembers who was told what."""

    def __init__(self) -> None:
        super().__init__(client_app(small.load), CLIENTS)
        self.told: list[dict[int, Knowledge]] = []

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        messages = list(messages)
        requests = [wire.Request.read(message.content) for message in messages]
        self.told.append({client: bag for request in requests for client, bag in request.knowledge.items()})
        return super().send_and_receive(messages, timeout=timeout)


def run(method: str, store: Path | None = None, stop: int | None = None, **settings: Any) -> tuple[Numbers, Heard]:
    """Everything that a federation tells, but for times; with `stop`, it is left after that round and taken up."""
    of = small.small(method, clients=CLIENTS, rounds=3, **settings)
    numbers: Numbers = {}
    grid = Heard()

    def note(number: int, rows: list[Row]) -> None:
        numbers.update({(number, *row[:3]): row[3] for row in rows if not row[2].endswith("seconds")})
        if number == stop:
            raise InterruptedError

    nodes = list(grid.get_node_ids())
    try:
        Rounds(of, small.load, store).start(grid, nodes, note)
    except InterruptedError:
        rest = Rounds(of, small.load, store)
        assert stop is not None
        assert rest.resume(stop)
        rest.start(grid, nodes, note)
    return numbers, grid


def rounds_of(numbers: Numbers, client: int) -> set[int]:
    """In which rounds a client was measured."""
    return {
        number for number, who, split, metric in numbers if who == client and (split, metric) == ("test", "accuracy")
    }


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_everybody_by_name_is_everybody_by_default(self, method: str) -> None:
        everybody = (0, 1, 2, 3)
        assert run(method)[0] == run(method, students=everybody, teachers=everybody)[0]

    def test_only_students_are_asked_after_the_start(self, method: str) -> None:
        numbers, grid = run(method, students=(0, 2))
        assert [sorted(told) for told in grid.told] == [[0, 1, 2, 3]] + [[0, 2]] * (len(grid.told) - 1)
        assert rounds_of(numbers, 1) == rounds_of(numbers, 3) == {0}
        assert rounds_of(numbers, 0) == rounds_of(numbers, 2) == {0, 1, 2, 3}

    def test_only_teachers_upload_predictions(self, method: str) -> None:
        numbers, _ = run(method, students=(0,), teachers=(1, 2))
        assert numbers[0, 3, "", "bytes_up"] == 0
        teaches = method not in ("local", "label_smoothing")
        assert (numbers[0, 1, "", "bytes_up"] > 0) is (numbers[0, 2, "", "bytes_up"] > 0) is teaches
        later = sum(numbers[number, 0, "", "bytes_up"] for number in (1, 2, 3))
        assert later == 0, "the student teaches nobody"

    def test_it_resumes_to_the_same_numbers(self, method: str, tmp_path: Path) -> None:
        whole, _ = run(method, students=(0, 1), teachers=(1, 2, 3))
        for stop in (0, 1, 2):
            assert run(method, tmp_path / str(stop), stop, students=(0, 1), teachers=(1, 2, 3))[0] == whole


def test_a_frozen_teacher_teaches_what_it_knew_at_the_start() -> None:
    _, grid = run("dml", students=(0,), teachers=(1, 2))
    sent = [told[0]["logits"] for told in grid.told[1:]]
    assert torch.equal(sent[0], sent[1])
    assert torch.equal(sent[0], sent[2])


def test_a_student_learns_from_its_teachers_alone() -> None:
    # Client 0 with the teachers 1 and 2 of four, and of three clients: the fourth changes nothing.
    among_four, _ = run("kd", students=(0,), teachers=(1, 2))
    of = small.small("kd", clients=3, rounds=3, students=(0,))
    grid = InlineGrid(client_app(small.load), 3)
    numbers: Numbers = {}
    Rounds(of, small.load).start(
        grid, list(grid.get_node_ids()), lambda n, rows: numbers.update({(n, *row[:3]): row[3] for row in rows})
    )
    for number in range(4):
        for split in ("test", "val", "transfer"):
            assert numbers[number, 0, split, "loss"] == among_four[number, 0, split, "loss"]


def test_the_sum_over_peers_counts_those_that_teach() -> None:
    plain, _ = run("dml", students=(0,), teachers=(3,))
    summed, _ = run('dml(reduce="sum")', students=(0,), teachers=(3,))
    assert plain == summed


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("kd", {"students": (0,), "teachers": (0,)}, "nobody else may teach client 0"),
        ("kd(teachers='one(1)')", {"teachers": (0, 2)}, "clients that may teach are 0, 2"),
        ("kd(teachers='k(2)')", {"teachers": (1, 2)}, "client"),
        ("dml", {"teachers": (2,)}, "nobody else may teach client 2"),
    ],
)
def test_too_few_teachers_are_refused_before_anything_runs(method: str, settings: Any, message: str) -> None:
    of = Federation(method, clients=4, **settings)
    with pytest.raises(UserError, match=message):
        schedule_of(of).method.check(of, labelled=False)

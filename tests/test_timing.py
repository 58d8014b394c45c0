"""Where the time of a round goes: a division of the time by the clock."""

from __future__ import annotations

import pytest

from fedkd.flower.timing import PARTS, Flight, added, divided


def test_the_parts_add_up_to_the_time_by_the_clock() -> None:
    flights = [
        Flight(2.0, 5.0, {"training": 2.0, "state": 0.5}),
        Flight(4.0, 7.0, {"training": 1.0, "evaluation": 1.0}),
    ]
    parts = divided(0.0, 1.0, 9.0, flights)
    assert sum(parts.values()) == pytest.approx(9.0)
    assert set(parts) <= set(PARTS)


def test_side_by_side_is_counted_once() -> None:
    # Three workers that train side by side for 2 s, with no other time, are 2 s of training.
    parts = divided(0.0, 0.0, 2.0, [Flight(0.0, 2.0, {"training": 2.0})] * 3)
    assert parts["training"] == pytest.approx(2.0)
    assert sum(parts.values()) == pytest.approx(2.0)


def test_each_part_where_it_is_alone() -> None:
    # Sent at 1, a worker got it at 3, it was back at 8 after 4 s of work, and the server ended at 10.
    parts = divided(0.0, 1.0, 10.0, [Flight(3.0, 8.0, {"training": 3.0, "evaluation": 1.0})])
    assert parts == pytest.approx({"waiting": 2.0, "transport": 1.0, "training": 3.0, "evaluation": 1.0, "server": 3.0})


def test_a_gap_between_two_messages_is_waiting() -> None:
    parts = divided(0.0, 0.0, 5.0, [Flight(0.0, 1.0, {"training": 1.0}), Flight(4.0, 5.0, {"training": 1.0})])
    assert parts["waiting"] == pytest.approx(3.0)
    assert parts["training"] == pytest.approx(2.0)


def test_without_messages_all_is_the_server() -> None:
    assert divided(1.0, 1.5, 3.0, []) == {"server": 2.0}


def test_sums() -> None:
    assert added({"training": 1.0}, {"training": 2.0, "waiting": 3.0}) == {"training": 3.0, "waiting": 3.0}
    assert added({}, {"state": 1.0}) == {"state": 1.0}

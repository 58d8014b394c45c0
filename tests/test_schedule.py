"""The schedule at its edges: which exchanges there are, who takes part, whose state a client reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.base.errors import UserError
from fedkd.node.moment import Phase, in_round
from fedkd.protocol.schedule import Schedule, schedule_of
from fedkd.settings.federation import Federation
from tests.small import small

SEQUENTIAL = 'consolidate(method="kd", order="sequential")'
SEARCH = "tuned(method='dml', grid={'lr': [0.1, 0.2]}, rounds=2)"


def schedule(method: str = "kd", **settings: Any) -> Schedule:
    return schedule_of(small(method, **settings))


def phases(of: Schedule) -> list[tuple[str, int, int]]:
    """(phase, step, round of the results) of every exchange."""
    return [(moment.phase.value, moment.step, moment.booked) for moment in of.moments]


def test_without_rounds_there_is_the_start_and_it_is_the_last() -> None:
    (start,) = schedule(rounds=0).moments
    assert (start.phase, start.exchange, start.booked, start.begins, start.last) == (Phase.START, 0, 0, True, True)


def test_rounds_follow_the_start() -> None:
    assert phases(schedule(rounds=2)) == [("start", 0, 0), ("round", 1, 1), ("round", 2, 2)]


def test_consolidation_preparations_and_rounds_follow_each_other() -> None:
    of = schedule(SEARCH, clients=3, rounds=2, start=SEQUENTIAL)
    assert phases(of) == [
        ("start", 0, 0),
        ("handover", 1, 1),
        ("handover", 2, 2),
        ("take up", 0, 2),
        ("prepare", 1, 2),
        ("prepare", 2, 2),
        ("round", 1, 3),
        ("round", 2, 4),
    ]
    assert [moment.since for moment in of.moments] == [0, 0, 0, 0, 1, 2, 3, 4]
    assert [moment.begins for moment in of.moments] == [False, False, False, True, False, False, False, False]
    assert [moment.exchange for moment in of.moments] == list(range(8))
    assert [moment.last for moment in of.moments] == [False] * 7 + [True]
    assert (of.start_rounds, of.last_round) == (2, 4)
    assert [of.after(round).exchange for round in range(5)] == [0, 1, 5, 6, 7]
    assert [of.completes(moment) for moment in of.moments] == [True, True, False, False, False, True, True, True]


def test_an_average_takes_one_round_and_no_hand_over() -> None:
    assert phases(schedule(rounds=1, start="average")) == [("start", 0, 0), ("take up", 0, 1), ("round", 1, 2)]


def test_a_method_that_begins_with_the_average_needs_none() -> None:
    assert phases(schedule("fedavg", rounds=1, start="average")) == [("start", 0, 0), ("round", 1, 1)]


def test_one_client_alone_takes_part_always() -> None:
    of = schedule("local", clients=1, participation=0.1)
    assert [of.participants(moment) for moment in of.moments] == [(0,)] * 3


def test_all_start_and_prepare_but_a_share_learns() -> None:
    of = schedule("miniplm(teacher_epochs=1, reference_epochs=2)", clients=10, rounds=4, participation=0.3)
    for moment in of.moments:
        assert len(of.participants(moment)) == (3 if moment.round else 10)
        assert set(of.participants(moment)) | set(of.absent(moment)) == set(range(10))


def test_the_same_clients_take_part_under_every_method_and_after_every_start() -> None:
    drawn = [
        [of.participants(moment) for moment in of.moments if moment.round]
        for of in (
            schedule("local", clients=9, rounds=5, participation=0.4),
            schedule("kd", clients=9, rounds=5, participation=0.4, start=SEQUENTIAL),
            schedule("reffakd", clients=9, rounds=5, participation=0.4),
        )
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(set(drawn[0])) > 1
    other = schedule("local", clients=9, rounds=5, participation=0.4, seed=1)
    assert [other.participants(moment) for moment in other.moments if moment.round] != drawn[0]


def test_only_those_who_learn_are_drawn() -> None:
    of = schedule("kd", clients=6, rounds=30, students=(1, 2, 5), teachers=(0, 3), participation=0.5)
    seen = {client for moment in of.moments if moment.round for client in of.participants(moment)}
    assert seen == {1, 2, 5}


def test_everybody_is_drawn_about_equally_often() -> None:
    of = schedule("local", clients=10, rounds=2000, participation=0.2)
    times = [0] * 10
    for moment in of.moments[1:]:
        for client in of.participants(moment):
            times[client] += 1
    # 2,000 rounds of 2 of 10: 400 each, with a standard deviation of √(2000·0.2·0.8) = 18.
    assert all(abs(number - 400) < 4 * 18 for number in times)


@given(share=st.floats(0.01, 1), clients=st.integers(1, 200))
def test_the_number_of_participants_is_the_share_rounded_down_and_at_least_one(share: float, clients: int) -> None:
    of = schedule_of(Federation("local", clients=clients, rounds=1, participation=share))
    number = len(of.participants(of.moments[1]))
    assert number == max(1, int(share * clients + 1e-9))
    assert len(set(of.participants(of.moments[1]))) == number


def test_a_client_reads_the_state_of_the_last_exchange_in_which_it_took_part() -> None:
    of = schedule("local", clients=8, rounds=12, participation=0.25)
    last = dict.fromkeys(range(8), 0)
    for moment in of.moments[1:]:
        for client in range(8):
            assert of.previous(client, moment).exchange == last[client]
        last |= dict.fromkeys(of.participants(moment), moment.exchange)
    for client in range(8):
        going = [of.goes_on(client, moment) for moment in of.moments]
        assert going == [moment.exchange < last[client] for moment in of.moments]
    with pytest.raises(LookupError, match="client 0"):
        of.previous(0, of.moments[0])


def test_nobody_reports_what_nobody_would_read() -> None:
    of = schedule("dml", clients=3, rounds=2)
    assert [of.reporters(moment) for moment in of.moments] == [{0, 1, 2}, {0, 1, 2}, frozenset()]
    frozen = schedule("kd", clients=3, rounds=2)
    assert [bool(frozen.reporters(moment)) for moment in frozen.moments] == [True, False, False]
    averaged = schedule("fedavg", clients=3, rounds=2)
    assert all(averaged.reporters(moment) for moment in averaged.moments)
    assert not any(schedule("local").reporters(moment) for moment in schedule("local").moments)


def test_those_who_do_not_teach_do_not_report() -> None:
    of = schedule("dml", clients=4, rounds=2, students=(0, 1), teachers=(1, 3))
    assert of.reporters(of.moments[0]) == {1, 3}
    assert of.reporters(of.moments[1]) == {1}


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("tuned_kd(temperatures=[1.0, 2.0], weights=[0.5])", "tries the cells"),
        ("dml(sync='step')", "every step"),
        ("dml(order='alternating')", "one client after the other"),
        ("miniplm(then='dml(order=\"alternating\")')", "one client after the other"),
    ],
)
def test_who_needs_everyone_says_so(method: str, why: str) -> None:
    with pytest.raises(UserError, match=f"participation.*0.5.*{why}.*1.0"):
        schedule(method, clients=4, participation=0.5).check(labelled=False)


def test_a_moment_of_a_round_alone() -> None:
    assert in_round(0).begins
    assert (in_round(3).round, in_round(3).since, in_round(3).begins) == (3, 3, False)

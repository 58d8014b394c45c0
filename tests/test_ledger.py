"""What is booked: costs add up, values stay, and both sides of the results call a metric the same."""

from __future__ import annotations

import analysis.results.metrics as declared
from fedkd.protocol.ledger import ABSENT, KINDS, Kind, absent_rows, added, evaluations, kind


def test_costs_add_up_and_of_values_the_newer_stay() -> None:
    first = [(0, "", "steps", 3.0), (0, "test", "accuracy", 0.5), (0, "", "parameters", 7.0)]
    second = [(0, "", "steps", 4.0), (0, "test", "accuracy", 0.25), (1, "", "steps", 1.0)]
    assert sorted(added(first, second)) == [
        (0, "", "parameters", 7.0),
        (0, "", "steps", 7.0),
        (0, "test", "accuracy", 0.25),
        (1, "", "steps", 1.0),
    ]


def test_bytes_of_a_preparation_stand_apart_too() -> None:
    rows = [(0, "", "bytes_up", 3.0), (0, "", "bytes_down", 4.0), (1, "", "bytes_up", 1.0), (0, "", "steps", 9.0)]
    booked = {row[:3]: row[3] for row in added([], rows, "tuning")}
    assert booked[0, "", "tuning_bytes"] == 7.0
    assert booked[1, "", "tuning_bytes"] == 1.0
    assert booked[0, "", "bytes_up"] == 3.0


def test_results_are_read_as_they_are_booked() -> None:
    for name, booked in KINDS.items():
        assert declared.metric(name).holds == (booked is Kind.EVALUATION), name
        assert declared.metric(name).kind == ("cost" if booked is Kind.COST else "value"), name
    # The other way: of costs that the table knows, those of a start or of one party are booked once and never added.
    once = {name for name, metric in declared.METRICS.items() if metric.kind == "cost"} - KINDS.keys()
    assert all(kind(name) is Kind.VALUE for name in once)
    assert {name.split("_")[0] for name in once} <= {"pretrain", "encoder"}


def test_a_member_of_a_family_is_of_its_kind() -> None:
    assert kind("accuracy/3") is Kind.EVALUATION
    assert kind("tuning_accuracy/lr=0.1") is Kind.VALUE
    assert kind("bytes_up") is Kind.COST
    assert kind("a user's own") is Kind.VALUE


def test_an_absent_client_keeps_its_evaluation_alone() -> None:
    measured = {("test", "accuracy"): 0.5, ("test", "accuracy/3"): 0.25, ("", "steps"): 4.0, ("", "selected"): 0.1}
    evaluated = evaluations(measured)
    assert evaluated == {("test", "accuracy"): 0.5, ("test", "accuracy/3"): 0.25}
    assert absent_rows(2, evaluated, 3) == [
        (2, "test", "accuracy", 0.5),
        (2, "test", "accuracy/3", 0.25),
        (2, "", ABSENT, 3.0),
    ]

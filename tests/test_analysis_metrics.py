"""Metrics are declared once: what is measured is declared, and the two ends of the wire agree on what adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import analysis
from analysis.measures.scores import COSTS, federation_scores
from analysis.results.metrics import METRICS, SENT, family_rows, member, members, metric
from fedkd.protocol.ledger import KINDS, Kind
from tests.conftest import Call, written

MEASURING = """
dataset = "digits(limit=300)"
models = "mlp(hidden=[4])"
clients = 2
rounds = 1
method = ["tuned_kd(temperatures=[1.0, 2.0], weights=[0.5])", "reffakd(epochs=1)"]
transfer = "public(fraction=0.3, labelled=true)"
[pretrain]
epochs = 1
"""


@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_the_protocol_adds_up_is_a_cost_here_too(name: str) -> None:
    # Two rooms that do not import each other say what the same names mean.
    assert metric(name).name in METRICS
    assert (metric(name).kind == "cost") == (KINDS[name] is Kind.COST)


def test_every_metric_of_a_run_is_declared(call: Call, tmp_path: Path) -> None:
    ended = call("run", written(tmp_path / "study.toml", MEASURING), "--engine", "inline", "--out", "here")
    assert (ended.code, ended.err) == (0, "")
    measured = {str(name) for name in analysis.load(tmp_path / "here")["metric"].unique()}
    assert len(measured) > 30
    assert not sorted(name for name in measured if metric(name).name not in METRICS)


def test_costs_of_the_comparison_are_declared_costs() -> None:
    names = [name for parts in COSTS.values() for name in parts]
    assert {METRICS[name].kind for name in names} == {"cost"}
    assert len(set(names)) == len(names), "a cost that is counted twice"
    assert {METRICS[name].unit for name in SENT} == {"bytes"}


def test_costs_add_up_over_rounds_and_clients_and_values_do_not() -> None:
    rows = [
        {"round": number, "client": client, "split": split, "metric": name, "value": value}
        for number in (0, 1)
        for client in (0, 1)
        for name, split, value in (("bytes_up", "", 8.0), ("steps", "", 3.0), ("accuracy", "test", 0.5))
    ]
    settings: dict[str, Any] = {"federation": "f", "dataset": "digits", "partition": "iid", "method": "kd", "seed": 0}
    scores = federation_scores(pd.DataFrame(rows).assign(**settings)).loc["f"]
    assert (scores["bytes"], scores["steps"], scores["accuracy"]) == (32.0, 12.0, 0.5)


def test_families_are_told_from_metrics_of_like_names() -> None:
    names = ["accuracy", "accuracy/3", "tuning_accuracy/temperature=2.0,w=1/2", "similarity/0/3", "mine/1"]
    assert members(names, "accuracy") == ["accuracy/3"]
    assert [member(name) for name in names] == ["", "3", "temperature=2.0,w=1/2", "0/3", ""]
    table = pd.DataFrame({"metric": pd.Series(names * 2, dtype="category")})
    assert list(family_rows(table, "similarity").index) == [3, 8]
    assert metric("mine/1").kind == "value"
    assert metric("steps/1").kind == "value", "steps has no family"

"""What methods say of themselves: who reports when, what is kept, and that each says the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkd.distillation.distilling import Distilling, SoftPredictions
from fedkd.distillation.sources import OwnPast, Peers
from fedkd.method import METHODS, Method
from fedkd.node.moment import AT_START, Moment, Phase, in_round
from tests.conftest import ROOT
from tests.small import distilling, federate, small
from tests.small import own_cache as own_cache

PREPARING = Moment(Phase.PREPARE, step=1, exchange=1, since=1, begins=False)


@pytest.mark.parametrize(
    ("spec", "at_start", "in_a_round"),
    [
        ("local", "nobody", "nobody"),
        ("label_smoothing", "nobody", "nobody"),
        ("fedavg", "teachers", "teachers"),
        ("ensemble", "teachers", "teachers"),
        ("kd", "teachers", "nobody"),
        ('kd(refresh="every round")', "teachers", "teachers"),
        ('kd(teachers="self")', "everyone", "nobody"),
        ('kd(teachers="autoencoder")', "nobody", "nobody"),
        ('dp_kd(teachers="self")', "everyone", "nobody"),
        ("dml", "teachers", "teachers"),
        ("reffakd", "nobody", "nobody"),
        ('reffakd(encoder="local")', "everyone", "nobody"),
        ('miniplm(then="kd")', "everyone", "nobody"),
        ('miniplm(then="fedavg")', "everyone", "teachers"),
        ("tuned_kd", "teachers", "nobody"),
        ('tuned(method="local", grid={"lr": [0.1]})', "nobody", "nobody"),
        ('tuned(method="kd", grid={"teachers": ["others", "self"]})', "everyone", "nobody"),
    ],
)
def test_who_reports_is_what_the_method_does(spec: str, at_start: str, in_a_round: str) -> None:
    method = METHODS.build(spec)
    assert method.reports(AT_START) == at_start
    assert method.reports(in_round(2)) == in_a_round
    if method.preparations:
        assert method.reports(PREPARING) == "everyone"


@pytest.mark.parametrize(("spec", "kept"), [("kd", True), ("dml", False), ("tuned_kd", True), ("miniplm", False)])
def test_what_travels_once_is_kept(spec: str, kept: bool) -> None:
    assert METHODS.build(spec).keeps is kept


def test_refresh_is_that_of_the_method_inside() -> None:
    assert METHODS.build('tuned(method="local", grid={"lr": [0.1]})').refresh == "never"
    assert METHODS.build('miniplm(then="kd")').refresh == "once"


def test_nobody_is_asked_for_what_nobody_reports() -> None:
    # All that were asked have answered, in every exchange of every method whose clients have something to say.
    for spec in ("kd", "dml", "fedavg", 'kd(refresh="every round")'):
        outcome = federate(small(spec, rounds=2))
        asked = [METHODS.build(spec).reports(in_round(exchange)) != "nobody" for exchange in (0, 1)]
        assert [len(reports) == 2 for reports in outcome.reports[:2]] == asked


def test_a_spec_is_no_criterion() -> None:
    # `select` is a selection of samples where something is distilled, and nothing else is mistaken for one.
    assert not isinstance(METHODS.build("tuned"), Distilling | SoftPredictions)
    assert not hasattr(Method, "select")
    assert METHODS.build("tuned(select='val_loss')") != METHODS.build("tuned")


def test_sources() -> None:
    assert isinstance(distilling("kd").source, Peers)
    assert isinstance(distilling('kd(teachers="self")').source, OwnPast)
    assert isinstance(distilling('dp_kd(teachers="self")').source, Peers), "to it, its own past is one more teacher"
    assert distilling('kd(teachers="autoencoder")').source is None


def test_soft_predictions_are_described_once() -> None:
    declared = [
        path.name
        for folder in ("methods", "distillation")
        for path in (ROOT / "fedkd" / folder).glob("*.py")
        if "    wire: Wire" in path.read_text(encoding="utf-8") or "    revise: str" in path.read_text(encoding="utf-8")
    ]
    assert declared == ["distilling.py"]
    assert Path(ROOT / "fedkd" / "distillation" / "distilling.py").is_file()

"""kd against the reference: objectives, merges, teachers, wires, revised and selected soft predictions."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.reference.compare import LABELLED, assert_agree
from tests.reference.distillation import kd

FOUR = {"clients": 4}


@pytest.mark.parametrize(
    ("method", "settings", "changes"),
    [
        ("kd", {}, {}),
        ("kd(temperature=4.0, weight=0.7)", {"temperature": 4.0, "weight": 0.7}, {"transfer": LABELLED}),
        ("kd(weight=1.0)", {"weight": 1.0}, {}),
        ("kd(objective='reverse_kl', temperature=2.0)", {"objective": "reverse_kl", "temperature": 2.0}, {}),
        ("kd(objective='js', temperature=2.0)", {"objective": "js", "temperature": 2.0}, {}),
        ("kd(objective='mse')", {"objective": "mse"}, {}),
        ("kd(merge_by='probabilities', temperature=3.0)", {"merge_by": "probabilities", "temperature": 3.0}, {}),
        ("kd(teachers='all')", {"teachers": "all"}, {}),
        ("kd(teachers='self')", {"teachers": "self"}, {}),
        ("kd(teachers='one(1)')", {"teachers": "one(1)"}, {}),
        ("kd(teachers='k(2)')", {"teachers": "k(2)"}, FOUR),
        (
            "kd(teachers='k(2)', refresh='every round')",
            {"teachers": "k(2)", "refresh": "every round"},
            FOUR | {"rounds": 3},
        ),
        ("kd(teachers='self', refresh='every round')", {"teachers": "self", "refresh": "every round"}, {}),
        ("kd(wire='top(3)')", {"wire": "top(3)"}, {}),
        (
            "kd(wire='top(4)', refresh='every round', merge_by='probabilities')",
            {"wire": "top(4)", "refresh": "every round", "merge_by": "probabilities"},
            {"transfer": LABELLED},
        ),
        ("kd(wire='top(6)')", {"wire": "top(6)"}, {}),
        ("kd(wire='top(5)', teachers='self')", {"wire": "top(5)", "teachers": "self"}, {}),
        ("kd(wire='float32')", {"wire": "float32"}, {}),
        ("kd", {}, {"train": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "batch_size": 24}}),
        ("kd", {}, {"transfer": "private"}),
        (
            "kd(merge_by='probabilities', refresh='every round')",
            {"merge_by": "probabilities", "refresh": "every round"},
            {"transfer": "private"},
        ),
        ("kd(weight=1.0)", {"weight": 1.0}, {"transfer": "private"}),
        ("kd(teachers='self')", {"teachers": "self"}, {"transfer": "private"}),
        ("kd", {}, {"models": "cnn(width=2, hidden=8)|mlp(hidden=[8])", "transfer": "private"}),
        ("kd", {}, {"models": "cnn(width=2, hidden=8)|mlp(hidden=[8])"}),
        ("kd", {}, FOUR | {"students": [0, 2], "teachers": [1, 2]}),
        (
            "kd(refresh='every round')",
            {"refresh": "every round"},
            FOUR | {"students": [0, 2], "teachers": [1, 2], "rounds": 3},
        ),
    ],
)
def test_kd_agrees(method: str, settings: dict[str, Any], changes: dict[str, Any]) -> None:
    assert_agree(method, partial(kd, **settings), **changes)


@pytest.mark.parametrize("changes", [{"transfer": LABELLED}, {"transfer": "private"}], ids=["transfer", "private"])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("kd(revise='labels(eta=0.6)', temperature=2.0)", {"eta": 0.6, "temperature": 2.0}),
        ("kd(revise='labels(per_teacher=true)')", {"eta": 0.8, "per_teacher": True}),
        ("kd(revise='labels(eta=0.5, form=\"mse\")')", {"eta": 0.5, "form": "mse"}),
        ("kd(select='random(keep=0.4)')", {"select": "random", "keep": 0.4}),
        (
            "kd(select='random(keep=0.6, every=2)', weight=1.0)",
            {"select": "random", "keep": 0.6, "every": 2, "weight": 1.0},
        ),
        ("kd(select='confidence', refresh='every round')", {"select": "confidence", "refresh": "every round"}),
        (
            "kd(select='teacher_correct', revise='labels', weight=0.8)",
            {"select": "teacher_correct", "eta": 0.8, "weight": 0.8},
        ),
        (
            "kd(select='teacher_correct', revise='labels(form=\"mse\")')",
            {"select": "teacher_correct", "eta": 0.8, "form": "mse"},
        ),
    ],
)
def test_revised_and_selected_soft_predictions_agree(
    method: str, settings: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert_agree(method, partial(kd, **settings), **changes)


@pytest.mark.parametrize("select", ["random(keep=0.4)", "confidence"])
def test_a_selection_without_labels_agrees(select: str) -> None:
    name, keep = select.partition("(")[0], 0.4 if "(" in select else 0.7
    assert_agree(f"kd(select='{select}')", partial(kd, select=name, keep=keep))

"""dp_kd against the reference: both masks, all forms."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.reference.compare import LABELLED, assert_agree
from tests.reference.partitioning import dp_kd

FOUR = {"clients": 4, "rounds": 3}
SUPERVISED = {"transfer": LABELLED}
PRIVATE = {"transfer": "private"}


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, {}),
        ({"wire": "float32", "temperature": 2.0}, FOUR),
        ({"wire": "top(3)"}, {}),
        ({"wire": "top(3)", "form": "sequential"}, {}),
        ({"mask": "supervised"}, SUPERVISED),
        ({"mask": "supervised", "wire": "float32"}, PRIVATE),
        ({"teachers": "all", "wire": "float32"}, {}),
        ({"teachers": "self"}, {}),
        ({"form": "sequential"}, FOUR),
        ({"form": "sequential", "order": "asc", "wire": "float32"}, FOUR),
        ({"form": "sequential", "mask": "supervised"}, SUPERVISED | {"train": {"steps": 2, "lr": 0.1}, "clients": 4}),
        ({"form": "sequential"}, PRIVATE),
        ({"form": "soup"}, FOUR),
        ({"form": "soup", "mask": "supervised", "teachers": "k(2)"}, PRIVATE | FOUR),
        ({"form": "soup"}, FOUR | {"students": [0, 3], "teachers": [1, 2, 3], "train": {"steps": 1, "lr": 0.1}}),
        ({"form": "sequential"}, FOUR | {"students": [0, 3], "teachers": [1, 2]}),
        ({}, {"models": "cnn(width=2, hidden=8)|mlp(hidden=[8])"}),
    ],
    ids=str,
)
def test_dp_kd_agrees(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    inside = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    assert_agree(f"dp_kd({inside})" if inside else "dp_kd", partial(dp_kd, **settings), **changes)


@pytest.mark.parametrize("changes", [SUPERVISED, PRIVATE], ids=["transfer", "private"])
@pytest.mark.parametrize(
    ("inside", "settings"),
    [
        ("revise='labels(eta=0.6)', mask='supervised'", {"eta": 0.6, "mask": "supervised"}),
        # One's own past is never better: all ties are the student's, and nothing is revised.
        (
            "teachers='self', revise='labels', mask='supervised'",
            {"teachers": "self", "eta": 0.8, "mask": "supervised"},
        ),
        ("select='random(keep=0.4)'", {"select": "random", "keep": 0.4}),
        (
            "select='teacher_correct', revise='labels', form='sequential'",
            {"select": "teacher_correct", "eta": 0.8, "form": "sequential"},
        ),
    ],
)
def test_revised_and_selected_soft_predictions_agree(
    inside: str, settings: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert_agree(f"dp_kd({inside})", partial(dp_kd, **settings), **changes)

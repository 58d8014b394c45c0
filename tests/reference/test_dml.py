"""dml against the reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.reference.compare import LABELLED, assert_agree
from tests.reference.mutual import dml

STEP = {"train": {"steps": 1, "lr": 0.2, "batch_size": 16}, "rounds": 5}
ROLES = {"clients": 4, "students": [0, 2], "teachers": [1, 2], "rounds": 3}


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, {}),
        ({"reduce": "sum"}, {"clients": 4}),
        ({"wire": "float32"}, {"transfer": LABELLED}),
        ({}, {"transfer": "private"}),
        ({"order": "alternating"}, {"rounds": 4}),
        ({"order": "alternating"}, {"rounds": 4, "transfer": "private"}),
        ({"wire": "top(3)"}, {}),
        ({"sync": "step"}, STEP),
        ({"sync": "step"}, STEP | {"transfer": LABELLED}),
        ({"sync": "step", "order": "alternating"}, STEP | {"rounds": 7}),
        ({"sync": "step"}, STEP | ROLES),
        ({"order": "alternating", "reduce": "sum"}, ROLES),
        ({}, ROLES),
    ],
    ids=str,
)
def test_dml_agrees(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    inside = ", ".join(f"{name}='{value}'" for name, value in settings.items())
    assert_agree(f"dml({inside})" if inside else "dml", partial(dml, **settings), **changes)

"""fedavg, fedprox and ensemble against the reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.reference.averaging import ensemble, fedavg
from tests.reference.compare import LABELLED, Reference, assert_agree


@pytest.mark.parametrize(
    ("method", "reference", "changes"),
    [
        ("fedavg", fedavg, {}),
        ("fedavg", fedavg, {"transfer": LABELLED, "clients": 4}),
        ("fedavg", fedavg, {"transfer": "private", "start": "random"}),
        ("fedavg(force=true)", fedavg, {"init": "per_client"}),
        ("fedprox(mu=0.5)", partial(fedavg, mu=0.5), {}),
        ("fedprox", partial(fedavg, mu=0.01), {"clients": 4, "students": [0, 3], "teachers": [0, 3]}),
        ("ensemble", ensemble, {}),
        ("ensemble", ensemble, {"models": "cnn(width=2, hidden=8)|mlp(hidden=[8])", "transfer": "private"}),
        ("ensemble", ensemble, {"clients": 4, "students": [0, 2], "teachers": [1, 2]}),
    ],
)
def test_methods_agree(method: str, reference: Reference, changes: dict[str, Any]) -> None:
    assert_agree(method, reference, **changes)

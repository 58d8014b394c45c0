"""Common starts against the reference, and the methods that begin from them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reference.alone import local
from tests.reference.averaging import fedavg
from tests.reference.compare import LABELLED, Reference, assert_agree
from tests.reference.distillation import KD, kd
from tests.reference.ledger import Ledger
from tests.reference.mutual import dml
from tests.reference.partitioning import dp_kd
from tests.reference.starts import Consolidation
from tests.reference.world import World


def after(consolidation: Consolidation, method: Reference) -> Reference:
    """The method, from the start that a consolidation makes."""

    def reference(world: World) -> Ledger:
        world.consolidate = consolidation
        return method(world)

    return reference


SEQUENTIAL = KD(weight=0.8, temperature=2.0)


@pytest.mark.parametrize(
    ("start", "consolidation", "method", "reference", "changes"),
    [
        ("average", Consolidation(mean=True), "kd", kd, {}),
        ("average", Consolidation(mean=True), "local", local, {"transfer": "private"}),
        ("average", None, "fedavg", fedavg, {}),
        ("best_client", Consolidation(), "fedavg", fedavg, {}),
        ("best_client", Consolidation(), "dml", dml, {"transfer": LABELLED}),
        ("kd(weight=0.9)", Consolidation(of=KD(weight=0.9)), "fedavg", fedavg, {}),
        ("kd", Consolidation(of=KD()), "local", local, {"transfer": "private"}),
        (
            "consolidate(method='kd(weight=0.8, temperature=2.0)', order='sequential', rounds=2)",
            Consolidation(of=SEQUENTIAL, sequential=True, rounds=2),
            "dp_kd",
            dp_kd,
            {"clients": 4},
        ),
        (
            "consolidate(method='kd', order='sequential')",
            Consolidation(of=KD(), sequential=True),
            "fedavg",
            fedavg,
            {"transfer": "private"},
        ),
    ],
)
def test_starts_agree(
    start: str, consolidation: Consolidation | None, method: str, reference: Reference, changes: dict[str, Any]
) -> None:
    assert_agree(method, after(consolidation, reference) if consolidation else reference, **changes, start=start)

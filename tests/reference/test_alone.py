"""local, pooled and label_smoothing against the reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.reference.alone import label_smoothing, local, pooled
from tests.reference.compare import LABELLED, Reference, assert_agree


@pytest.mark.parametrize(
    ("method", "reference", "changes"),
    [
        ("local", local, {}),
        ("local", local, {"transfer": LABELLED}),
        ("local(public=false)", partial(local, public=False), {"transfer": LABELLED}),
        ("local", local, {"transfer": "private"}),
        ("pooled", pooled, {}),
        ("label_smoothing(alpha=0.3, temperature=2.0)", partial(label_smoothing, alpha=0.3, temperature=2.0), {}),
        ("label_smoothing", label_smoothing, {"transfer": LABELLED}),
    ],
)
def test_methods_agree(method: str, reference: Reference, changes: dict[str, Any]) -> None:
    assert_agree(method, reference, **changes)


TRAINING = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "batch_size": 24}


@pytest.mark.parametrize(
    "changes",
    [
        {"train": TRAINING, "pretrain": {"epochs": 2} | TRAINING},
        {"train": TRAINING | {"steps": 5, "optimizer": "adam", "momentum": 0.0, "lr": 0.003}},
        {"train": {"epochs": 2, "lr": 0.1, "batch_size": 400}, "pretrain": {"epochs": 3, "batch_size": 400}},
        {"pretrain": {"epochs": "converged", "lr": 0.3, "patience": 2}},
        {"pretrain": {"epochs": "early_stopping", "lr": 0.5, "patience": 1}},
        {"pretrain": {"epochs": 9, "lr": 0.3, "target": 0.5}},
        {"pretrain": {"epochs": 0}},
        {"start": "random", "init": "per_client"},
        {"models": "cnn(width=2, hidden=8)|mlp(hidden=[8, 8])"},
        {"val": "common"},
        {"clients": 4, "students": [1, 3]},
    ],
    ids=str,
)
def test_settings_agree(changes: dict[str, Any]) -> None:
    assert_agree("local", local, **changes)

"""Stacked clients through whole federations: every method gives the numbers that it gives one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.base.store import read_tensors
from fedkd.training import stacked
from tests import small
from tests.small import LABELLED, TRAINING, own_cache
from tests.test_participation import CLIENTS, Numbers, run

__all__ = ["own_cache"]

COSTS = ("steps", "samples", "bytes_up", "bytes_down", "pretrain_epochs", "pretrain_steps", "parameters")
MORE = [
    ("dml(order='alternating')", LABELLED),
    ("dml(reduce='sum')", LABELLED),
    ("dp_kd(form='sequential')", LABELLED),
    ("dp_kd(form='soup')", LABELLED),
    ("kd(revise=\"labels(eta=0.5, form='mse')\")", LABELLED),
    ('kd(select="confidence(keep=0.5)", weight=1.0)', LABELLED),
    ('kd(teachers="others+autoencoder")', LABELLED),
]
ONE_BY_ONE = ("miniplm", "dml(order='alternating')")
"""Methods that train in a `learn` of their own, and one in which one client trains at a time."""


def numbers(method: str, transfer: str, stack: Any, store: Path, **given: Any) -> Numbers:
    """All rows of a federation of five clients with 10 to 22 samples, whose state stays in `store`."""
    settings: dict[str, Any] = {"rounds": 2, "participation": 1.0, "transfer": transfer, "train": TRAINING} | given
    settings["train"] = replace(settings["train"], stack=stack)
    return run(method, store, **settings)


def close(one: Numbers, other: Numbers) -> bool:
    """Equal rows: costs exactly, and the rest within what rounding does to a small network."""
    return one.keys() == other.keys() and all(
        value == other[key] if key[3] in COSTS else value == pytest.approx(other[key], rel=1e-3, abs=1e-4)
        for key, value in one.items()
    )


def assert_same_state(one: Path, other: Path) -> None:
    """The clients' models and states before the last round are close."""
    names = sorted(file.name for file in one.glob("client-*.state"))
    assert names == sorted(file.name for file in other.glob("client-*.state"))
    assert len(names) >= CLIENTS
    for name in names:
        mine, its = read_tensors(one / name), read_tensors(other / name)
        assert mine is not None
        assert its is not None
        assert mine.keys() == its.keys()
        for key, value in mine.items():
            torch.testing.assert_close(value, its[key], rtol=1e-4, atol=2e-5, msg=f"{name} {key}", equal_nan=True)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The clients of every stack that trains together, in order."""
    seen: list[tuple[int, ...]] = []
    plain = stacked.Stack.trained

    def watched(self: stacked.Stack) -> list[Tensor | Exception]:
        losses = plain(self)
        seen.append(tuple(sorted(client.node.id for client in self.clients)))
        return losses

    monkeypatch.setattr(stacked.Stack, "trained", watched)
    return seen


@pytest.mark.parametrize(("method", "transfer"), [*small.every_method(), *MORE])
def test_every_method_gives_the_numbers_that_it_gives_one_by_one(
    method: str, transfer: str, tmp_path: Path, together: list[tuple[int, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    rows = numbers(method, transfer, 3, tmp_path / "stacked", start="random")
    learnt = 0 if method in ONE_BY_ONE else 2
    assert {stack for stack in together if len(set(stack)) > 1} >= ({(0, 1, 2), (3, 4)} if learnt else set())
    assert together.count((3, 4)) >= learnt
    assert close(rows, numbers(method, transfer, 1, tmp_path / "alone", start="random"))
    assert_same_state(tmp_path / "stacked", tmp_path / "alone")
    assert not caplog.records, "no stack has fallen apart"

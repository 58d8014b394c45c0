"""Stacked clients through whole federations: every method gives the numbers that it gives one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.base.errors import FederationError
from fedkd.base.store import read_tensors
from fedkd.data import cache_root
from fedkd.node.holdings import Holdings
from fedkd.protocol.files import has_state
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining
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


@pytest.mark.parametrize("epochs", [3, "converged", "early_stopping"])
def test_pre_training_ends_for_each_client_where_it_ends_alone(
    epochs: Any, tmp_path: Path, together: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    settings = Pretraining(epochs=epochs, lr=0.3, batch_size=8, patience=2)
    given: dict[str, Any] = {"pretrain": settings, "init": "per_client", "rounds": 1}
    stack = numbers("local", LABELLED, 5, tmp_path / "stacked", **given)
    trained = [each for each in together if len(each) > 1]
    assert trained[0] == (0, 1, 2, 3, 4)
    alone = numbers("local", LABELLED, 1, tmp_path / "alone", **given)
    assert close(stack, alone)
    ends = {alone[0, client, "", "pretrain_epochs"] for client in range(CLIENTS)}
    assert epochs == 3 or len(ends) > 1, "clients end at different epochs"
    together.clear()
    assert numbers("local", LABELLED, 5, tmp_path / "again", **given) == stack
    assert len(together) == 1, "the pre-training comes from the cache, and one round is trained"


def test_a_stack_that_diverges_in_pre_training_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FederationError, match=r"5 of 5 clients failed at the start; client 0: .*in pre-training, its"):
        numbers("local", LABELLED, 5, tmp_path / "store", pretrain=Pretraining(epochs=3, lr=1e30))
    assert not list((cache_root() / "pretrained").glob("*.safetensors"))


@pytest.mark.parametrize("nodes", [1, 2, 9])
@pytest.mark.parametrize("given", [{}, {"participation": 0.6}, {"models": "mlp(hidden=[8])|mlp(hidden=[6])"}], ids=str)
def test_the_number_of_nodes_changes_no_bit(given: dict[str, Any], nodes: int, tmp_path: Path) -> None:
    few = numbers("kd", LABELLED, 2, tmp_path / "few", nodes=nodes, **given)
    assert few == numbers("kd", LABELLED, 2, tmp_path / "many", **given)


@pytest.mark.parametrize("method", ["kd", "dp_kd(form='soup')", "fedavg"])
def test_a_resume_changes_no_bit(method: str, tmp_path: Path) -> None:
    whole = numbers(method, LABELLED, 3, tmp_path / "whole", rounds=3)
    assert numbers(method, LABELLED, 3, tmp_path / "resumed", rounds=3, stop=1) == whole


def test_a_client_that_diverges_is_the_only_one_that_fails(tmp_path: Path) -> None:
    def broken(federation: Federation, client: int) -> Holdings:
        held = small.load(federation, client)
        if client == 3:
            assert held.data is not None
            return replace(held, data=replace(held.data, x=held.data.x * torch.nan))
        return held

    with pytest.raises(FederationError, match=r"1 of 5 clients failed in round 1; client 3: its training loss"):
        numbers("local", LABELLED, 5, tmp_path, start="random", load=broken)
    assert [has_state(tmp_path, client, 1) for client in range(CLIENTS)] == [True, True, True, False, True]


def test_a_client_without_data_is_the_only_one_that_fails(tmp_path: Path) -> None:
    def broken(federation: Federation, client: int) -> Holdings:
        if client == 3:
            raise OSError("the disk of client 3 is broken")
        return small.load(federation, client)

    with pytest.raises(FederationError, match=r"1 of 5 clients failed at the start; client 3: .*disk of client 3"):
        numbers("local", LABELLED, 5, tmp_path, load=broken)
    assert [has_state(tmp_path, client, 0) for client in range(CLIENTS)] == [True, True, True, False, True]


def test_a_client_at_its_own_node_trains_alone(together: list[tuple[int, ...]]) -> None:
    # No shared store: each client's state is at its node, as in a deployment.
    settings: dict[str, Any] = {"rounds": 1, "participation": 1.0, "start": "random", "nodes": CLIENTS}
    rows = run("local", train=replace(TRAINING, stack=3), **settings)
    assert not together
    assert rows == run("local", train=TRAINING, **settings)


def test_a_search_stacks_the_cells_of_each_client(tmp_path: Path, together: list[tuple[int, ...]]) -> None:
    search = 'tuned(method="kd", grid={"lr": [0.01, 0.05, 0.2], "temperature": [1.0, 4.0]}, rounds=2)'
    given = {"start": "random", "rounds": 1}
    rows = numbers(search, LABELLED, 4, tmp_path / "stacked", **given)
    # Seven cells, of which one is the untuned one: four together and then three, for two rounds.
    assert [len(each) for each in together if len(set(each)) == 1] == [4, 4, 3, 3] * CLIENTS
    assert close(rows, numbers(search, LABELLED, 1, tmp_path / "alone", **given))
    assert {key for key in rows if key[3] == "tuning_steps"}

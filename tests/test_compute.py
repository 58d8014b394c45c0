"""One door to the networks: whatever computes with one comes through it, in the precision that the recipe names."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.base.streams import stream
from fedkd.models import build_model
from fedkd.tensors.compute import CPU, Compute
from tests.conftest import ROOT
from tests.small import (
    LABELLED,
    MODEL,
    PRETRAINING,
    SHAPE,
    TRAINING,
    distance,
    federate,
    model,
    same_weights,
    small,
    weights,
)
from tests.small import own_cache as own_cache

NETWORKS = {"model", "network", "student", "teacher", "reference", "encoder", "decoder", "member", "body", "head"}
"""What a network is called where one might be called."""
DOOR = "fedkd/tensors/compute.py"


def direct_calls(tree: ast.AST) -> Iterator[int]:
    """Lines on which a network is called outside the methods of one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("forward", "features"):
            continue
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            owner = ast.unparse(node.func).rpartition(".")[0]
            if (name in NETWORKS and node.args and not owner.endswith("METHODS")) or (
                name == "features" and not owner.endswith("compute")
            ):
                yield node.lineno
        yield from direct_calls(node)


def test_no_other_file_calls_a_network() -> None:
    # Below models/, networks are made and looked into on inputs that are nobody's.
    for path in sorted((ROOT / "fedkd").rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        if file != DOOR and not file.startswith("fedkd/models/"):
            made = "encoder(channels)"  # a function that builds one
            text = path.read_text(encoding="utf-8").replace(made, "built(channels)")
            assert list(direct_calls(ast.parse(text))) == [], file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """For each call of a network that is no part of another one: was it made through the door, and in bfloat16?"""
    seen: list[tuple[bool, bool]] = []
    inside: list[nn.Module] = []
    plain = nn.Module.__call__

    def watched(self: nn.Module, *arguments: Any, **named: Any) -> Any:
        if not inside:
            files = {frame.f_code.co_filename for frame, _ in traceback.walk_stack(None)}
            seen.append((str(ROOT / DOOR) in files, torch.is_autocast_enabled("cpu")))
        inside.append(self)
        try:
            return plain(self, *arguments, **named)
        finally:
            inside.pop()

    monkeypatch.setattr(nn.Module, "__call__", watched)
    return seen


METHODS = [
    'kd(select="influence(keep=0.5)")',
    'dp_kd(form="sequential")',
    "ensemble",
    "fedavg",
    'kd(teachers="others+autoencoder(epochs=1)")',
    "tuned_kd(temperatures=[1.0], weights=[0.5, 1.0], rounds=1)",
]


@pytest.mark.parametrize("method", METHODS)
def test_every_computation_comes_through_the_door(method: str, calls: list[tuple[bool, bool]]) -> None:
    federate(small(method, transfer=LABELLED, seed=len(method), rounds=1))
    assert len(calls) > 5, "at least two evaluations and three steps; more where the start is not in the cache yet"
    assert all(through for through, _ in calls)


@pytest.mark.parametrize("method", [method for method in METHODS if "autoencoder" not in method])
def test_no_computation_forgets_the_precision(method: str, calls: list[tuple[bool, bool]]) -> None:
    of = small(method, transfer=LABELLED, seed=100 + len(method), rounds=1)
    rounded = replace(
        of, train=replace(TRAINING, precision="bfloat16"), pretrain=replace(PRETRAINING, precision="bfloat16")
    )
    federate(rounded)
    assert len(calls) > 5, "at least two evaluations and three steps; more where the start is not in the cache yet"
    assert all(in_bfloat16 for _, in_bfloat16 in calls)


class TestPrecision:
    @pytest.mark.parametrize("spec", [MODEL, "cnn", "lenet5"])
    def test_bfloat16_is_close_and_not_the_same(self, spec: str) -> None:
        shape = SHAPE if spec == MODEL else (1, 28, 28)
        network, x = build_model(spec, shape, 10, 0, "p"), torch.rand(16, *shape, generator=stream("x"))
        exact = Compute().predicted(network, [x], 16)
        rounded = Compute(precision="bfloat16").predicted(network, [x], 16)
        assert rounded.dtype == exact.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        # bfloat16 has 8 significant bits.
        assert float((rounded - exact).abs().max()) <= 2**-5 * max(1.0, float(exact.abs().max()))

    def test_float64_stays_float64(self) -> None:
        network, x = model().double(), torch.rand(3, *SHAPE, generator=stream("x")).double()
        found = Compute(precision="bfloat16").outputs(network, x)
        assert found.dtype == torch.float64
        assert torch.equal(found, Compute().outputs(network, x))

    def test_a_federation_in_bfloat16_learns_nearly_the_same(self) -> None:
        exact = federate(small("kd", rounds=1))
        rounded = federate(small("kd", rounds=1, train=replace(TRAINING, precision="bfloat16")))
        assert same_weights(exact.weights[0][0], rounded.weights[0][0]), "pre-training has a table of its own"
        assert 0 < distance(exact.final(0), rounded.final(0)) <= 0.02
        for key, value in exact.rows.items():
            if key[3] == "loss":
                assert abs(rounded.rows[key] - value) <= 0.05

    def test_weights_and_gradients_stay_float32(self) -> None:
        network, x = model(), torch.rand(3, *SHAPE, generator=stream("x"))
        parameters = list(network.parameters())
        loss = Compute(precision="bfloat16").logits(network, x).square().sum()
        assert {part.dtype for part in [*parameters, *torch.autograd.grad(loss, parameters)]} == {torch.float32}


class TestCompile:
    def test_a_compiled_network_predicts_and_learns_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compiled: list[nn.Module] = []

        def counted(self: nn.Module, **named: Any) -> None:
            compiled.append(self)
            plain(self, backend="aot_eager", **named)  # traced and differentiated as ever, without the C++ compiler

        plain = nn.Module.compile
        monkeypatch.setattr(nn.Module, "compile", counted)
        one, other, x = model(), model(), torch.rand(5, *SHAPE, generator=stream("x"))
        compute = Compute(CPU, compile=True)
        gradients: list[tuple[Tensor, ...]] = []
        for each, door in ((one, Compute()), (other, compute)):
            gradients.append(torch.autograd.grad(door.logits(each, x).square().sum(), list(each.parameters())))
        assert compiled == [other]
        for mine, its in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, its)
        torch.testing.assert_close(compute.outputs(other, x), Compute().outputs(one, x))
        assert compiled == [other], "once a network"
        assert same_weights(weights(one), weights(other)), "under the same names"

"""The highest logits of each row: what comes back, how large it is, and that packing again changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.base.streams import stream
from fedkd.knowledge.knowledge import WIRE_TYPES, from_wire, over_the_wire, to_wire
from fedkd.method import METHODS
from fedkd.tensors import top_k
from fedkd.tensors.ensemble import confidence
from tests.small import drawn, node, server
from tests.small import own_cache as own_cache

ROWS, CLASSES = st.integers(1, 5), st.sampled_from([2, 3, 10, 255, 256, 257, 1000, 70_000])
SCALES = st.sampled_from([0.0, 1e-4, 1.0, 30.0, 1e5])


@drawn
@given(ROWS, CLASSES, st.integers(1, 40), SCALES, st.integers(0, 2**32 - 1))
def test_what_is_packed_comes_back_and_is_packed_to_the_same_again(
    rows: int, classes: int, k: int, scale: float, seed: int
) -> None:
    logits = scale * torch.randn(rows, classes, generator=stream("rows", seed))
    packed = top_k.pack(logits, k)
    assert packed.shape == (rows, top_k.packed_size(classes, k))
    found, k = top_k.unpack(packed, classes), min(k, classes)
    below = logits - logits.amax(1, keepdim=True)
    best = below.topk(k).indices
    limit = torch.finfo(torch.float16).min
    torch.testing.assert_close(found.gather(1, best), below.gather(1, best).clamp(min=limit), rtol=1e-3, atol=1e-7)
    others = torch.ones_like(found, dtype=torch.bool).scatter(1, best, False)
    assert all(len(row[rest].unique()) <= 1 for row, rest in zip(found, others, strict=True))
    assert torch.equal(top_k.unpack(top_k.pack(found, k), classes), found)


@drawn
@given(ROWS, st.sampled_from([2, 10, 100, 300]), st.integers(1, 120), SCALES, st.integers(0, 2**32 - 1))
def test_it_never_costs_more_than_float16_and_travelling_twice_is_travelling_once(
    rows: int, classes: int, k: int, scale: float, seed: int
) -> None:
    logits, wire = scale * torch.randn(rows, classes, generator=stream("rows", seed)), f"top({k})"
    assert to_wire(logits, wire).nbytes <= to_wire(logits, "float16").nbytes
    once = over_the_wire(logits, wire)
    assert torch.equal(over_the_wire(once, wire), once)
    for cut in range(rows):  # a row alone is what it is among others
        assert torch.equal(from_wire(to_wire(logits, wire)[cut : cut + 1], classes), once[cut : cut + 1])


def test_ten_of_ten_classes_travel_as_float16() -> None:
    logits = torch.randn(4, 10, generator=stream("ten"))
    assert to_wire(logits, "top(10)").dtype == torch.float16
    assert to_wire(logits, "top(6)").dtype == torch.float16
    assert to_wire(logits, "top(5)").dtype == torch.uint8


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("mask", ["unsupervised", "supervised"])
@pytest.mark.parametrize("form", ["parallel", "sequential", "soup"])
@pytest.mark.parametrize("wire", [*WIRE_TYPES, "top(1)", "top(3)"])
def test_of_a_teacher_that_is_the_student_dp_kd_learns_from_no_sample(
    wire: str, form: str, mask: str, teachers: int
) -> None:
    classes, n = 20, 300
    method = METHODS.build(f"dp_kd(wire='{wire}', form='{form}', mask='{mask}')")
    client, at = node(clients=teachers + 1, labelled=True), server(clients=teachers + 1)
    client.classes = at.classes = classes
    client.transfer = type(client.public)(torch.zeros(n, 1, 4, 4), torch.arange(n) % classes)
    at.transfer = client.transfer
    client.remember_transfer_logits(2 * torch.randn(n, classes, generator=stream("same")))
    method.setup(client)
    client.round = 0
    report = method.report(client)
    assert report is not None
    knowledge = method.merge(at, dict.fromkeys(range(teachers + 1), report))[0]
    anchor = client.state["anchor"]
    for teacher in client.predictions(knowledge):
        assert torch.equal(teacher, anchor)
        labels = client.public.y if mask == "supervised" else None
        assert int((confidence(teacher, labels) > confidence(anchor, labels)).sum()) == 0

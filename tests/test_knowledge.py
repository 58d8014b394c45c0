"""What travels has the size that is booked, and arrives as it was sent."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.flower.wire import from_arrays, to_arrays
from fedkd.knowledge.knowledge import Knowledge, over_the_wire, to_wire
from fedkd.method import METHODS
from fedkd.settings.training import Training
from tests.small import distance, drawn, federate, same_knowledge, small, travelled
from tests.small import own_cache as own_cache

TENSORS = {
    "float16": torch.tensor([[1.5, -65504.0], [0.1, 6e-8]], dtype=torch.float16),
    "float32": torch.tensor([1.1, -0.0, 3e38, 1e-45, float("inf"), float("-inf")]),
    "float64": torch.tensor([1.1, 1e-308], dtype=torch.float64),
    "int64": torch.tensor([-(2**63), 2**63 - 1]),
    "int32": torch.tensor([[[7]]], dtype=torch.int32),
    "uint8": torch.tensor([0, 255], dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "0-d": torch.tensor(3),
    "0-d bool": torch.tensor(True),
    "empty": torch.empty(0, 5),
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "strided": torch.arange(12.0)[::3],
    "expanded": torch.ones(1, 3).expand(2, 3),
    "channels last": torch.arange(48.0).reshape(2, 3, 2, 4).to(memory_format=torch.channels_last),
    "with gradient": torch.ones(2, requires_grad=True),
}


def across(knowledge: Knowledge) -> Knowledge:
    """What a client is given of it, in a message to a group of two."""
    other = Knowledge(z=torch.ones(1))
    return from_arrays(to_arrays({3: knowledge, 11: other}), [3, 11])[3]


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS.keys())
def test_a_tensor_arrives_as_it_was_sent(tensor: Tensor) -> None:
    sent = Knowledge(tensor=tensor)
    for arrived in (travelled(sent), across(sent)):
        assert arrived["tensor"].shape == tensor.shape
        assert same_knowledge(arrived, sent)


def test_all_tensors_arrive_together_in_their_order_and_can_be_written_to() -> None:
    arrived = across(Knowledge(TENSORS))
    assert list(arrived) == list(TENSORS)
    assert same_knowledge(arrived, Knowledge(TENSORS))
    arrived["int64"][0] = 1


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS.keys())
def test_the_size_is_that_of_the_bytes_that_travel(tensor: Tensor) -> None:
    knowledge = Knowledge(first=tensor, second=torch.ones(3))
    assert knowledge.nbytes == sum(len(array.data) for array in to_arrays({0: knowledge}).values())


def test_float16_logits_cost_two_bytes_a_number_and_a_header() -> None:
    # The npy header is padded to a multiple of 64 bytes and fits into 128 for any small shape.
    sizes = {wire: Knowledge(z=to_wire(torch.zeros(300, 10), wire)).nbytes for wire in ("float16", "float32")}
    assert sizes == {"float16": 128 + 2 * 3000, "float32": 128 + 4 * 3000}


def test_nothing_costs_nothing() -> None:
    assert Knowledge().nbytes == 0
    assert len(across(Knowledge())) == 0


def test_a_bag_is_read_by_name() -> None:
    knowledge = Knowledge({"a": torch.ones(2)}, b=torch.zeros(1))
    assert list(knowledge) == ["a", "b"]
    assert len(knowledge) == 2
    assert torch.equal(knowledge["b"], torch.zeros(1))
    with pytest.raises(KeyError):
        knowledge["c"]


def test_knowledge_carries_no_gradient() -> None:
    assert not Knowledge(w=torch.ones(2, requires_grad=True))["w"].requires_grad


def test_what_a_report_holds_does_not_change_when_its_model_learns_on() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    report = Knowledge(weight=weight)
    with torch.no_grad():
        weight.add_(1)
    assert torch.equal(report["weight"], torch.ones(2))


@pytest.mark.parametrize("array", [np.array([{"a": 1}]), np.array(["text", None], dtype=object)])
def test_python_objects_are_refused_and_never_unpickled(array: np.ndarray[tuple[int], np.dtype[np.object_]]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        Knowledge.decode({"evil": buffer.getvalue()})


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"\x80\x04N."])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, EOFError)):
        Knowledge.decode({"broken": data})


class TestOverTheWire:
    @drawn
    @given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8))
    def test_what_is_compared_with_what_travelled_is_what_the_other_side_reads(self, numbers: list[float]) -> None:
        logits = torch.tensor(numbers)
        for wire in ("float16", "float32"):
            assert torch.equal(over_the_wire(logits, wire), travelled(Knowledge(z=to_wire(logits, wire)))["z"].float())

    @drawn
    @given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8))
    def test_travelling_twice_changes_nothing_more(self, numbers: list[float]) -> None:
        once = over_the_wire(torch.tensor(numbers), "float16")
        assert torch.equal(over_the_wire(once, "float16"), once)

    @drawn
    @given(st.lists(st.floats(-6e4, 6e4, width=32), min_size=1, max_size=8))
    def test_float16_keeps_eleven_bits(self, numbers: list[float]) -> None:
        # Rounding to 11 significant bits is off by at most 2⁻¹¹ of the value; below 2⁻¹⁴ the steps are 2⁻²⁴.
        logits = torch.tensor(numbers)
        off = (over_the_wire(logits, "float16") - logits).abs()
        assert bool((off <= logits.abs() * 2**-11 + 2**-25).all())

    def test_float32_keeps_all(self) -> None:
        logits = torch.tensor([1.1, -3.3e38, 1e-45])
        assert torch.equal(over_the_wire(logits, "float32"), logits)

    def test_values_out_of_range_are_clamped_rather_than_sent_as_infinities(self) -> None:
        logits = torch.tensor([1e6, -1e6, float("inf"), float("-inf"), 65519.0, 65520.0])
        clamped = torch.tensor([65504.0, -65504.0, 65504.0, -65504.0, 65504.0, 65504.0])
        assert torch.equal(over_the_wire(logits, "float16"), clamped)
        assert bool(over_the_wire(torch.tensor([float("inf"), float("-inf")]), "float32").isfinite().all())


class TestTop:
    """The highest logits of each row alone: the same for every method, less to send, and nothing hidden."""

    @pytest.mark.parametrize("shape", [(7, 20), (3, 7, 20)])
    def test_the_highest_come_as_they_were_and_the_rest_share_what_is_left(self, shape: tuple[int, ...]) -> None:
        logits = torch.randn(*shape, generator=stream("top")) * 3
        p, found = logits.softmax(-1), over_the_wire(logits, "top(4)").softmax(-1)
        assert found.shape == logits.shape
        highest = p.topk(4, dim=-1).indices
        torch.testing.assert_close(found.gather(-1, highest), p.gather(-1, highest), rtol=2e-3, atol=1e-6)
        rest = (1 - p.gather(-1, highest).sum(-1)) / 16
        others = found.scatter(-1, highest, 0.0).sum(-1) / 16
        torch.testing.assert_close(others, rest, rtol=5e-3, atol=1e-5)

    def test_all_of_them_are_the_prediction(self) -> None:
        logits = torch.randn(7, 20, generator=stream("top"))
        torch.testing.assert_close(
            over_the_wire(logits, "top(20)").log_softmax(1), logits.log_softmax(1), rtol=2e-3, atol=2e-3
        )

    def test_it_is_less_to_send(self) -> None:
        logits = torch.randn(300, 256, generator=stream("top"))
        sizes = {wire: Knowledge(z=to_wire(logits, wire)).nbytes for wire in ("float16", "top(16)")}
        assert sizes["top(16)"] == pytest.approx(sizes["float16"] * 50 / 512, rel=0.02)

    def test_what_is_no_number_is_seen(self) -> None:
        logits = torch.full((2, 5), float("nan"))
        assert to_wire(logits, "top(2)").isnan().all()

    @pytest.mark.parametrize(
        "method", ["kd", "dp_kd", "dml", "dml(sync='step'{})", "dp_kd(form='sequential'{})", "kd(teachers='self'{})"]
    )
    def test_methods_learn_from_it(self, method: str) -> None:
        training = Training(lr=0.1, batch_size=4, steps=1)
        specs = [
            method.format(f", wire='{wire}'") if "(" in method else f"{method}(wire='{wire}')"
            for wire in ("float32", "top(1)", "top(2)")
        ]
        whole, one, two = (federate(small(spec, train=training)) for spec in specs)
        # Of three classes, two take as many bytes as all of them do in float16, and travel so.
        assert distance(whole.final(0), two.final(0)) < 2e-3
        assert distance(whole.final(0), one.final(0)) > 0
        for outcome, dtype in ((one, torch.uint8), (two, torch.float16)):
            reported = [bag["logits"] for each in outcome.reports for bag in each.values() if "logits" in bag]
            assert all(bag.dtype == dtype for bag in reported)

    @pytest.mark.parametrize("wire", ["top(0)", "top", "top(-1)", "float64"])
    def test_other_wires_are_refused(self, wire: str) -> None:
        with pytest.raises(UserError, match=r"wire.*float16"):
            METHODS.build(f"kd(wire='{wire}')")


def test_what_all_clients_of_a_group_receive_is_decoded_once() -> None:
    model = Knowledge(weight=torch.arange(6.0))
    record = pickle.loads(pickle.dumps(to_arrays({0: model, 1: model, 2: Knowledge(weight=torch.ones(2))})))
    read = from_arrays(record, range(3))
    assert read[0]["weight"] is read[1]["weight"]
    assert read[1]["weight"].tolist() == [0, 1, 2, 3, 4, 5]
    assert read[2]["weight"].tolist() == [1, 1]

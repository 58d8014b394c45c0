"""How many samples a network computes at a time in evaluation: cut evenly, measured once, and no number's matter."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.models import build_model
from fedkd.tensors import chunks
from fedkd.tensors.chunks import CACHE, LEAST, MOST, largest, pieces
from fedkd.tensors.compute import Compute
from tests.small import drawn


def split(x: Tensor, lengths: list[int]) -> tuple[Tensor, ...]:
    return torch.split(x, lengths)


@drawn
@given(st.lists(st.integers(0, 90), min_size=1, max_size=4), st.integers(1, 64))
def test_pieces_are_all_samples_in_order_evenly_cut(lengths: list[int], size: int) -> None:
    whole, total = torch.arange(sum(lengths)), sum(lengths)
    cut = list(pieces(split(whole, lengths), size))
    assert torch.equal(torch.cat(cut), whole)
    longest, shortest = max(map(len, cut)), min(map(len, cut))
    assert longest - shortest <= 1
    assert longest < size + LEAST
    assert shortest >= min(size, LEAST, total)


def test_only_a_piece_of_several_parts_is_copied() -> None:
    one, other = torch.rand(64, 2), torch.rand(64, 2)
    first, second, third, last = pieces([one, other[:60]], 31)
    assert (first.data_ptr(), second.data_ptr()) == (one.data_ptr(), one[31:].data_ptr())
    assert torch.equal(third, torch.cat([one[62:], other[:29]]))
    assert last.data_ptr() == other[29:].data_ptr()


def test_the_largest_input_and_output_of_a_network_is_known_by_hand() -> None:
    # 6·6 values in and 4·4·4 out, which the second layer has as its input beside 64 outputs of its own.
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    assert largest(network, torch.rand(1, 1, 6, 6)) == 4 * (64 + 64)


class Functional(nn.Module):
    """A network whose largest values are made by no layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Parameter(torch.ones(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nkv,cv->nc", x[:, None].expand(-1, 1000, -1) * 2, self.head)


def test_what_is_computed_outside_layers_counts() -> None:
    assert largest(Functional(), torch.rand(1, 4)) >= 4 * 1000 * 4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("spec", ["cnn", "mlp", "resnet8", "mobilenet_v2"])
def test_the_size_of_chunks_changes_no_prediction(spec: str, precision: str) -> None:
    network = build_model(spec, (3, 8, 8), 10, 0, "chunks")
    x = torch.rand(131, 3, 8, 8)
    compute = Compute(precision="bfloat16" if precision == "bfloat16" else "float32")
    at_once = compute.predicted(network, [x], len(x))
    # Cut into equal lengths, 131 samples would leave rests of 3 and 1.
    for size in (16, 17, 32, 65, 130):
        assert torch.equal(compute.predicted(network, split(x, [100, 31]), size), at_once), size


def test_a_chunk_follows_the_activations_and_keeps_its_bounds() -> None:
    compute = Compute()
    x, specs = torch.rand(2, 3, 32, 32), ("resnet8", "cnn", "mlp(hidden=[8])")
    sizes = {spec: compute.chunk(build_model(spec, (3, 32, 32), 10, 0, "c"), x) for spec in specs}
    assert sizes["resnet8"] < sizes["cnn"] < sizes["mlp(hidden=[8])"]
    # Where a block of resnet8 adds its input, there are twice 16 channels of 32×32 in and once out.
    assert sizes["resnet8"] == CACHE // (4 * 3 * 16 * 32 * 32)
    assert compute.chunk(nn.Linear(1, 1), torch.rand(2, 1)) == MOST
    assert compute.chunk(nn.Linear(1, 10**6), torch.rand(2, 1)) == LEAST
    half = Compute(precision="bfloat16")
    assert half.chunk(build_model("resnet8", (3, 32, 32), 10, 0, "c"), x) > sizes["resnet8"]


def test_a_text_has_no_more_samples_than_its_rows_allow() -> None:
    network = build_model("gpt(layers=1, width=8, heads=2)", (64,), 256, 0, "c")
    assert Compute().chunk(network, torch.zeros(9, 64, dtype=torch.int64)) <= MOST // 64


def test_equal_networks_are_measured_once_and_none_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_known", {})
    measured: list[int] = []
    plain = chunks.largest

    def counted(call: Callable[[Tensor], object], x: Tensor) -> int:
        measured.append(len(x))
        return plain(call, x)

    monkeypatch.setattr(chunks, "largest", counted)
    x, gone = torch.rand(40, 1, 8, 8), []
    for seed in range(5):
        network = build_model("cnn", (1, 8, 8), 10, seed, "c")
        Compute().predicted(network, [x])
        gone.append(weakref.ref(network))
    assert measured == [1]
    Compute().predicted(build_model("cnn(width=4)", (1, 8, 8), 10, 0, "c"), [x])
    assert measured == [1, 1]
    del network
    gc.collect()
    assert [each() for each in gone] == [None] * 5


def test_no_samples_have_no_predictions() -> None:
    assert Compute().predicted(build_model("cnn", (1, 8, 8), 10, 0, "c"), [torch.empty(0, 1, 8, 8)]).shape == (0, 10)

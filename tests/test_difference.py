"""Difference sampling as pure functions: losses, the best share, cuts from histograms, top-k predictions."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.base.streams import stream
from fedkd.difference_sampling.difference import (
    BINS,
    HIGH,
    LOW,
    cut_bin,
    diversity,
    histogram,
    sample_losses,
    threshold,
)
from fedkd.knowledge.knowledge import Knowledge
from fedkd.models import build_model
from fedkd.tensors import top_k
from fedkd.tensors.losses import kl
from fedkd.tensors.ranking import highest, share
from fedkd.tensors.samples import Data
from tests.small import drawn

LENGTH, VOCABULARY = 5, 9


def text(n: int) -> Data:
    """`n` chunks of random tokens."""
    tokens = torch.randint(VOCABULARY, (n, LENGTH + 1), generator=stream("text"))
    return Data(tokens[:, :-1], tokens[:, 1:].flatten())


class Counted(nn.Module):
    """A model that notes how many samples it is given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build_model("gpt(layers=1, width=8, heads=2)", (LENGTH,), VOCABULARY, 0, "init")
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        logits: Tensor = self.inner(x)
        return logits


class TestLosses:
    def test_they_equal_a_loop_over_chunks_and_tokens(self) -> None:
        model, data = Counted(), text(23)
        found = sample_losses(model, data, rows=4 * LENGTH)
        assert data.y is not None
        for number, (x, y) in enumerate(zip(data.x, data.y.view(-1, LENGTH), strict=True)):
            logs = model.inner(x[None])[0].detach().double().log_softmax(1)
            own = [-float(logs[place, int(token)]) for place, token in enumerate(y)]
            assert float(found[number]) == pytest.approx(sum(own) / LENGTH, rel=1e-5)

    def test_there_is_one_pass_in_pieces_and_the_pieces_do_not_show(self) -> None:
        data = text(23)
        pieces, at_once = Counted(), Counted()
        told: list[tuple[int, int]] = []
        found = sample_losses(pieces, data, 4 * LENGTH, lambda done, total: told.append((done, total)))
        assert pieces.sizes == [4, 4, 4, 4, 4, 3]
        assert told[-1] == (23, 23)
        assert torch.allclose(found, sample_losses(at_once, data), rtol=1e-6)
        assert at_once.sizes == [23]

    def test_images_have_one_row(self) -> None:
        images = Data(torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 1]))
        model = build_model("mlp(hidden=[4])", (1, 4, 4), 3, 0, "init")
        assert images.y is not None
        assert torch.allclose(
            sample_losses(model, images),
            nn.functional.cross_entropy(model(images.x), images.y, reduction="none").detach(),
        )


class TestTop:
    @drawn
    @given(st.lists(st.integers(-4, 4), min_size=1, max_size=60), st.floats(0.01, 1.0))
    def test_it_is_a_sort_by_score_and_place(self, scores: list[int], keep: float) -> None:
        found = highest(torch.tensor(scores, dtype=torch.float32), keep).tolist()
        ranked = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        assert found == sorted(ranked[: max(1, int(keep * len(scores) + 1e-6))])

    def test_shares_are_what_they_are_written_as(self) -> None:
        assert [share(0.29, 100), share(0.7, 10), share(1.0, 7), share(0.5, 7), share(0.01, 7)] == [29, 7, 7, 3, 1]

    def test_of_equal_scores_the_first_are_kept(self) -> None:
        assert highest(torch.zeros(1000), 0.25).tolist() == list(range(250))


class TestCut:
    @staticmethod
    def kept(parties: list[Tensor], keep: float) -> list[Tensor]:
        """What each keeps, by nothing but sums of histograms."""
        low, high = cut_bin(torch.stack([histogram(own) for own in parties]).sum(0), keep)
        at = threshold(torch.stack([histogram(own, low, high) for own in parties]).sum(0), keep, low, high)
        return [own.double() >= at for own in parties]

    @pytest.mark.parametrize("keep", [0.1, 0.3, 0.5, 0.9])
    @pytest.mark.parametrize("spread", [0.02, 0.3, 3.0])
    def test_it_keeps_what_the_exact_cut_keeps_within_one_percent(self, keep: float, spread: float) -> None:
        parties = [
            party + spread * torch.randn(700 + 300 * party, generator=stream("scores", party)) for party in range(3)
        ]
        everything = torch.cat(parties)
        exact = torch.zeros(len(everything), dtype=torch.bool)
        exact[highest(everything, keep)] = True
        found = torch.cat(self.kept(parties, keep))
        assert int((found ^ exact).sum()) <= 0.01 * int(exact.sum())
        assert len({float(own.double().mean()) for own in self.kept(parties, keep)}) > 1, "some keep more than others"

    def test_scores_far_outside_the_range_are_counted(self) -> None:
        scores = torch.tensor([-1e6, -20.0, 0.0, 1.0, 20.0, 1e6])
        counts = histogram(scores)
        assert (int(counts[0]), int(counts[-1]), int(counts.sum())) == (2, 2, 6)
        assert int(self.kept([scores], 0.5)[0].sum()) == 3

    def test_bins_are_closed_below_and_the_cut_is_on_an_edge(self) -> None:
        width = (HIGH - LOW) / BINS
        counts = histogram(torch.tensor([LOW, LOW + width, HIGH - width, HIGH]))
        assert counts.nonzero().flatten().tolist() == [1, 2, BINS, BINS + 1]

    def test_equal_scores_stay_together(self) -> None:
        assert self.kept([torch.ones(10)], 0.5)[0].tolist() in ([True] * 10, [False] * 10)

    def test_a_histogram_is_four_kilobytes(self) -> None:
        sent = [Knowledge(counts=histogram(torch.randn(n))).nbytes for n in (1, 100_000)]
        assert sent == [4 * (BINS + 2) + 128] * 2


class TestDiversity:
    @pytest.mark.parametrize("n", [1, 2, 4, 9])
    def test_it_equals_a_count_of_tuples(self, n: int) -> None:
        tokens = torch.randint(3, (40, 6), generator=stream("diversity"))
        grams: Counter[tuple[int, ...]] = Counter()
        size = min(n, 6)
        for chunk in tokens.tolist():
            grams.update(tuple(chunk[at : at + size]) for at in range(len(chunk) - size + 1))
        assert diversity(tokens, n) == pytest.approx(len(grams) / sum(grams.values()))

    def test_tokens_of_a_large_vocabulary_do_not_overflow(self) -> None:
        tokens = torch.tensor([[65_535] * 8, [65_535] * 7 + [65_534]])
        assert diversity(tokens, 8) == 1.0
        assert diversity(tokens[:1].expand(5, -1), 8) == pytest.approx(1 / 5)


class TestTopK:
    @pytest.mark.parametrize("classes", [4, 256, 257, 40_000])
    def test_the_highest_come_back_and_the_rest_is_spread_evenly(self, classes: int) -> None:
        logits = 3 * torch.randn(6, classes, generator=stream("logits", classes))
        logits[0, classes - 1] = 20.0  # the last class is found again too
        found, logs = top_k.unpack(top_k.pack(logits, 3), classes).log_softmax(1), logits.log_softmax(1)
        places = logs.topk(3).indices
        assert torch.equal(found.topk(3).indices[:, 0], places[:, 0])
        # The mean of the rest is as precise as float16 is: its error is shared by all through the normaliser.
        assert torch.allclose(found.gather(1, places), logs.gather(1, places), rtol=1e-3, atol=5e-3)
        others = found.scatter(1, places, math.nan)
        for row in others:
            assert len(row[~row.isnan()].unique()) == 1

    def test_all_classes_are_all_of_it(self) -> None:
        logits = torch.randn(8, 5, generator=stream("logits"))
        found = top_k.unpack(top_k.pack(logits, 99), 5).log_softmax(1)
        assert torch.allclose(found, logits.log_softmax(1), atol=2e-3)
        assert float(kl(logits, found)) < 1e-5

    def test_a_certain_row_stays_finite(self) -> None:
        logits = torch.zeros(1, 300)
        logits[0, 7] = 1e4
        found = top_k.unpack(top_k.pack(logits, 2), 300)
        assert found.isfinite().all()
        assert float(found[0].exp().sum()) == pytest.approx(1, abs=1e-3)

    def test_sixteen_of_256_classes_take_fifty_bytes_a_token(self) -> None:
        packed = top_k.pack(torch.randn(10, 256), 16)
        assert (packed.dtype, packed.shape) == (torch.uint8, (10, 50))
        assert 50 * 2**20 < 64 * 2**20, "1 MiB of text in bytes"

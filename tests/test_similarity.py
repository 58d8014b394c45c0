"""Similarities of classes: the brute-force mean over pairs, whoever holds what, and soft labels at their limits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from analysis.drawing.picture import Picture, draw_sheet
from analysis.figure import Block
from analysis.figures.similarity import Similarity, similarity_heatmap
from analysis.measures.similarity import similarity_matrix
from analysis.measures.starts import Starts
from analysis.measures.summary import Summary
from fedkd.base.streams import stream
from fedkd.distillation.similarity import (
    MARGIN,
    class_sums,
    needed_boost,
    pair_counts,
    pair_sums,
    similarity,
    soft_labels,
    some_of_each,
    units,
)

SEEDS = pytest.mark.parametrize("seed", range(5))


def embedded(seed: int, n: int = 30, classes: int = 4) -> tuple[Tensor, Tensor]:
    """(n, 7) embeddings, none negative, and their labels."""
    rng = stream("embedded", seed)
    return torch.rand(n, 7, generator=rng), torch.randint(classes, (n,), generator=rng)


def of(embeddings: Tensor, labels: Tensor, classes: int = 4) -> Tensor:
    """The similarities that one party finds."""
    sums, counts = class_sums(embeddings, labels, classes)
    return similarity(pair_sums(sums, counts), pair_counts(counts))


def brute(embeddings: Tensor, labels: Tensor, classes: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The mean cosine over all pairs of different samples, one pair after the other; NaN without any."""
    z, y = embeddings.double().numpy(), labels.numpy()
    found = np.full((classes, classes), np.nan)
    for a in range(classes):
        for b in range(classes):
            cosines = [
                float(z[i] @ z[j]) / math.sqrt(float(z[i] @ z[i]) * float(z[j] @ z[j]))
                for i in np.flatnonzero(y == a)
                for j in np.flatnonzero(y == b)
                if i != j
            ]
            if cosines:
                found[a, b] = sum(cosines) / len(cosines)
    return found


class TestSimilarity:
    @SEEDS
    def test_it_is_the_mean_over_all_pairs(self, seed: int) -> None:
        embeddings, labels = embedded(seed, 60)
        np.testing.assert_allclose(of(embeddings, labels).numpy(), brute(embeddings, labels, 4), rtol=1e-12)

    @SEEDS
    @pytest.mark.parametrize("parties", [1, 2, 5, 30])
    def test_it_is_the_same_for_every_cut(self, seed: int, parties: int) -> None:
        embeddings, labels = embedded(seed)
        whose = torch.randint(parties, (30,), generator=stream("cut", seed))
        told = [class_sums(embeddings[whose == party], labels[whose == party], 4) for party in range(parties)]
        sums, counts = (torch.stack(parts).sum(0) for parts in zip(*told, strict=True))
        merged = similarity(pair_sums(sums, counts), pair_counts(counts))
        torch.testing.assert_close(merged, of(embeddings, labels), rtol=1e-12, atol=1e-14)

    @SEEDS
    def test_pair_sums_of_several_are_the_mean_weighted_by_their_pairs(self, seed: int) -> None:
        # Each with an encoder of its own: only pairs within one party can be compared.
        parties = [embedded(10 * seed + party, n) for party, n in enumerate((5, 12, 20))]
        told = [class_sums(*party, 4) for party in parties]
        sums = torch.stack([pair_sums(*one) for one in told]).sum(0)
        pairs = torch.stack([pair_counts(counts) for _, counts in told]).sum(0)
        total, number = np.zeros((4, 4)), np.zeros((4, 4))
        for (embeddings, labels), (_, counts) in zip(parties, told, strict=True):
            n = counts.double().numpy()
            each = np.outer(n, n) - np.diag(n)
            total += each * np.nan_to_num(brute(embeddings, labels, 4))
            number += each
        np.testing.assert_allclose(similarity(sums, pairs).numpy(), total / number, rtol=1e-12)

    def test_pairs_that_nobody_has_seen_are_the_mean_of_two_other_classes(self) -> None:
        embeddings, _ = embedded(0, 6)
        labels = torch.tensor([0, 0, 0, 1, 1, 3])  # none of class 2, and one of class 3
        found, known = of(embeddings, labels), brute(embeddings, labels, 4)
        apart = np.nanmean([known[0, 1], known[0, 3], known[1, 3]])
        expected = np.where(np.isnan(known), apart, known)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
        assert np.isnan(known).sum() == 8, "row and column of class 2, and class 3 with itself"

    def test_where_there_are_no_two_classes_unknown_pairs_are_0(self) -> None:
        embeddings, _ = embedded(0, 3)
        found = of(embeddings, torch.zeros(3, dtype=torch.int64), 2)
        assert found[0, 0] > 0
        assert found[0, 1] == found[1, 0] == found[1, 1] == 0
        assert torch.equal(of(embeddings[:0], torch.zeros(0, dtype=torch.int64), 2), torch.zeros(2, 2).double())

    def test_equal_embeddings_are_wholly_alike_and_it_does_not_matter_how_long_they_are(self) -> None:
        embeddings, labels = embedded(1)
        scaled = embeddings * torch.rand(30, 1, generator=stream("scale")).add(0.1)
        torch.testing.assert_close(of(scaled, labels), of(embeddings, labels), rtol=1e-6, atol=1e-6)
        same = embeddings[:1].expand(30, 7)
        torch.testing.assert_close(of(same, labels), torch.ones(4, 4).double())

    def test_an_embedding_without_direction_points_evenly_in_all(self) -> None:
        nothing = units(torch.zeros(2, 4))
        torch.testing.assert_close(nothing, torch.full((2, 4), 0.5, dtype=torch.float64))
        torch.testing.assert_close(of(torch.zeros(6, 4), torch.arange(6) % 2, 2), torch.ones(2, 2).double())


class TestSome:
    @SEEDS
    @pytest.mark.parametrize("most", [1, 3, 40])
    def test_at_most_so_many_of_each_class_and_each_once(self, seed: int, most: int) -> None:
        _, labels = embedded(seed)
        index = some_of_each(labels, most, stream("some", seed))
        assert len(set(index.tolist())) == len(index)
        taken, there = (torch.bincount(each, minlength=4) for each in (labels[index], labels))
        assert torch.equal(taken, there.clamp(max=most))

    def test_none_is_more_likely_than_another(self) -> None:
        labels, hits = torch.tensor([0, 1, 0, 1, 0, 0]), torch.zeros(6)
        for seed in range(1000):
            hits[some_of_each(labels, 1, stream("fair", seed))] += 1
        assert hits[[1, 3]].sum() == hits[[0, 2, 4, 5]].sum() == 1000
        assert float((hits / torch.tensor([250.0, 500.0, 250.0, 500.0, 250.0, 250.0]) - 1).abs().max()) < 0.2

    def test_all_of_them_and_none_at_all(self) -> None:
        _, labels = embedded(0)
        assert torch.equal(some_of_each(labels, 0, stream("some")).sort().values, torch.arange(30))
        assert len(some_of_each(labels[:0], 3, stream("some"))) == 0


class TestSoftLabels:
    @SEEDS
    @pytest.mark.parametrize("tau", [0.01, 1.0, 100.0])
    def test_with_the_boost_that_is_needed_each_class_is_the_likeliest_in_its_row(self, seed: int, tau: float) -> None:
        drawn = torch.rand(6, 6, generator=stream("matrix", seed), dtype=torch.float64)
        found = (drawn + drawn.T) / 2
        assert not torch.equal(found.argmax(1), torch.arange(6)), "no boost would be needed"
        q = soft_labels(found, needed_boost(found), tau).exp()
        assert torch.equal(q.argmax(1), torch.arange(6))
        torch.testing.assert_close(q.sum(1), torch.ones(6).double())
        less = soft_labels(found, needed_boost(found) - 2 * MARGIN, tau)
        assert not torch.equal(less.argmax(1), torch.arange(6)), "as little as that"

    def test_float32_on_the_wire_still_tells_the_likeliest(self) -> None:
        found = of(*embedded(0))
        q = soft_labels(found, needed_boost(found)).float()
        assert torch.equal(q.argmax(1), torch.arange(4))

    def test_no_boost_is_needed_where_the_diagonal_is_largest(self) -> None:
        assert needed_boost(torch.eye(3).double()) == 0
        assert needed_boost(torch.ones(3, 3).double()) == MARGIN
        one_gap = torch.tensor([[0.9, 0.8, 0.1], [0.8, 0.5, 0.2], [0.1, 0.2, 1.0]]).double()
        assert needed_boost(one_gap) == pytest.approx(0.3 + MARGIN, rel=1e-6)

    @SEEDS
    def test_they_are_the_softmax_of_a_row(self, seed: int) -> None:
        found = of(*embedded(seed))
        q = soft_labels(found, 0.25, 0.5).exp().numpy()
        for y, row in enumerate(found.numpy().copy()):
            row[y] += 0.25
            np.testing.assert_allclose(q[y], np.exp(row / 0.5) / np.exp(row / 0.5).sum(), rtol=1e-12)

    def test_a_great_tau_makes_them_uniform_and_a_small_one_true(self) -> None:
        found = of(*embedded(0))
        q = [soft_labels(found, 1.0, tau).exp() for tau in (1e4, 0.01)]
        torch.testing.assert_close(q[0], torch.full((4, 4), 0.25, dtype=torch.float64), rtol=1e-3, atol=0)
        torch.testing.assert_close(q[1], torch.eye(4).double())


def measured(matrix: dict[tuple[int, int], float], **settings: str) -> pd.DataFrame:
    """Rows of one federation, as `load` gives them."""
    plain = {"federation": "f", "dataset": "digits", "partition": "iid", "method": "reffakd", "client": -1, "round": 0}
    values = {f"similarity/{a}/{b}": value for (a, b), value in matrix.items()} | {"boost": 9.0}
    return pd.DataFrame([plain | settings | {"metric": name, "value": value} for name, value in values.items()])


MATRIX = {(0, 0): 0.9, (0, 1): 0.5, (1, 1): 0.8}


class TestPicture:
    def test_each_two_classes_are_one_value_the_mean_over_federations(self) -> None:
        table = pd.concat([measured(MATRIX), measured(dict.fromkeys(MATRIX, 0.3), federation="g")])
        np.testing.assert_allclose(similarity_matrix(table), [[0.6, 0.4], [0.4, 0.55]])

    def test_cells_say_their_value_and_axes_the_names(self) -> None:
        ax = Figure().add_subplot()
        assert similarity_heatmap(measured(MATRIX), ax, names=["cat", "dog"]) is ax
        assert [text.get_text() for text in ax.texts] == ["0.90", "0.50", "0.50", "0.80"]
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            assert [label.get_text() for label in labels] == ["cat", "dog"]
        assert np.asarray(ax.images[0].get_array()).tolist() == [[0.9, 0.5], [0.5, 0.8]]

    def test_without_names_classes_are_numbers_and_many_have_no_values(self) -> None:
        ax = Figure().add_subplot()
        similarity_heatmap(measured({(a, b): 0.5 for a in range(15) for b in range(a, 15)}), ax)
        assert [label.get_text() for label in ax.get_xticklabels()] == [str(number) for number in range(15)]
        assert not ax.texts

    def test_what_it_cannot_draw_it_says(self) -> None:
        ax = Figure().add_subplot()
        with pytest.raises(ValueError, match="similarity/"):
            similarity_heatmap(measured({}), ax)
        with pytest.raises(ValueError, match="3 names for 2 classes"):
            similarity_heatmap(measured(MATRIX), ax, names=["a", "b", "c"])

    def draw(self, table: pd.DataFrame, splits: list[dict[str, Any]], folder: Path) -> list[Picture]:
        summary = Summary(pd.DataFrame(), pd.DataFrame(), (), "local", 0.95, None, Starts(0, 0.0, 0))
        sheets = Similarity().sheets(Block(table, summary, splits=splits))
        return [draw_sheet(sheet, folder / f"similarity{sheet.part}") for sheet in sheets]

    def test_a_study_has_a_figure_for_each_data_set_that_measured_it(self, tmp_path: Path) -> None:

        tables = [
            measured(MATRIX),
            measured(MATRIX, partition="skewed"),
            measured(MATRIX, dataset="other"),
            measured({}, dataset="third"),
        ]
        names = [{"dataset": "digits", "classes": ["zero", "one"]}]
        drawn = self.draw(pd.concat(tables), names, tmp_path)
        assert [picture.title.split(": ")[1] for picture in drawn] == ["digits", "other"]
        assert [picture.across for picture in drawn] == [2, 1]
        assert all(picture.png.is_file() and picture.svg.is_file() for picture in drawn)
        assert not self.draw(measured({}), names, tmp_path)

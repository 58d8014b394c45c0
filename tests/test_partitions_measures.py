"""Measures of skew against loops that spell them out, and at their limits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from partitions import measures

counts = st.integers(1, 6).flatmap(
    lambda classes: st.lists(
        st.lists(st.integers(0, 50), min_size=classes, max_size=classes), min_size=1, max_size=8
    ).map(lambda rows: np.array(rows, np.int64))
)


def divergence(p: list[float], q: list[float]) -> float:
    """Kullback-Leibler divergence in bits."""
    return sum(a * math.log2(a / b) for a, b in zip(p, q, strict=True) if a)


@given(counts)
def test_against_loops(table: NDArray[np.int64]) -> None:
    found = measures.skew(table)
    total = table.sum()
    everything = [float(n / max(total, 1)) for n in table.sum(axis=0)]
    distances = []
    for i, row in enumerate(table.tolist()):
        size = sum(row)
        own = [n / max(size, 1) for n in row]
        assert found["samples"][i] == size
        assert found["classes"][i] == sum(n > 0 for n in row)
        assert found["label_entropy"][i] == pytest.approx(-sum(p * math.log(p) for p in own if p), abs=1e-6)
        if not size:
            assert found["label_distance"][i] is None
            continue
        middle = [(p + q) / 2 for p, q in zip(own, everything, strict=True)]
        squared = (divergence(own, middle) + divergence(everything, middle)) / 2
        # The root of a rounding of 1e-16 is 1e-8.
        assert found["label_distance"][i] == pytest.approx(math.sqrt(max(squared, 0)), abs=1e-6)
        distances.append(found["label_distance"][i])
    assert found["mean_label_distance"] == pytest.approx(sum(distances) / max(len(distances), 1), abs=2e-6)
    sizes = table.sum(axis=1).tolist()
    differences = sum(abs(a - b) for a in sizes for b in sizes)
    assert found["size_gini"] == pytest.approx(differences / max(2 * len(sizes) * sum(sizes), 1), abs=1e-6)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@given(counts)
def test_the_order_of_clients_and_classes_does_not_matter(table: NDArray[np.int64]) -> None:
    turned = measures.skew(table[::-1, ::-1])
    for key, value in measures.skew(table).items():
        assert turned[key] == (value[::-1] if isinstance(value, list) else pytest.approx(value, abs=2e-6)), key


def test_at_the_limits() -> None:
    alike = measures.skew(np.full((4, 10), 7))
    assert alike["label_entropy"] == [round(math.log(10), 6)] * 4
    assert (alike["mean_label_distance"], alike["size_gini"]) == (0, 0)
    # Two clients without a class in common: between (1, 0) and (1/2, 1/2) lies (3/4, 1/4).
    apart = measures.skew(np.diag([5, 5]))
    assert apart["label_entropy"] == [0, 0]
    expected = math.sqrt((math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5) / 2)
    assert apart["label_distance"] == pytest.approx([expected] * 2, abs=1e-6)
    # Nearly nothing in common with nearly everybody.
    rare = measures.label_distance(np.array([[1, 0], [0, 10**9]]))
    assert rare == pytest.approx([1, 0], abs=1e-3)
    assert measures.size_gini(np.array([[0], [0], [0], [8]])) == 0.75


def test_empty_clients() -> None:
    some = measures.skew(np.array([[4, 4], [0, 0], [4, 4]]))
    assert some["label_entropy"][1] == 0
    assert some["label_distance"] == [0, None, 0]
    assert some["mean_label_distance"] == 0
    nothing = measures.skew(np.zeros((2, 3), np.int64))
    assert (nothing["label_distance"], nothing["mean_label_distance"], nothing["size_gini"]) == ([None, None], 0, 0)


def test_equal_distributions_have_no_distance_that_is_not_a_number() -> None:
    table = np.array([[1, 2, 3, 4, 7]]) * np.arange(1, 2000)[:, None]
    assert np.abs(measures.label_distance(table)).max() < 1e-6

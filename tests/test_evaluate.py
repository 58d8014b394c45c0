"""Measures of predictions, against plain loops and at their limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.node.holdings import Holdings
from fedkd.tensors.evaluate import accuracy, agreement, calibration_error, class_accuracies, mean_loss
from fedkd.tensors.samples import Data
from tests.small import drawn

seeds = st.integers(0, 10_000)


def draw(seed: int, n: int = 200, classes: int = 4, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, classes, generator=rng), torch.randint(classes, (n,), generator=rng)


@drawn
@given(seeds)
def test_calibration_error_is_that_of_a_plain_loop(seed: int) -> None:
    logits, labels = draw(seed)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.double().softmax(1).tolist(), labels.tolist(), strict=True):
        top = max(row)
        bins.setdefault(max(math.ceil(top * 15), 1), []).append((top, row.index(top) == label))
    expected = 0.0
    for found in bins.values():
        sure, right = (sum(values) / len(found) for values in zip(*found, strict=True))
        expected += abs(right - sure) * len(found) / len(labels)
    assert calibration_error(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_calibration_at_its_limits() -> None:
    labels = torch.arange(40) % 4
    certain = 1e3 * torch.nn.functional.one_hot(labels, 4).float()
    assert calibration_error(certain, labels) == pytest.approx(0)
    assert calibration_error(certain.roll(1, dims=1), labels) == pytest.approx(1)
    uniform = torch.zeros(40, 4)
    # The first class is named each time, right for a quarter of the samples, and as sure as that.
    assert calibration_error(uniform, labels) == pytest.approx(0)


@drawn
@given(seeds)
def test_accuracies_by_class_average_to_the_accuracy(seed: int) -> None:
    logits, labels = draw(seed)
    each = class_accuracies(logits, labels)
    counts = torch.bincount(labels, minlength=4)
    total = sum(each[label] * int(counts[label]) for label in each) / len(labels)
    assert total == pytest.approx(accuracy(logits, labels))


def test_a_class_that_nobody_shows_has_no_accuracy() -> None:
    logits, labels = draw(0)
    assert set(class_accuracies(logits, labels.clamp(max=2))) == {0, 1, 2}


def test_agreement_is_with_the_arg_max() -> None:
    logits, _ = draw(1)
    assert agreement(logits, 3 * logits + 1) == 1
    assert agreement(logits, -logits) == 0


def test_a_teacher_is_judged_by_its_merged_soft_labels() -> None:
    logits, labels = draw(2)
    data = Data(torch.zeros(200, 1, 2, 2), labels)
    held = Holdings((1, 2, 2), 4, None, None, None, {"transfer": data})
    other, _ = draw(3)
    found = held.evaluate_teacher(logits, torch.stack([logits, other]))
    merged = (logits + other) / 2
    assert found["transfer", "teacher_accuracy"] == accuracy(merged, labels)
    assert found["transfer", "teacher_loss"] == mean_loss(merged, labels)
    assert found["transfer", "agreement"] == agreement(logits, merged)
    assert held.evaluate_teacher(logits, logits[:50]) == {}, "soft labels of other samples"
    assert Holdings((1, 2, 2), 4, None, None, None, {}).evaluate_teacher(logits, logits) == {}

"""Teachers combined: against a loop in numpy, and by what combining must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fedkd.tensors.ensemble import confidence, mean_logits, mean_probabilities, most_confident
from tests.small import drawn

Array = NDArray[np.float64]

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 6))
temperatures = st.sampled_from([0.5, 1.0, 4.0, 20.0])


def draw(seed: int, shape: tuple[int, int, int]) -> Array:
    """(teachers, n, classes) logits."""
    return np.random.default_rng(seed).normal(0, 3, shape)


def softmax(z: Array) -> Array:
    weights = np.exp(z - z.max(axis=-1, keepdims=True))
    probabilities: Array = weights / weights.sum(axis=-1, keepdims=True)
    return probabilities


def labels_for(seed: int, shape: tuple[int, int, int]) -> NDArray[np.int64]:
    return np.random.default_rng(seed + 1).integers(shape[2], size=shape[1])


def best_by_loop(teachers: Array, labels: NDArray[np.int64] | None) -> Array:
    """Per sample, the logits of the teacher surest of itself, or of the label; the first of equals."""
    best: Array = np.empty(teachers.shape[1:])
    for sample in range(teachers.shape[1]):
        highest = -1.0
        for teacher in teachers:
            p = softmax(teacher[sample])
            sure = float(p.max() if labels is None else p[labels[sample]])
            if sure > highest:
                highest, best[sample] = sure, teacher[sample]
    return best


@drawn
@given(seeds, sizes)
def test_mean_logits_is_a_loop_over_teachers(seed: int, shape: tuple[int, int, int]) -> None:
    teachers = draw(seed, shape)
    total = np.zeros(shape[1:])
    for teacher in teachers:
        total += teacher
    np.testing.assert_allclose(mean_logits(torch.tensor(teachers)).numpy(), total / len(teachers), atol=1e-12)


@drawn
@given(seeds, sizes)
def test_mean_logits_is_the_normalised_geometric_mean_of_the_probabilities(
    seed: int, shape: tuple[int, int, int]
) -> None:
    teachers = draw(seed, shape)
    product = softmax(teachers).prod(axis=0) ** (1 / shape[0])
    expected = product / product.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(softmax(mean_logits(torch.tensor(teachers)).numpy()), expected, atol=1e-9)


@drawn
@given(seeds, sizes, temperatures)
def test_mean_probabilities_has_the_mean_of_the_softened_probabilities(
    seed: int, shape: tuple[int, int, int], temperature: float
) -> None:
    teachers = draw(seed, shape)
    total = np.zeros(shape[1:])
    for teacher in teachers:
        total += softmax(teacher / temperature)
    merged = mean_probabilities(torch.tensor(teachers), temperature).numpy()
    np.testing.assert_allclose(softmax(merged / temperature), total / len(teachers), atol=1e-12)


def test_the_two_means_differ_where_teachers_disagree() -> None:
    teachers = torch.tensor([[[4.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])
    assert not torch.allclose(mean_logits(teachers).softmax(-1), mean_probabilities(teachers).softmax(-1), atol=0.01)


@drawn
@given(seeds, sizes)
def test_most_confident_is_a_loop_over_samples(seed: int, shape: tuple[int, int, int]) -> None:
    teachers = draw(seed, shape)
    assert np.array_equal(most_confident(torch.tensor(teachers), None).numpy(), best_by_loop(teachers, None))


@drawn
@given(seeds, sizes)
def test_most_confident_of_the_label_is_a_loop_over_samples(seed: int, shape: tuple[int, int, int]) -> None:
    teachers, labels = draw(seed, shape), labels_for(seed, shape)
    found = most_confident(torch.tensor(teachers), torch.tensor(labels)).numpy()
    assert np.array_equal(found, best_by_loop(teachers, labels))


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1])])
def test_of_equally_confident_teachers_the_first_is_taken(labels: Tensor | None) -> None:
    # Class 2 and class 3 change places: neither max p nor p of labels 0 and 1 does, so all three teachers tie.
    one = torch.tensor([[4.0, 0.0, 1.0, 2.0], [0.0, 4.0, 1.0, 2.0]])
    other = one[:, [0, 1, 3, 2]]
    assert torch.equal(most_confident(torch.stack([one, other, one]), labels), one)
    assert torch.equal(most_confident(torch.stack([other, one, one]), labels), other)


def test_the_most_confident_of_the_label_may_be_the_least_confident_of_all() -> None:
    sure, right = torch.tensor([[0.0, 9.0]]), torch.tensor([[1.0, 0.0]])
    both = torch.stack([sure, right])
    assert torch.equal(most_confident(both, None), sure)
    assert torch.equal(most_confident(both, torch.tensor([0])), right)


@drawn
@given(seeds, sizes)
def test_confidence_is_max_p_or_p_of_the_label(seed: int, shape: tuple[int, int, int]) -> None:
    teachers, labels = draw(seed, shape), labels_for(seed, shape)
    p = softmax(teachers)
    unlabelled = confidence(torch.tensor(teachers), None).numpy()
    labelled = confidence(torch.tensor(teachers), torch.tensor(labels)).numpy()
    for teacher in range(shape[0]):
        for sample in range(shape[1]):
            assert unlabelled[teacher, sample] == pytest.approx(p[teacher, sample].max(), abs=1e-12)
            assert labelled[teacher, sample] == pytest.approx(p[teacher, sample, labels[sample]], abs=1e-12)


@drawn
@given(seeds, sizes, temperatures)
def test_the_order_of_the_teachers_does_not_matter(seed: int, shape: tuple[int, int, int], temperature: float) -> None:
    teachers, labels = torch.tensor(draw(seed, shape)), torch.tensor(labels_for(seed, shape))
    shuffled = teachers[torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))]
    torch.testing.assert_close(mean_logits(shuffled), mean_logits(teachers))
    torch.testing.assert_close(mean_probabilities(shuffled, temperature), mean_probabilities(teachers, temperature))
    assert torch.equal(most_confident(shuffled, None), most_confident(teachers, None))
    assert torch.equal(most_confident(shuffled, labels), most_confident(teachers, labels))


@drawn
@given(seeds, sizes, temperatures)
def test_one_teacher_alone_is_returned_as_it_is(seed: int, shape: tuple[int, int, int], temperature: float) -> None:
    alone = torch.tensor(draw(seed, (1, *shape[1:])))
    assert torch.equal(mean_logits(alone), alone[0])
    assert torch.equal(most_confident(alone, None), alone[0])
    constant = mean_probabilities(alone, temperature) - alone[0]
    torch.testing.assert_close(constant, constant[:, :1].expand_as(constant), rtol=0, atol=1e-9)


def test_teachers_that_rule_a_class_out_leave_it_to_the_others() -> None:
    never, perhaps = torch.tensor([[0.0, -65504.0]]), torch.tensor([[0.0, 0.0]])
    merged = mean_probabilities(torch.stack([never, perhaps])).softmax(-1)
    torch.testing.assert_close(merged, torch.tensor([[0.75, 0.25]]))

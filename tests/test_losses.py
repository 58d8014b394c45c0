"""Every objective is the formula that its docstring states, at ordinary points and at limits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fedkd.tensors.losses import OBJECTIVES, cross_entropy, js, kl, mse, reverse_kl
from tests.small import drawn

Array = NDArray[np.float64]

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 6), st.integers(2, 7))
temperatures = st.sampled_from([0.25, 1.0, 2.5, 4.0, 20.0])
EVERY = pytest.mark.parametrize("name", list(OBJECTIVES))
ON_PREDICTIONS = pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "mse"])


def draw(seed: int, shape: tuple[int, int], scale: float = 3.0) -> tuple[Array, Array]:
    """Student and teacher logits."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, shape), rng.normal(0, scale, shape)


def tensors(seed: int, shape: tuple[int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The same as tensors; the student's ask for gradients."""
    student, teacher = (torch.tensor(array, dtype=dtype) for array in draw(seed, shape))
    return student.requires_grad_(), teacher


def softmax(z: Array) -> Array:
    weights = np.exp(z - z.max(axis=1, keepdims=True))
    probabilities: Array = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


def divergence(p: Array, q: Array) -> float:
    """Mean over samples of Σ p·log(p/q), sample by sample and class by class."""
    total = 0.0
    for sample in range(len(p)):
        for a, b in zip(p[sample], q[sample], strict=True):
            total += a * math.log(a / b) if a > 0 else 0.0
    return total / len(p)


def numpy_kl(student: Array, teacher: Array, temperature: float) -> float:
    return temperature**2 * divergence(softmax(teacher / temperature), softmax(student / temperature))


def numpy_reverse_kl(student: Array, teacher: Array, temperature: float) -> float:
    return temperature**2 * divergence(softmax(student / temperature), softmax(teacher / temperature))


def numpy_js(student: Array, teacher: Array, temperature: float) -> float:
    p, q = softmax(student / temperature), softmax(teacher / temperature)
    return temperature**2 * (divergence(p, (p + q) / 2) + divergence(q, (p + q) / 2)) / 2


def numpy_mse(student: Array, teacher: Array, temperature: float) -> float:  # noqa: ARG001 - it has no temperature
    return float(sum((a - b) ** 2 for a, b in zip(student.flat, teacher.flat, strict=True)) / student.size)


FORMULAS: dict[str, Callable[[Array, Array, float], float]] = {
    "kl": numpy_kl,
    "reverse_kl": numpy_reverse_kl,
    "js": numpy_js,
    "mse": numpy_mse,
}


def test_every_objective_has_its_formula_here() -> None:
    assert FORMULAS.keys() == OBJECTIVES.keys()


@EVERY
@drawn
@given(seeds, sizes, temperatures)
def test_objectives_are_their_formulas(name: str, seed: int, shape: tuple[int, int], temperature: float) -> None:
    student, teacher = draw(seed, shape)
    found = float(OBJECTIVES[name](torch.tensor(student), torch.tensor(teacher), temperature))
    assert found == pytest.approx(FORMULAS[name](student, teacher, temperature), rel=1e-9, abs=1e-12)


@drawn
@given(seeds, sizes)
def test_cross_entropy_is_the_mean_of_minus_log_p_of_the_label(seed: int, shape: tuple[int, int]) -> None:
    logits, _ = draw(seed, shape)
    labels = np.random.default_rng(seed).integers(shape[1], size=shape[0])
    expected = -np.mean([math.log(softmax(logits)[sample, label]) for sample, label in enumerate(labels)])
    assert float(cross_entropy(torch.tensor(logits), torch.tensor(labels))) == pytest.approx(expected, rel=1e-9)


@drawn
@given(seeds, sizes, temperatures)
def test_gradient_of_kl_is_temperature_times_the_difference_of_probabilities(
    seed: int, shape: tuple[int, int], temperature: float
) -> None:
    # d/dz_s of T²·KL(p_t ‖ softmax(z_s/T)) = T²·(p_s − p_t)/T, and 1/n for the batch mean.
    student, teacher = tensors(seed, shape)
    (gradient,) = torch.autograd.grad(kl(student, teacher, temperature), student)
    expected = (
        temperature
        * (softmax(student.detach().numpy() / temperature) - softmax(teacher.numpy() / temperature))
        / shape[0]
    )
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-9, atol=1e-12)


class TestHighTemperature:
    """With δ = centred(z_s − z_t), the divergences tend to quadratic forms.

    softmax(z/T) = 1/C + centred(z)/(C·T) + O(T⁻²), and a divergence of nearby distributions is half their χ²
    distance: T²·KL → T²·½·Σ (δ/(C·T))²/(1/C) = ‖δ‖²/(2C) either way. To the midpoint δ halves: T²·JS → ‖δ‖²/(8C).
    In float64: float32 is 8 % off at T = 1e4.
    """

    @pytest.mark.parametrize(("name", "share"), [("kl", 1 / 2), ("reverse_kl", 1 / 2), ("js", 1 / 8)])
    @pytest.mark.parametrize("seed", range(5))
    def test_divergences_become_the_squared_distance_of_centred_logits(
        self, name: str, share: float, seed: int
    ) -> None:
        student, teacher = draw(seed, (5, 7))
        apart = student - teacher
        centred = apart - apart.mean(axis=1, keepdims=True)
        limit = share / 7 * np.mean(np.sum(centred**2, axis=1))
        found = float(OBJECTIVES[name](torch.tensor(student), torch.tensor(teacher), 1e5))
        assert found == pytest.approx(limit, rel=1e-3)

    @pytest.mark.parametrize("seed", range(5))
    def test_the_gradient_becomes_the_difference_of_centred_logits(self, seed: int) -> None:
        student, teacher = tensors(seed, (5, 7))
        (gradient,) = torch.autograd.grad(kl(student, teacher, 1e5), student)
        apart = (student - teacher).detach()
        expected = (apart - apart.mean(dim=1, keepdim=True)) / 7 / 5
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


@EVERY
@drawn
@given(seeds, sizes, temperatures)
def test_equal_logits_give_no_loss_and_no_gradient(
    name: str, seed: int, shape: tuple[int, int], temperature: float
) -> None:
    student, _ = tensors(seed, shape, torch.float32)
    loss = OBJECTIVES[name](student, student.detach().clone(), temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    assert abs(float(loss.detach())) <= 1e-5 * temperature**2
    assert float(gradient.abs().max()) <= 1e-5 * temperature**2


@ON_PREDICTIONS
@drawn
@given(seeds, sizes, temperatures)
def test_a_constant_added_to_a_samples_logits_changes_no_prediction_and_no_loss(
    name: str, seed: int, shape: tuple[int, int], temperature: float
) -> None:
    student, teacher = tensors(seed, shape)
    constant = torch.arange(1.0, 1 + shape[0], dtype=torch.float64).unsqueeze(1)
    plain = float(OBJECTIVES[name](student, teacher, temperature).detach())
    moved = float(OBJECTIVES[name](student + 2 * constant, teacher - constant, temperature).detach())
    assert moved == pytest.approx(plain, rel=1e-9, abs=1e-12)


@EVERY
@drawn
@given(seeds, sizes, temperatures)
def test_no_objective_is_negative(name: str, seed: int, shape: tuple[int, int], temperature: float) -> None:
    student, teacher = tensors(seed, shape)
    assert float(OBJECTIVES[name](student, teacher, temperature).detach()) >= -1e-12 * temperature**2


@EVERY
def test_gradients_flow_into_the_student_only(name: str) -> None:
    student, teacher = tensors(0, (4, 5))
    teacher.requires_grad_()
    loss = OBJECTIVES[name](student, teacher, 2.0)
    into_student, into_teacher = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert float(into_student.abs().sum()) > 0
    assert into_teacher is None


@EVERY
def test_a_batch_counts_as_the_mean_of_its_samples(name: str) -> None:
    student, teacher = tensors(1, (6, 5))
    alone = [OBJECTIVES[name](student[i : i + 1], teacher[i : i + 1], 3.0) for i in range(6)]
    torch.testing.assert_close(OBJECTIVES[name](student, teacher, 3.0), torch.stack(alone).mean())


class TestWeights:
    """A weighted objective is the mean of its samples, each as much as its weight."""

    @EVERY
    @drawn
    @given(seed=seeds, shape=sizes, temperature=temperatures)
    def test_it_is_a_loop_over_samples(self, name: str, seed: int, shape: tuple[int, int], temperature: float) -> None:
        student, teacher = draw(seed, shape)
        weights = np.random.default_rng(seed).random(shape[0]) + 0.01
        total = 0.0
        for sample, weight in enumerate(weights):
            rows = slice(sample, sample + 1)
            total += weight * FORMULAS[name](student[rows], teacher[rows], temperature)
        found = OBJECTIVES[name](torch.tensor(student), torch.tensor(teacher), temperature, torch.tensor(weights))
        assert float(found) == pytest.approx(total / len(weights), rel=1e-9, abs=1e-12)

    @EVERY
    def test_a_mask_is_the_share_of_the_subset_that_it_leaves(self, name: str) -> None:
        student, teacher = tensors(4, (6, 5))
        mask = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
        masked = OBJECTIVES[name](student, teacher, 2.0, mask)
        subset = OBJECTIVES[name](student[mask.bool()], teacher[mask.bool()], 2.0) / 2
        torch.testing.assert_close(masked, subset)
        gradients = [torch.autograd.grad(loss, student)[0] for loss in (masked, subset)]
        torch.testing.assert_close(*gradients)

    @EVERY
    def test_equal_weights_scale_the_whole(self, name: str) -> None:
        student, teacher = tensors(5, (6, 5))
        plain = OBJECTIVES[name](student, teacher, 2.0)
        for weight in (1.0, 0.1, 0.0):
            weights = torch.full((6,), weight, dtype=torch.float64)
            torch.testing.assert_close(OBJECTIVES[name](student, teacher, 2.0, weights), weight * plain)

    @EVERY
    def test_where_nothing_counts_there_is_no_loss_and_no_gradient(self, name: str) -> None:
        student, teacher = tensors(6, (6, 5), torch.float32)
        loss = OBJECTIVES[name](student, teacher, 2.0, torch.zeros(6))
        (gradient,) = torch.autograd.grad(loss, student)
        assert float(loss.detach()) == 0
        assert not gradient.any()


@drawn
@given(seeds, sizes, temperatures)
def test_reverse_kl_is_kl_with_the_roles_exchanged(seed: int, shape: tuple[int, int], temperature: float) -> None:
    student, teacher = tensors(seed, shape)
    torch.testing.assert_close(reverse_kl(student, teacher, temperature), kl(teacher, student, temperature))


@drawn
@given(seeds, sizes, temperatures, st.floats(0.1, 1e3))
def test_js_has_no_direction_and_is_bounded_by_temperature_squared_log_2(
    seed: int, shape: tuple[int, int], temperature: float, scale: float
) -> None:
    student, teacher = (torch.tensor(logits) for logits in draw(seed, shape, scale))
    assert float(js(student, teacher, temperature)) == pytest.approx(
        float(js(teacher, student, temperature)), rel=1e-9, abs=1e-12
    )
    assert float(js(student, teacher, temperature)) <= temperature**2 * math.log(2) * (1 + 1e-9)


def test_js_reaches_its_bound_where_predictions_exclude_each_other() -> None:
    student, teacher = torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]])
    assert float(js(student, teacher)) == pytest.approx(math.log(2), rel=1e-6)


def test_mse_has_no_temperature() -> None:
    student, teacher = tensors(2, (4, 5))
    assert torch.equal(mse(student, teacher, 1.0), mse(student, teacher, 20.0))


class TestImpossibleClasses:
    """0·log 0 = 0: a class that the teacher rules out adds nothing to KL(p_t ‖ p_s)."""

    # −65504 is what an infinity becomes on a float16 wire.
    @pytest.mark.parametrize("never", [-1e3, -65504.0, -1e30])
    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_kl_is_that_over_the_other_classes(self, never: float, temperature: float) -> None:
        student, teacher = tensors(3, (4, 5), torch.float32)
        teacher[:, 2] = never
        possible = [0, 1, 3, 4]
        p = softmax(teacher[:, possible].double().numpy() / temperature)
        q = softmax(student.detach().double().numpy() / temperature)[:, possible]
        loss = kl(student, teacher, temperature)
        (gradient,) = torch.autograd.grad(loss, student)
        assert float(loss.detach()) == pytest.approx(temperature**2 * divergence(p, q), rel=1e-5)
        assert bool(gradient.isfinite().all())

    @pytest.mark.parametrize("never", [-1e3, -65504.0, -1e30])
    @ON_PREDICTIONS
    def test_equal_predictions_give_no_loss(self, name: str, never: float) -> None:
        student, _ = tensors(3, (4, 5), torch.float32)
        logits = student.detach().clone()
        logits[:, 2] = never
        assert float(OBJECTIVES[name](logits, logits.clone(), 1.0)) == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("never", [-1e3, -65504.0, -1e30])
    def test_js_stays_within_its_bound(self, never: float) -> None:
        student, teacher = tensors(3, (4, 5), torch.float32)
        teacher[:, 2] = never
        assert 0 < float(js(student, teacher).detach()) <= math.log(2)

    def test_reverse_kl_is_large_but_finite_after_a_wire(self) -> None:
        student, teacher = tensors(3, (4, 5), torch.float32)
        teacher[:, 2] = -65504.0
        loss = reverse_kl(student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        assert 1e2 < float(loss.detach()) < 65504 * 2
        assert bool(gradient.isfinite().all())

    @pytest.mark.parametrize("name", ["kl", "js"])
    def test_an_infinity_is_no_exception(self, name: str) -> None:
        student, teacher = tensors(3, (4, 5), torch.float32)
        teacher[:, 2] = -math.inf
        nearly = teacher.clone()
        nearly[:, 2] = -1e30
        found, expected = (float(OBJECTIVES[name](student, logits, 1.0).detach()) for logits in (teacher, nearly))
        assert found == pytest.approx(expected, rel=1e-6)

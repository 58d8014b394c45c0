"""Influence through the last layer: exact curvature, a head trained to the end, agreement with training anew."""

from __future__ import annotations

import resource
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.agreement import agreement
from fedkd.base.streams import stream
from fedkd.distillation.selection import SELECTIONS
from fedkd.distillation.selections.influence import HeadObjective
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS
from fedkd.node.node import Node
from fedkd.tensors import influence
from fedkd.tensors.influence import Curvature, Factors, helpful_step, inputs_to_logits, retrained, second_moment, solve
from fedkd.tensors.losses import OBJECTIVES, kl
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch, Target
from tests.small import drawn, node, samples
from tests.small import own_cache as own_cache


class Problem:
    """A small head, and what it is trained on."""

    def __init__(self, objective: str = "kl", n: int = 12, width: int = 3, classes: int = 3, seed: int = 0) -> None:
        rng = stream("problem", seed)
        self.h, self.held = (torch.randn(k, width, generator=rng, dtype=torch.float64) for k in (n, 9))
        self.head = torch.randn(classes, width + 1, generator=rng, dtype=torch.float64)
        self.labels, self.truth = (torch.randint(classes, (k,), generator=rng) for k in (n, 9))
        self.teacher = 2 * torch.randn(n, classes, generator=rng, dtype=torch.float64)
        self.name = objective

    def __call__(self, logits: Tensor) -> Tensor:
        return 0.3 * cross_entropy(logits, self.labels) + OBJECTIVES[self.name](logits, self.teacher)

    def dense(self, head: Tensor) -> Tensor:
        """The matrix of second derivatives."""
        found: Tensor = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
            lambda flat: self(inputs_to_logits(self.h, flat.reshape(head.shape))), head.flatten()
        )
        return found


class TestCurvature:
    @drawn
    @given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 4), st.sampled_from(sorted(OBJECTIVES)))
    def test_products_and_diagonal_are_those_of_the_dense_matrix(
        self, seed: int, width: int, classes: int, objective: str
    ) -> None:
        problem = Problem(objective, width=width, classes=classes, seed=seed)
        at, dense = Curvature(problem.h, problem.head, problem), problem.dense(problem.head)
        torch.testing.assert_close(at.product(problem.head).flatten(), dense @ problem.head.flatten())
        if objective in ("kl", "mse"):  # convex, so that no element is negative
            assert at.mean_diagonal == pytest.approx(float(dense.diagonal().mean()))
            damped = dense + 0.01 * torch.eye(len(dense))
            found = solve(at, problem.head, 0.01, at.factors, tolerance=1e-12)
            torch.testing.assert_close(
                found.flatten(), torch.linalg.solve(damped, problem.head.flatten()), rtol=1e-6, atol=1e-8
            )

    def test_the_factors_are_inverted_exactly(self) -> None:
        problem = Problem()
        root = torch.randn(3, 3, generator=stream("root"), dtype=torch.float64)
        with_one = torch.cat([problem.h, torch.ones(12, 1, dtype=torch.float64)], 1)
        torch.testing.assert_close(second_moment(problem.h), with_one.T @ with_one / 12)
        dense = torch.kron(root @ root.T, with_one.T @ with_one / 12) + 0.1 * torch.eye(12)
        found = Factors(*torch.linalg.eigh(second_moment(problem.h)), *torch.linalg.eigh(root @ root.T))
        torch.testing.assert_close(
            found.solve(problem.head, 0.1).flatten(), torch.linalg.solve(dense, problem.head.flatten())
        )

    @pytest.mark.parametrize("objective", sorted(OBJECTIVES))
    def test_at_the_minimum_of_any_objective_the_curvature_is_positive(self, objective: str) -> None:
        problem, damping = Problem(objective, n=40), 0.01
        start = Curvature(problem.h, problem.head, problem)
        best = retrained(start, problem, damping)
        pulled = best.gradient + damping * (best.head - problem.head)
        assert float(pulled.norm()) <= 1e-4 * float(start.gradient.norm())
        assert float(torch.linalg.eigvalsh(problem.dense(best.head))[0]) + damping > 0

    def test_the_step_is_that_of_the_dense_matrix_at_the_trained_head(self) -> None:
        problem = Problem()
        step, logits = helpful_step(problem.h, problem.head, problem, problem.held, problem.truth, damping=0.1)
        pull = 0.1 * float(problem.dense(problem.head).diagonal().mean())
        best = retrained(Curvature(problem.h, problem.head, problem), problem, pull).head
        torch.testing.assert_close(logits, inputs_to_logits(problem.h, best))
        head = best.clone().requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(inputs_to_logits(problem.held, head), problem.truth), head)
        dense = problem.dense(best) + pull * torch.eye(12)
        expected = torch.linalg.solve(dense, slope.flatten())
        torch.testing.assert_close(step.flatten(), expected, rtol=1e-4, atol=1e-6)

    def test_a_head_too_large_is_left_as_it_is_with_factors_for_its_curvature(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        problem = Problem()
        monkeypatch.setattr(influence, "LARGEST", 11)
        step, logits = helpful_step(problem.h, problem.head, problem, problem.held, problem.truth, damping=0.1)
        torch.testing.assert_close(logits, inputs_to_logits(problem.h, problem.head))
        start = Curvature(problem.h, problem.head, problem)
        residuals = inputs_to_logits(problem.held, problem.head).softmax(1) - one_hot(problem.truth, 3)
        slope = torch.cat([residuals.T @ problem.held, residuals.sum(0).unsqueeze(1)], 1) / 9
        torch.testing.assert_close(step, start.factors.solve(slope, 0.1 * start.mean_diagonal))

    @pytest.mark.parametrize("largest", [26, 27])
    def test_results_say_so_where_factors_stood_in(self, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("fedkd.tensors.influence", "fedkd.distillation.selections.influence"):
            monkeypatch.setattr(f"{module}.LARGEST", largest)  # the head has 3 · (8 + 1) weights
        client = node(labelled=True)
        target = Target(torch.randn(14, 3, generator=stream("teacher")))
        SELECTIONS.build("influence").mask(client, target, METHODS.build("kd").loss)
        assert (("transfer", "influence_factored") in client.records) == (largest < 27)


def taught(skewed: bool) -> tuple[list[Node], Tensor]:
    """Ten clients who have learnt from shards of all classes, or of two of three, and their (10, n, classes) logits."""
    clients = []
    for client in range(10):
        each = node(client, clients=10, labelled=True)
        each.data, each.val = samples(40, "shard", client), samples(30, "held", client)
        each.transfer = samples(50, "common")
        assert each.data.y is not None
        if skewed:
            known = each.data.y != client % 3
            each.data = Data(each.data.x[known], each.data.y[known])
        for each.round in range(1, 10):
            METHODS.build("local").learn(each, Knowledge())
        clients.append(each)
    return clients, torch.stack([each.transfer_logits() for each in clients])


class TestAgreement:
    @pytest.mark.parametrize("skewed", [False, True])
    def test_ten_clients_scores_rank_as_training_the_last_layer_anew_does(self, skewed: bool) -> None:
        clients, logits = taught(skewed)
        found = []
        for each in clients:
            teacher = torch.cat([logits[: each.id], logits[each.id + 1 :]]).mean(0)
            found.append(agreement(each, teacher, weight=0.7, samples=15))
        assert min(found) > 0.97, found

    def test_more_or_less_damping_foretells_as_much_more_or_less_of_a_pull(self) -> None:
        clients, logits = taught(skewed=True)
        for damping in (0.01, 1.0):
            assert agreement(clients[0], logits[1:].mean(0), weight=0.9, samples=15, damping=damping) > 0.97


class TestHeadObjective:
    """What the head is trained on is what the method trains it on."""

    SPEC = "kd(temperature=2.0, weight=0.4)"

    def test_its_gradient_is_that_of_the_mean_over_training_batches(self) -> None:
        client, method = node(labelled=True), METHODS.build(self.SPEC)
        teacher = torch.randn(14, 3, generator=stream("teacher"))
        objective = HeadObjective(client, Target(teacher), method.loss)
        found = Curvature(objective.features, objective.head, objective).gradient
        own, common = client.private, client.public
        assert own.y is not None
        assert common.y is not None
        layer, total, size = client.student.eval().head, torch.zeros_like(found), client.training.batch_size
        assert isinstance(layer, nn.Linear)
        # As many passes over both as make the same number of whole batches.
        i, j = torch.arange(10).repeat(14).reshape(-1, size), torch.arange(14).repeat(10).reshape(-1, size)
        assert (len(own), len(common), len(i)) == (10, 14, len(j))
        for private, public in zip(i, j, strict=True):
            z = client.student(torch.cat([own.x[private], common.x[public]]))
            y = torch.cat([own.y[private], common.y[public]])
            value = method.loss(Batch(client, z, y, z[size:], teacher[public], known=True))
            weight, bias = torch.autograd.grad(value, [layer.weight, layer.bias])
            total += torch.cat([weight, bias.unsqueeze(1)], 1) / len(i)
        torch.testing.assert_close(found, total, rtol=1e-4, atol=1e-6)

    def test_its_value_falls_as_its_gradient_says(self) -> None:
        client, method = node(labelled=True), METHODS.build(self.SPEC)
        objective = HeadObjective(client, Target(torch.randn(14, 3, generator=stream("t"))), method.loss)
        at = Curvature(objective.features, objective.head, objective)
        step = 1e-5 * at.gradient
        there = Curvature(objective.features, objective.head - step, objective)
        assert at.value - there.value == pytest.approx(float((at.gradient * step).sum()), rel=1e-3)

    def test_the_change_is_that_of_a_training_step_when_one_sample_is_distilled(self) -> None:
        client, method = node(labelled=True), METHODS.build(self.SPEC)
        teacher, labels = torch.randn(14, 3, generator=stream("teacher")), client.public.y
        assert labels is not None
        objective = HeadObjective(client, Target(teacher), method.loss)
        logits = inputs_to_logits(objective.features, objective.head)
        change, common = objective.change(logits), logits[objective.distilled].float()
        own = torch.randn(14, 3, generator=stream("own"))
        for sample in (0, 5):
            gradients = []
            for kept in (1.0, 0.0):
                z, weights = common.clone().requires_grad_(), torch.ones(14)
                weights[sample] = kept
                batch = Batch(client, torch.cat([own, z]), labels.repeat(2), z, teacher, weights, known=True)
                gradients.append(torch.autograd.grad(method.loss(batch), z)[0][sample])
            torch.testing.assert_close(change[sample].float(), gradients[0] - gradients[1])

    @pytest.mark.parametrize("spec", ["kd(objective='js')", "kd(objective='mse')", "dml", "dp_kd(select='random')"])
    def test_samples_of_one_s_own_are_there_once_and_any_loss_will_do(self, spec: str) -> None:
        client = node(labelled=True)
        client.transfer = None
        n = len(client.private)
        target = Target(torch.randn(n, 3, generator=stream("own")))
        objective = HeadObjective(client, target, METHODS.build(spec).loss)
        assert objective.features.shape[0] == n
        scores = SELECTIONS.build("influence").scores(client, target, METHODS.build(spec).loss)  # type: ignore[attr-defined]
        assert scores.shape == (n,)
        assert bool(scores.isfinite().all())


def test_ten_thousand_samples_take_seconds() -> None:
    rng, n = stream("many"), 10_000
    labels = torch.randint(10, (n,), generator=rng)
    features = torch.randn(10, 128, generator=rng)[labels] / 4 + torch.randn(n, 128, generator=rng)
    features, teacher = features.relu().double(), one_hot(labels, 10) + torch.randn(n, 10, generator=rng)
    head = 0.1 * torch.randn(10, 129, generator=rng, dtype=torch.float64)

    def objective(logits: Tensor) -> Tensor:
        return 0.5 * cross_entropy(logits, labels) + 0.5 * kl(logits, teacher)

    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    helpful_step(features, head, objective, features[:2000], labels[:2000])
    assert time.process_time() - began < 10  # half a second; CI shares its cores
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB

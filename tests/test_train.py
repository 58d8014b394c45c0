"""Steps: those of torch.optim, on batches that every method shares, in one forward pass that changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.base.streams import stream
from fedkd.method import METHODS
from fedkd.models import build_model
from fedkd.node.node import Node
from fedkd.settings.training import Optimisation, Training
from fedkd.tensors.losses import cross_entropy, kl
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch, Fit, Labels, Target
from fedkd.training.fit import fit
from fedkd.training.optimisers import make_optimiser
from tests import small
from tests.small import CLASSES, SHAPE, distance, model, node, same_weights, weights
from tests.small import own_cache as own_cache

SETTINGS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.1},
    {"momentum": 0.5, "weight_decay": 0.01},
]


def numbered(n: int, m: int, *, labelled: bool = False, round: int = 1, **training: Any) -> Node:
    """A client whose labels are the numbers of its samples, so that a loss can see which ones it was given.

    Its n private samples are numbered from 0 and its m transfer samples from 1000.
    """
    rng = stream("numbered")
    made = node(round=round, training=Training(**({"lr": 0.1, "batch_size": 4} | training)))
    made.data = Data(torch.rand(n, *SHAPE, generator=rng), torch.arange(n))
    made.transfer = Data(torch.rand(m, *SHAPE, generator=rng), torch.arange(m) + 1000 if labelled else None)
    return made


class Probe:
    """A loss that notes what it is given."""

    def __init__(self) -> None:
        self.seen: list[Batch] = []

    def __call__(self, batch: Batch) -> Tensor:
        self.seen.append(batch)
        parts = [part for part in (batch.labelled, batch.student) if part is not None]
        return torch.stack([part.square().sum() for part in parts]).sum() * 1e-3

    def labels(self) -> list[list[int]]:
        """The numbers of the labelled samples, step by step."""
        return [batch.labels.tolist() for batch in self.seen]

    def distilled(self) -> list[list[int]]:
        """The numbers of the distilled samples, step by step, where targets are those of `own_numbers`."""
        return [[] if batch.teacher is None else batch.teacher[:, 0].int().tolist() for batch in self.seen]


def own_numbers(m: int) -> Tensor:
    """(m, classes) targets, each holding the number of its sample."""
    return torch.arange(float(m)).unsqueeze(1).expand(m, CLASSES)


def flat(steps: list[list[int]]) -> list[int]:
    return [number for step in steps for number in step]


class TestOptimisers:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_sgd_takes_the_steps_of_torch_optim(self, settings: dict[str, Any]) -> None:
        ours, theirs = model(), model()
        parameters = list(ours.parameters())
        optimiser = make_optimiser(parameters, Optimisation(lr=0.3, **settings))
        reference = torch.optim.SGD(theirs.parameters(), lr=0.3, **settings)
        rng = stream("sgd")
        for _ in range(6):
            x, y = torch.rand(5, *SHAPE, generator=rng), torch.randint(CLASSES, (5,), generator=rng)
            optimiser.step(torch.autograd.grad(cross_entropy(ours(x), y), parameters))
            reference.zero_grad()
            cross_entropy(theirs(x), y).backward()  # type: ignore[no-untyped-call]
            reference.step()
            assert distance(weights(ours), weights(theirs)) <= 1e-6
        assert distance(weights(ours), weights(model())) > 0.01

    @pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
    def test_adam_takes_the_steps_of_torch_optim(self, name: Any, kind: type[torch.optim.Adam]) -> None:
        ours, theirs = model(), model()
        parameters = list(ours.parameters())
        optimiser = make_optimiser(parameters, Optimisation(optimizer=name, lr=0.01, weight_decay=0.1))
        reference = kind(theirs.parameters(), lr=0.01, weight_decay=0.1)
        rng = stream("adam")
        for _ in range(4):
            x, y = torch.rand(5, *SHAPE, generator=rng), torch.randint(CLASSES, (5,), generator=rng)
            optimiser.step(torch.autograd.grad(cross_entropy(ours(x), y), parameters))
            reference.zero_grad()
            cross_entropy(theirs(x), y).backward()  # type: ignore[no-untyped-call]
            reference.step()
        assert distance(weights(ours), weights(theirs)) <= 1e-6

    def test_momentum_starts_afresh_each_round(self) -> None:
        # Two steps with momentum in one round differ from one step in each of two rounds, which are plain steps.
        moving, resting = numbered(4, 4, momentum=0.9), numbered(4, 4, momentum=0.9)
        plain = numbered(4, 4)
        fit(moving, Fit(Probe(), steps=2, first=0))
        for first in range(2):
            fit(resting, Fit(Probe(), steps=1, first=first))
        fit(plain, Fit(Probe(), steps=2, first=0))
        assert same_weights(weights(resting.student), weights(plain.student))
        assert not same_weights(weights(moving.student), weights(plain.student))


class TestBatches:
    @pytest.mark.parametrize(("n", "batch"), [(10, 4), (12, 4), (7, 3), (5, 5), (3, 8), (1, 4), (9, 1)])
    def test_every_pass_covers_every_sample_once(self, n: int, batch: int) -> None:
        probe = Probe()
        fit(numbered(n, 3, batch_size=batch), Fit(probe, steps=4 * n, first=0))
        sizes = {len(step) for step in probe.labels()}
        assert sizes == {min(batch, n)}
        order = flat(probe.labels())
        passes = [order[start : start + n] for start in range(0, len(order) - n + 1, n)]
        assert len(passes) >= 4
        assert all(sorted(part) == list(range(n)) for part in passes)
        if n > 4:
            assert len({tuple(part) for part in passes}) > 1, "passes are reshuffled"

    @pytest.mark.parametrize(("n", "m", "batch"), [(10, 7, 4), (3, 11, 8), (5, 5, 5)])
    def test_consecutive_rounds_continue_the_sequence(self, n: int, m: int, batch: int) -> None:
        target, whole, parts = Target(own_numbers(m)), Probe(), Probe()
        steps = Training(batch_size=batch, epochs=2).steps_a_round(n)
        fit(numbered(n, m, batch_size=batch), Fit(whole, target, steps=3 * steps, first=0))
        for round in (1, 2, 3):
            fit(numbered(n, m, batch_size=batch, epochs=2, round=round), Fit(parts, target))
        assert parts.labels() == whole.labels()
        assert parts.distilled() == whole.distilled()

    def test_transfer_batches_cycle_while_private_ones_make_an_epoch(self) -> None:
        probe = Probe()
        fit(numbered(12, 3, batch_size=3), Fit(probe, Target(own_numbers(3))))
        assert sorted(flat(probe.labels())) == list(range(12))
        assert sorted(flat(probe.distilled())) == sorted([0, 1, 2] * 4)

    def test_a_round_is_so_many_epochs_or_steps(self) -> None:
        assert Training(batch_size=4).steps_a_round(10) == 3
        assert Training(batch_size=4, epochs=5).steps_a_round(10) == 15
        assert Training(batch_size=4, epochs=5, steps=2).steps_a_round(10) == 2
        assert Training(batch_size=40).steps_a_round(10) == 1

    def test_every_loss_sees_the_same_private_batches_whatever_else_it_needs(self) -> None:
        alone, distilling, labelled = Probe(), Probe(), Probe()
        fit(numbered(10, 7), Fit(alone))
        fit(numbered(10, 7), Fit(distilling, Target(own_numbers(7))))
        fit(numbered(10, 7, labelled=True), Fit(labelled))
        assert distilling.labels() == alone.labels()
        assert [step[:4] for step in labelled.labels()] == alone.labels()

    def test_every_loss_sees_the_same_transfer_batches_whatever_else_it_needs(self) -> None:
        with_labels, without = Probe(), Probe()
        fit(numbered(10, 7), Fit(with_labels, Target(own_numbers(7))))
        fit(numbered(10, 7), Fit(without, Target(own_numbers(7)), labels="none"))
        assert without.distilled() == with_labels.distilled()

    @pytest.mark.parametrize("change", [{"seed": 1}, {"id": 1}])
    def test_other_seeds_and_other_clients_draw_other_batches(self, change: dict[str, int]) -> None:
        one, other = Probe(), Probe()
        changed = numbered(10, 7)
        for name, value in change.items():
            setattr(changed, name, value)
        fit(numbered(10, 7), Fit(one))
        fit(changed, Fit(other))
        assert one.labels() != other.labels()

    def test_batches_do_not_depend_on_the_global_generator(self) -> None:
        before = torch.random.get_rng_state()
        one, other = Probe(), Probe()
        fit(numbered(10, 7), Fit(one))
        with torch.random.fork_rng():
            torch.manual_seed(12345)
            fit(numbered(10, 7), Fit(other))
        assert one.labels() == other.labels()
        assert torch.equal(torch.random.get_rng_state(), before)


class TestOneForwardPass:
    """Private and transfer samples go through the network together; each loss gets the logits that are its own."""

    @pytest.mark.parametrize("labelled", [False, True])
    @pytest.mark.parametrize(
        ("labels", "on"),
        [
            (labels, on)
            for labels in ("all", "private", "none")
            for on in ("transfer", "private", None)
            if labels != "none" or on
        ],
    )
    def test_a_loss_is_given_the_logits_of_the_samples_that_it_is_told(
        self, labelled: bool, labels: Labels, on: Any
    ) -> None:
        client = numbered(10, 7, labelled=labelled)
        distilled = client.private if on == "private" else client.public
        target = (
            None if on is None else Target(own_numbers(len(distilled)), own_numbers(len(distilled))[:, 0], distilled)
        )
        told: list[set[int]] = []

        def loss(batch: Batch) -> Tensor:
            student = client.student
            numbers = batch.labels.tolist()
            told.append(set(numbers))
            for logits, number in zip(batch.labelled, numbers, strict=labels != "none"):
                data = client.public if number >= 1000 else client.private
                torch.testing.assert_close(logits, student(data.x[number % 1000].unsqueeze(0))[0])
            if batch.student is None:
                assert on is None
                assert batch.teacher is None
                assert batch.weights is None
                return batch.labelled.sum()
            assert batch.teacher is not None
            assert batch.weights is not None
            which = batch.teacher[:, 0].int()
            torch.testing.assert_close(batch.student, student(distilled.x[which]))
            assert torch.equal(batch.weights, which.float())
            return batch.student.sum()

        fit(client, Fit(loss, target, labels=labels))
        assert len(told) == 3
        of_transfer = any(number >= 1000 for step in told for number in step)
        assert of_transfer == (labelled and labels == "all")
        assert any(number < 1000 for step in told for number in step) == (labels != "none")

    @pytest.mark.parametrize("labelled", [False, True])
    def test_one_pass_trains_like_two(self, labelled: bool) -> None:
        target = Target(torch.randn(14, CLASSES, generator=stream("target")))
        together, apart = node(labelled=labelled), node(labelled=labelled)
        fit(together, Fit(lambda batch: _ce(batch) + _kl(batch), target))

        # The same batches by their numbers, then one step at a time, with a forward pass for each kind.
        probe = Probe()
        fit(numbered(len(apart.private), 14, labelled=labelled), Fit(probe, Target(own_numbers(14))))
        parameters = list(apart.student.parameters())
        for own, common in zip(probe.labels(), probe.distilled(), strict=True):
            own = [number for number in own if number < 1000]
            x, soft = apart.public.x[common], target.logits[common]
            logits, labels = apart.student(apart.private.x[own]), _known(apart.private)[own]
            if labelled:
                logits = torch.cat([logits, apart.student(x)])
                labels = torch.cat([labels, _known(apart.public)[common]])
            loss = cross_entropy(logits, labels) + kl(apart.student(x), soft)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    parameter.sub_(gradient, alpha=0.1)
        assert distance(weights(together.student), weights(apart.student)) <= 1e-6
        assert distance(weights(together.student), weights(model())) > 0.01

    def test_a_mask_of_weights_takes_the_share_of_the_subset_that_it_leaves(self) -> None:
        # Weights that are 0 or 1: the others add nothing, and those that are left count no more for it.
        teacher, mask = torch.randn(8, CLASSES, generator=stream("t")), (torch.arange(8) % 3 == 0).float()
        weighted, subset = numbered(8, 8, batch_size=8), numbered(8, 3, batch_size=8)
        subset.transfer = Data(weighted.public.x[mask.bool()], None)
        fit(weighted, Fit(_kl, Target(teacher, mask), labels="none", steps=1))
        fit(subset, Fit(lambda batch: _kl(batch) * 3 / 8, Target(teacher[mask.bool()]), labels="none", steps=1))
        assert distance(weights(weighted.student), weights(subset.student)) <= 1e-6
        assert distance(weights(weighted.student), weights(model())) > 1e-3


class TestWork:
    @pytest.mark.parametrize(
        ("labels", "distil"), [("all", False), ("all", True), ("private", False), ("private", True), ("none", True)]
    )
    @pytest.mark.parametrize("labelled", [False, True])
    def test_steps_are_equal_and_samples_are_those_that_went_through(
        self, labels: Labels, distil: bool, labelled: bool
    ) -> None:
        client = numbered(10, 7, labelled=labelled)
        fit(client, Fit(Probe(), Target(own_numbers(7)) if distil else None, labels=labels))
        own = labels != "none"
        common = distil or (labels == "all" and labelled)
        assert client.steps == 3
        assert client.samples == 3 * 4 * (own + common)

    def test_the_mean_loss_over_the_steps_is_returned(self) -> None:
        values = iter([1.0, 2.0, 6.0])
        assert float(fit(numbered(10, 7), Fit(lambda batch: batch.labelled.sum() * 0 + next(values)))) == 3.0

    def test_no_steps_are_no_training(self) -> None:
        client = numbered(10, 7)
        before = weights(client.student)
        fit(client, Fit(Probe(), steps=0))
        assert same_weights(weights(client.student), before)
        assert client.steps == client.samples == 0

    def test_predictions_on_the_transfer_set_are_forgotten_when_the_student_has_changed(self) -> None:
        client = node()
        before = client.transfer_logits()
        assert client.transfer_logits() is before
        fit(client, Fit(_ce, steps=1, first=0))
        after = client.transfer_logits()
        torch.testing.assert_close(after, client.student(client.public.x).detach())
        assert not torch.allclose(after, before)


class TestRemembered:
    """Predictions on the transfer set are computed once for equal weights, whoever changes these."""

    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    @pytest.mark.parametrize("spec", [small.MODEL, 'resnet8(norm="batch")'])
    def test_training_changes_them(self, optimizer: Any, spec: str) -> None:
        client = node(training=Training(lr=0.1, batch_size=4, optimizer=optimizer, momentum=0.0))
        shape = SHAPE if spec == small.MODEL else (1, 8, 8)
        client.transfer = Data(torch.rand(6, *shape, generator=stream("r")), None)
        client.data = Data(torch.rand(8, *shape, generator=stream("p")), torch.arange(8) % CLASSES)
        client.models["student"] = build_model(spec, shape, CLASSES, 0, "r")
        before = client.transfer_logits()
        assert client.transfer_logits() is before
        fit(client, Fit(_ce, steps=1, first=0))
        assert not torch.equal(client.transfer_logits(), before)
        assert torch.equal(client.transfer_logits(), client.predict(client.public.x))

    def test_so_do_other_weights_another_student_and_other_samples(self) -> None:
        client, other = node(), model(5)
        known = client.transfer_logits()
        client.student.load_state_dict(other.state_dict())
        loaded = client.transfer_logits()
        assert not torch.equal(loaded, known)
        client.models["student"] = model(6)
        assert not torch.equal(client.transfer_logits(), loaded)
        client.transfer = Data(client.public.x[:5], None)
        assert len(client.transfer_logits()) == 5

    def test_running_statistics_count(self) -> None:
        client = node()
        client.transfer = Data(torch.rand(6, 1, 8, 8, generator=stream("r")), None)
        client.models["student"] = build_model('resnet8(norm="batch")', (1, 8, 8), CLASSES, 0, "r")
        known = client.transfer_logits()
        with torch.no_grad():
            client.student.train()(client.public.x)
        assert not torch.equal(client.transfer_logits(), known)

    def test_what_was_remembered_of_a_student_is_not_another_s(self) -> None:
        client = node()
        known = client.transfer_logits()
        view = replace(client, models={"student": model(7)})
        assert not torch.equal(view.transfer_logits(), known)
        assert client.transfer_logits() is known


@pytest.mark.parametrize("spec", ["local", "kd", "dml"])
def test_without_labels_on_the_transfer_set_no_transfer_label_reaches_a_loss(spec: str) -> None:
    client = numbered(10, 7)
    probe = Probe()
    fit(client, Fit(probe, Target(own_numbers(7)), labels=METHODS.build(spec).labels))
    assert sorted(set(flat(probe.labels()))) == list(range(10))
    assert all(len(batch.labelled) == len(batch.labels) == 4 for batch in probe.seen)


def _ce(batch: Batch) -> Tensor:
    return cross_entropy(batch.labelled, batch.labels)


def _kl(batch: Batch) -> Tensor:
    assert batch.student is not None
    assert batch.teacher is not None
    return kl(batch.student, batch.teacher, weights=batch.weights)


def _known(data: Data) -> Tensor:
    assert data.y is not None
    return data.y

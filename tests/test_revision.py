"""Label revision: its margin, what it leaves alone, both loss forms, and where labels must be known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.distillation.revision import REVISIONS, revised_by_mse, towards_labels
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS
from fedkd.node.node import Node
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch
from tests.small import (
    LABELLED,
    UNLABELLED,
    distance,
    distilling,
    drawn,
    federate,
    node,
    same_outcome,
    same_weights,
    server,
    small,
)
from tests.small import own_cache as own_cache

seeds = st.integers(0, 2**32 - 1)
etas = st.floats(0.0, 0.99)


def predictions(seed: int, n: int = 12, classes: int = 5, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """(n, classes) logits, and (n,) labels of which about one in five is the arg max."""
    rng = stream("revision", seed)
    return torch.randn(n, classes, generator=rng) * scale, torch.randint(classes, (n,), generator=rng)


class TestLabels:
    @drawn
    @given(seeds, etas)
    def test_wrong_samples_are_led_by_their_label_by_exactly_one_minus_eta(self, seed: int, eta: float) -> None:
        logits, labels = predictions(seed)
        revised, wrong = towards_labels(logits.double(), labels, eta)
        assert torch.equal(wrong, logits.argmax(1) != labels)
        p = revised.softmax(1)
        rows = torch.arange(len(p))
        margin = p[rows, labels] - p[rows, logits.argmax(1)]
        torch.testing.assert_close(margin[wrong], torch.full_like(margin[wrong], 1 - eta))
        torch.testing.assert_close(p.sum(1), torch.ones_like(p[:, 0]))
        assert torch.equal(revised[~wrong], logits.double()[~wrong])

    @drawn
    @given(seeds, etas)
    def test_it_is_the_mixture_that_a_loop_makes(self, seed: int, eta: float) -> None:
        logits, labels = predictions(seed)
        revised, _ = towards_labels(logits, labels, eta)
        for row, label, found in zip(
            logits.numpy().astype(np.float64), labels.tolist(), revised.softmax(1), strict=True
        ):
            p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            if p.argmax() != label:
                beta = eta / (p.max() - p[label] + 1)
                p = beta * p + (1 - beta) * np.eye(len(p))[label]
            np.testing.assert_allclose(found.numpy(), p, atol=2e-6)

    def test_the_most_confident_mistake_has_finite_logits(self) -> None:
        logits = torch.tensor([[1000.0, 0.0, -1000.0]])
        for eta in (0.0, 0.8):
            revised, wrong = towards_labels(logits, torch.tensor([2]), eta)
            assert wrong.all()
            assert revised.isfinite().all()
            p = revised.softmax(1)[0]
            assert float(p[2] - p[0]) == pytest.approx(1 - eta, abs=1e-6)

    def test_the_temperature_comes_afterwards(self) -> None:
        # A revised prediction is softened like any other: softmax(log p / T), which keeps the order of classes.
        logits, labels = predictions(3)
        revised, wrong = towards_labels(logits, labels, 0.8)
        soft = (revised / 4).softmax(1)
        assert torch.equal(soft.argmax(1), labels.where(wrong, logits.argmax(1)))
        p = revised.softmax(1).pow(1 / 4)
        torch.testing.assert_close(soft, p / p.sum(1, keepdim=True))

    @pytest.mark.parametrize("bad", ["eta=1.0", "eta=-0.1", 'form="ce"', 'form="mse", per_teacher=true'])
    def test_bad_parameters_are_refused(self, bad: str) -> None:
        with pytest.raises(UserError, match="labels"):
            REVISIONS.build(f"labels({bad})")


class TestMseForm:
    @pytest.mark.parametrize("weighted", [False, True])
    def test_it_is_a_loop_over_samples(self, weighted: bool) -> None:
        teacher, labels = predictions(1)
        student, _ = predictions(2)
        teacher, revised = towards_labels(teacher, labels, 0.8)
        own, own_labels = predictions(4, n=3)
        weights = (torch.arange(12) % 3 > 0).float() if weighted else None
        batch = Batch(
            node(), torch.cat([own, student]), torch.cat([own_labels, labels]), student, teacher, weights, revised, True
        )
        ce = [float(-own[i].log_softmax(0)[own_labels[i]]) for i in range(3)]
        rest = []
        for i in range(12):
            counts = 1.0 if weights is None else float(weights[i])
            truth = float(-student[i].log_softmax(0)[labels[i]])
            if revised[i]:
                rest.append(counts * float((student[i].softmax(0) - teacher[i].softmax(0)).square().mean()))
                ce.append((1 - counts) * truth)
            else:
                rest.append(counts * 4 * float((student[i] - teacher[i]).square().mean()))
                ce.append(truth)
        assert revised.any()
        assert not revised.all()
        assert float(revised_by_mse(batch)) == pytest.approx(sum(ce) / 15 + sum(rest) / 12, rel=1e-5)

    def test_it_runs_in_a_federation(self) -> None:
        plain, mse = (
            federate(small(f"kd(revise='{spec}')", transfer=LABELLED))
            for spec in ("labels(eta=0.8)", 'labels(eta=0.8, form="mse")')
        )
        assert distance(plain.final(0), mse.final(0)) > 1e-3

    @pytest.mark.parametrize("inside", ["weight=0.9", "temperature=4.0", "objective='js'", "merge_by='probabilities'"])
    def test_what_it_does_not_read_is_not_given(self, inside: str) -> None:
        with pytest.raises(UserError, match="mse"):
            METHODS.build(f"kd(revise='labels(form=\"mse\")', {inside})")

    def test_there_is_nothing_to_tune(self) -> None:
        with pytest.raises(UserError, match="without temperature, weight"):
            check("tuned_kd(temperatures=[1.0, 2.0], weights=[0.5], revise='labels(form=\"mse\")')")

    def test_it_needs_whole_logits_under_a_search_too(self) -> None:
        with pytest.raises(UserError, match=r"compares logits.*wire='top\(3\)'"):
            check("tuned_kd(temperatures=[1.0], weights=[0.5], revise='labels(form=\"mse\")', wire='top(3)')")

    @pytest.mark.parametrize("method", ["dml", "dp_kd"])
    def test_only_kd_has_it(self, method: str) -> None:
        with pytest.raises(UserError, match=r"loss of its own, which only kd"):
            check(f"{method}(revise='labels(form=\"mse\")')")


def check(spec: str, labelled: bool = True) -> None:
    """What is checked when a recipe is read."""
    METHODS.build(spec).check(small(spec, transfer=LABELLED if labelled else UNLABELLED), labelled)


EVERY = pytest.mark.parametrize("spec", ["kd{}", "kd(temperature=4.0, weight=1.0{})", "dml{}", "dp_kd{}"])


def with_revision(spec: str, revise: str = "labels(eta=0.8)") -> str:
    """The spec with one more parameter."""
    inside = f"revise='{revise}'"
    return spec.format(f", {inside}") if "(" in spec else spec.format(f"({inside})")


class TestMethods:
    @EVERY
    def test_unlabelled_samples_cannot_be_revised(self, spec: str) -> None:
        with pytest.raises(UserError, match=r"revise.*unlabelled.*labelled=true"):
            check(with_revision(spec), labelled=False)
        check(with_revision(spec))

    @EVERY
    def test_a_perfect_teacher_leaves_nothing_to_revise(self, spec: str) -> None:
        method = distilling(with_revision(spec))
        plain = METHODS.build(spec.format(""))
        outcome = []
        for each in (method, plain):
            client = labelled_node()
            each.setup(client)
            truth = torch.nn.functional.one_hot(labels_of(client), 3).float() * 5
            each.learn(client, Knowledge(logits=truth.half()))
            outcome.append(client.student.state_dict())
        assert same_weights(*outcome)

    @EVERY
    def test_a_wrong_teacher_is_revised(self, spec: str) -> None:
        plain, revised = (federate(small(each, transfer=LABELLED)) for each in (spec.format(""), with_revision(spec)))
        assert distance(plain.final(0), revised.final(0)) > 1e-4
        assert 0 < revised.rows[1, 0, "transfer", "revised"] < 1

    def test_the_target_is_the_revised_merge(self) -> None:
        method = distilling('kd(revise="labels(eta=0.6)")')
        client = labelled_node()
        logits = torch.randn(1, 14, 3, generator=stream("target"))
        target = method.target(client, logits)
        assert target is not None
        expected, wrong = towards_labels(logits[0], labels_of(client), 0.6)
        assert torch.equal(target.logits, expected)
        assert target.revised is not None
        assert torch.equal(target.revised, wrong)

    def test_each_teacher_may_be_revised_before_they_are_merged(self) -> None:
        method = distilling('kd(wire="float32", revise="labels(eta=0.6, per_teacher=true)")')
        clients, at = [labelled_node(each) for each in range(3)], server(labelled=True)
        logits = {each.id: torch.randn(14, 3, generator=stream("said", each.id)) for each in clients}
        sent = method.merge(at, {client: Knowledge(logits=said) for client, said in logits.items()})
        labels = labels_of(clients[0])
        assert torch.equal(sent[0]["logits"], torch.stack([logits[1], logits[2]])), "the client hears each"
        target = method.target(clients[0], clients[0].predictions(sent[0]))
        assert target is not None
        revised = [towards_labels(logits[each], labels, 0.6) for each in (1, 2)]
        torch.testing.assert_close(target.logits, torch.stack([z for z, _ in revised]).mean(0))
        assert target.revised is not None
        assert torch.equal(target.revised, revised[0][1] | revised[1][1])
        assert torch.equal(target.unrevised, (logits[1] + logits[2]) / 2)

    def test_dp_kd_compares_what_was_said_and_learns_what_was_revised(self) -> None:
        revised, plain = (distilling(f"dp_kd({inside})") for inside in ('revise="labels(eta=0.8)"', ""))
        client = labelled_node()
        plain.setup(client)
        teacher = torch.randn(1, 14, 3, generator=stream("said")) * 0.5
        with_revision, without = (each.target(client, teacher) for each in (revised, plain))
        assert with_revision is not None
        assert without is not None
        from_teacher = (without.logits == teacher[0]).all(1)
        assert from_teacher.any()
        assert not from_teacher.all()
        expected = towards_labels(teacher[0], labels_of(client), 0.8)[0]
        assert torch.equal(with_revision.logits[from_teacher], expected[from_teacher])
        assert torch.equal(with_revision.logits[~from_teacher], without.logits[~from_teacher])
        assert with_revision.revised is not None
        wrong = teacher[0].argmax(1) != labels_of(client)
        assert torch.equal(with_revision.revised, wrong & from_teacher), "its own past is nobody's mistake"
        assert torch.equal(with_revision.unrevised, without.logits)
        with pytest.raises(UserError, match="per_teacher"):
            check('dp_kd(revise="labels(per_teacher=true)")')

    def test_models_that_travel_teach_on_labelled_samples(self) -> None:
        client = labelled_node()
        client.transfer = None
        method = distilling('kd(revise="labels(eta=0.8)")')
        logits = torch.randn(1, len(client.private), 3, generator=stream("private"))
        target = method.target(client, logits)
        assert target is not None
        assert target.is_private(client)
        labels = client.private.y
        assert labels is not None
        assert torch.equal(target.logits, towards_labels(logits[0], labels, 0.8)[0])

    def test_tuned_kd_tunes_the_revised_kd(self) -> None:
        inside = "temperatures=[1.0], weights=[0.5], rounds=1"
        tuned = federate(small(f"tuned_kd({inside}, revise='labels(eta=0.8)')", transfer=LABELLED))
        plain = federate(small("kd(revise='labels(eta=0.8)')", transfer=LABELLED))
        assert same_weights(tuned.final(0), plain.final(0))

    def test_without_revision_nothing_is_another(self) -> None:
        outcomes = [federate(small(spec, transfer=LABELLED)) for spec in ("kd", 'kd(revise="")')]
        assert same_outcome(*outcomes)
        assert ("transfer", "revised") not in {key[2:] for key in outcomes[0].rows}

    def test_it_helps_against_a_teacher_that_confuses_two_classes(self) -> None:
        # All that the teacher says of class 0 is class 1, with much confidence; the labels know better.
        found = []
        for spec in ("kd(weight=0.9)", 'kd(weight=0.9, revise="labels(eta=0.5)")'):
            client, method = labelled_node(), METHODS.build(spec)
            said = labels_of(client).clone()
            said[said == 0] = 1
            lies = Knowledge(logits=(torch.nn.functional.one_hot(said, 3) * 6).half())
            for client.round in range(1, 30):
                method.learn(client, lies)
            right = client.predict(client.public.x).argmax(1) == labels_of(client)
            found.append(float(right.double().mean()))
        assert found[1] > found[0] + 0.1
        assert math.isclose(found[1], 1.0, abs_tol=0.15)


def labelled_node(client: int = 0) -> Node:
    """A client with a labelled transfer set."""
    return node(client, labelled=True)


def labels_of(client: Node) -> Tensor:
    """(n,) labels of its transfer set."""
    public: Data = client.public
    assert public.y is not None
    return public.y

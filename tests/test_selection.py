"""Which samples are distilled: each selection by its rule, influence against retraining, and what the rest learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.distillation.selection import SELECTIONS
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS, Method
from fedkd.node.node import Node
from fedkd.tensors.losses import kl
from fedkd.tensors.ranking import highest
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch, Target
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
    samples,
    small,
)
from tests.small import own_cache as own_cache


def labelled_node() -> tuple[Node, Tensor]:
    """A client with a labelled transfer set of 14 samples, and their labels."""
    client = node(labelled=True)
    assert client.public.y is not None
    return client, client.public.y


def mask(select: str, client: Node, logits: Tensor, method: str = "kd") -> Tensor:
    """Which samples a selection keeps."""
    return SELECTIONS.build(select).mask(client, Target(logits), METHODS.build(method).loss)


class TestHighest:
    @drawn
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.floats(0.01, 1.0))
    def test_it_keeps_the_floor_of_the_share_and_the_first_of_ties(self, scores: list[int], keep: float) -> None:
        kept = highest(torch.tensor(scores, dtype=torch.float64), keep)
        number = max(1, int(np.floor(round(keep * len(scores), 6))))
        assert len(kept) == number
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        assert sorted(order[:number]) == kept.tolist()

    def test_seven_of_ten_are_seven(self) -> None:
        assert highest(torch.arange(10.0), 0.7).tolist() == list(range(3, 10))


class TestControls:
    def test_random_keeps_other_samples_in_each_round_and_for_each_client(self) -> None:
        client, _ = labelled_node()
        logits = torch.zeros(14, 3)
        first = mask("random(keep=0.5)", client, logits)
        assert int(first.sum()) == 7
        assert torch.equal(first, mask("random(keep=0.5)", client, logits))
        client.round = 2
        assert not torch.equal(first, mask("random(keep=0.5)", client, logits))
        assert not torch.equal(first, mask("random(keep=0.5)", node(1, labelled=True), logits))

    def test_what_was_selected_holds_for_as_many_rounds_as_asked_for(self) -> None:
        client, _ = labelled_node()
        kept = []
        for client.round in range(1, 7):
            kept.append(mask("random(keep=0.5, every=3)", client, torch.zeros(14, 3)))
        assert torch.equal(kept[0], kept[1])
        assert torch.equal(kept[0], kept[2])
        assert not torch.equal(kept[2], kept[3])
        assert torch.equal(kept[3], kept[5])

    def test_confidence_keeps_the_surest(self) -> None:
        client, _ = labelled_node()
        logits = torch.randn(14, 3, generator=stream("sure"))
        kept = mask("confidence(keep=0.5)", client, logits)
        sure = logits.softmax(1).amax(1)
        assert float(sure[kept].min()) >= float(sure[~kept].max())

    def test_teacher_correct_keeps_what_the_teacher_knew_before_it_was_revised(self) -> None:
        client, labels = labelled_node()
        logits = torch.randn(14, 3, generator=stream("sure"))
        right = logits.argmax(1) == labels
        assert torch.equal(mask("teacher_correct", client, logits), right)
        method = distilling('kd(revise="labels", select="teacher_correct")')
        target = method.target(client, logits.unsqueeze(0))
        assert target is not None
        assert target.weights is not None
        assert torch.equal(target.weights.bool(), right)

    @pytest.mark.parametrize("revise", ["labels(eta=0.2)", "labels(eta=0.2, per_teacher=true)"])
    @pytest.mark.parametrize("select", ["teacher_correct", "confidence(keep=0.5)"])
    def test_a_revision_does_not_change_what_the_teacher_is_taken_for(self, select: str, revise: str) -> None:
        client, labels = labelled_node()
        logits = torch.randn(14, 3, generator=stream("sure"))
        kept = mask(select, client, logits)
        method = distilling(f"kd(revise='{revise}', select='{select}')")
        target = method.target(client, logits.unsqueeze(0))
        assert target is not None
        assert target.weights is not None
        assert torch.equal(target.weights.bool(), kept)
        wrong = logits.argmax(1) != labels
        told = {name: value for (_, name), value in client.records.items()}
        assert told == pytest.approx(
            {
                "selected": float(kept.double().mean()),
                "revised": float(wrong.double().mean()),
                "teacher_wrong": float(wrong.double().mean()),
                "selected_wrong": float((wrong & kept).double().mean()),
            }
        )

    def test_with_a_perfect_teacher_teacher_correct_is_none(self) -> None:
        outcome = []
        for spec in ("kd", 'kd(select="teacher_correct")', 'kd(select="teacher_correct", revise="labels(eta=0.5)")'):
            client, labels = labelled_node()
            METHODS.build(spec).learn(client, Knowledge(logits=(one_hot(labels, 3) * 5.0).half()))
            outcome.append(client.student.state_dict())
        assert distance(outcome[0], outcome[1]) <= 1e-6
        assert same_weights(outcome[1], outcome[2])

    def test_keeping_all_is_not_selecting(self) -> None:
        whole, plain = (federate(small(spec, transfer=LABELLED)) for spec in ('kd(select="random(keep=1.0)")', "kd"))
        assert distance(whole.final(0), plain.final(0)) <= 1e-6


class TestTheRest:
    """What is not distilled learns from ground truth, where there is any."""

    @pytest.mark.parametrize("spec", ["kd(temperature=2.0, weight=0.3{})", "kd(weight=1.0{})", "dp_kd({})", "dml({})"])
    def test_the_loss_is_a_loop_over_samples(self, spec: str) -> None:
        method = distilling(spec.format(', select="random(keep=0.5)"' if "=" in spec else 'select="random"'))
        rng = stream("rest")
        student, teacher = torch.randn(6, 3, generator=rng), torch.randn(6, 3, generator=rng)
        own = torch.randn(4, 3, generator=rng)
        labels = torch.randint(3, (10,), generator=rng)
        weights = torch.tensor([1.0, 0, 0, 1, 1, 0])
        share = {"k": 0.3 if "0.3" in spec else 1.0, "d": 1.0}[spec[0]]
        temperature = 2.0 if "0.3" in spec else 1.0
        truth, distilled = [], []
        for row, label in zip(own, labels[:4], strict=True):
            ce = float(cross_entropy(row, label))
            truth.append(ce if spec.startswith("dml") else (1 - share) * ce)
        for row, soft, label, weight in zip(student, teacher, labels[4:], weights.tolist(), strict=True):
            ce = float(cross_entropy(row, label))
            p, q = ((z / temperature).log_softmax(0) for z in (soft, row))
            distilled.append(weight * temperature**2 * float((p.exp() * (p - q)).sum()))
            truth.append(ce if spec.startswith("dml") else ce * ((1 - share) if weight else 1.0))
        batch = Batch(node(clients=2), torch.cat([own, student]), labels, student, teacher, weights, known=True)
        scale = share if spec.startswith("kd") else 1.0
        assert float(method.loss(batch)) == pytest.approx(sum(truth) / 10 + scale * sum(distilled) / 6, rel=1e-5)

    def test_without_labels_the_rest_is_left_out(self) -> None:
        method = distilling('kd(weight=0.5, select="random(keep=0.5)")')
        rng = stream("rest")
        own, student, teacher = (torch.randn(5, 3, generator=rng) for _ in range(3))
        labels, weights = torch.randint(3, (5,), generator=rng), torch.tensor([1.0, 0, 1, 0, 0])
        found = method.loss(Batch(node(), own, labels, student, teacher, weights))
        chosen = weights.bool()
        expected = 0.5 * cross_entropy(own, labels) + 0.5 * kl(student[chosen], teacher[chosen]) * 2 / 5
        torch.testing.assert_close(found, expected)

    def test_all_methods_select_in_a_federation_and_say_how_many(self) -> None:
        for spec in ("kd", "dml", "dp_kd", "tuned_kd(temperatures=[1.0], weights=[0.5], rounds=1"):
            joint = ", " if "(" in spec else "("
            outcome = federate(small(f"{spec}{joint}select='influence(keep=0.5)')", transfer=LABELLED))
            plain = federate(small(spec + (")" if "(" in spec else ""), transfer=LABELLED))
            assert distance(outcome.final(0), plain.final(0)) > 1e-4, spec
            last = max(key[0] for key in outcome.rows)
            shares = [value for key, value in outcome.rows.items() if key[0] == last and key[3] == "selected"]
            assert shares == [0.5, 0.5], spec

    def test_a_private_transfer_selects_the_students_own_samples(self) -> None:
        client, _ = labelled_node()
        client.transfer = None
        labels = client.private.y
        assert labels is not None
        method = distilling('kd(select="teacher_correct")')
        logits = torch.randn(1, len(labels), 3, generator=stream("own"))
        target = method.target(client, logits)
        assert target is not None
        assert target.weights is not None
        assert torch.equal(target.weights.bool(), logits[0].argmax(1) == labels)


class TestInfluence:
    def test_planted_harm_ranks_below_planted_help(self) -> None:
        client, _ = labelled_node()
        client.transfer, client.val = samples(200, "planted"), samples(100, "held")
        labels = client.transfer.y
        assert labels is not None
        harmful = torch.arange(200) % 2 == 0
        said = torch.where(harmful, (labels + 1) % 3, labels)
        teacher = one_hot(said, 3) * 6.0
        for client.round in range(1, 20):  # a student that has learnt something
            METHODS.build("local").learn(client, Knowledge())
        best = mask("influence(keep=0.5)", client, teacher, "kd(weight=0.9)")
        worst = mask("influence(keep=0.5, sign=-1)", client, teacher, "kd(weight=0.9)")
        assert float((best & harmful).sum()) < 20
        assert float((worst & harmful).sum()) > 80

    def test_the_scores_look_at_labels_and_validation_and_not_at_the_test(self) -> None:
        client, labels = labelled_node()
        teacher = torch.randn(14, 3, generator=stream("teacher"))
        before = mask("influence(keep=0.5)", client, teacher)
        client.transfer = Data(client.public.x, labels.flip(0))
        assert not torch.equal(before, mask("influence(keep=0.5)", client, teacher))

    def test_a_head_that_is_not_linear_is_named(self) -> None:
        client, _ = labelled_node()
        client.student.head = nn.Sequential(client.student.head)  # type: ignore[assignment]
        with pytest.raises(UserError, match=r"head.*Sequential.*linear"):
            mask("influence", client, torch.zeros(14, 3))

    def test_a_client_without_validation_samples_is_named(self) -> None:
        client, _ = labelled_node()
        assert client.val is not None
        client.val = Data(client.val.x[:0], torch.empty(0, dtype=torch.int64))
        with pytest.raises(UserError, match="client 0 has no validation samples"):
            mask("influence", client, torch.zeros(14, 3))


class TestCheck:
    @pytest.mark.parametrize("select", ["influence", "teacher_correct"])
    def test_selections_that_read_labels_need_them(self, select: str) -> None:
        method: Method = METHODS.build(f"kd(select='{select}')")
        with pytest.raises(UserError, match=r"select.*unlabelled.*labelled=true"):
            method.check(small(f"kd(select='{select}')"), False)
        method.check(small(f"kd(select='{select}')", transfer=LABELLED), True)

    def test_others_do_without(self) -> None:
        for select in ("random(keep=0.5)", "confidence(keep=0.5)"):
            outcome = federate(small(f"kd(select='{select}')", transfer=UNLABELLED))
            assert outcome.rows[1, 0, "transfer", "selected"] == 0.5

    def test_influence_needs_validation_samples_of_the_client(self) -> None:
        spec = "kd(select='influence')"
        with pytest.raises(UserError, match=r'select.*val = "common".*val = "local"'):
            METHODS.build(spec).check(small(spec, transfer=LABELLED, val="common"), True)

    def test_dp_kd_with_teachers_in_turn_selects_anew_for_each(self) -> None:
        spec = "dp_kd(form='sequential', select='random(keep=0.5, every=2)')"
        with pytest.raises(UserError, match="every=1"):
            METHODS.build(spec).check(small(spec, transfer=LABELLED), True)
        federate(small("dp_kd(form='sequential', select='random(keep=0.5)')", clients=3, transfer=LABELLED))

    @pytest.mark.parametrize("mode", ["order='alternating'", "sync='step'"])
    def test_dml_in_turns_selects_anew_for_each(self, mode: str) -> None:
        spec = f"dml({mode}, select='random(keep=0.5, every=2)')"
        with pytest.raises(UserError, match="every=1"):
            METHODS.build(spec).check(small(spec, transfer=LABELLED), True)

    @pytest.mark.parametrize("bad", ["random(keep=0.0)", "random(keep=1.1)", "influence(sign=2)", "influence(every=0)"])
    def test_bad_parameters_are_refused(self, bad: str) -> None:
        with pytest.raises(UserError, match=bad.split("(")[0]):
            SELECTIONS.build(bad)

    def test_unknown_names_are_told(self) -> None:
        with pytest.raises(UserError, match="influence"):
            METHODS.build("kd(select='influenc')").check(small("kd"), True)

    def test_an_exchange_asked_for_twice_selects_the_same(self) -> None:
        spec = "kd(select='influence(keep=0.5, every=2)')"
        once, twice = (federate(small(spec, rounds=3, transfer=LABELLED), twice=again) for again in (False, True))
        assert same_outcome(once, twice)

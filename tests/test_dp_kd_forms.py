"""Data-partitioning KD with several teachers: their order, three forms against loops over steps, the turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.knowledge.knowledge import Knowledge
from fedkd.methods.dp_kd import DPKD, turns
from fedkd.node.node import Node
from fedkd.settings.training import Training
from fedkd.tensors.evaluate import accuracy
from fedkd.tensors.samples import Data
from tests.small import (
    CLASSES,
    LABELLED,
    MODEL,
    TRAINING,
    Weights,
    distance,
    drawn,
    federate,
    model,
    node,
    same_knowledge,
    same_weights,
    server,
    small,
    weights,
)
from tests.small import own_cache as own_cache
from tests.test_dp_kd import FORMS, MASKS, SEVERAL, learnt, logits, private


class TestOrder:
    """Sequential teachers come by their own validation accuracy, which travels with their reports."""

    def test_a_score_is_the_accuracy_on_the_clients_own_validation_samples(self) -> None:
        outcome = federate(small("dp_kd(form='sequential')", clients=3))
        scores = [float(outcome.reports[0][client]["score"]) for client in range(3)]
        assert scores == [outcome.rows[0, client, "val", "accuracy"] for client in range(3)]
        assert len(set(scores)) > 1

    def test_a_client_without_validation_samples_scores_nothing(self) -> None:
        method, client = DPKD(form="sequential"), node()
        assert client.val is not None
        for val in (None, Data(client.val.x[:0], torch.empty(0, dtype=torch.int64)), Data(client.val.x, None)):
            client.val = val
            report = method.report(client)
            assert report is not None
            assert float(report["score"]) == 0

    @pytest.mark.parametrize(
        ("order", "scores", "expected"),
        [
            ("desc", [0.5, 0.1, 0.9, 0.5, 0.9], {0: [2, 4, 3, 1], 2: [4, 0, 3, 1], 4: [2, 0, 3, 1]}),
            ("asc", [0.5, 0.1, 0.9, 0.5, 0.9], {0: [1, 3, 2, 4], 2: [1, 0, 3, 4], 4: [1, 0, 3, 2]}),
            ("desc", [0.7] * 5, {0: [1, 2, 3, 4], 3: [0, 1, 2, 4]}),
            ("asc", [0.7] * 5, {0: [1, 2, 3, 4], 3: [0, 1, 2, 4]}),
            ("desc", [0.3, 0.3, 0.1 + 0.2, 0.3, 0.1 + 0.2], {0: [1, 2, 3, 4], 3: [0, 1, 2, 4]}),
        ],
    )
    def test_the_best_or_the_worst_come_first_and_of_equals_the_lowest_id(
        self, order: Any, scores: list[float], expected: dict[int, list[int]]
    ) -> None:
        method, at = DPKD(form="sequential", order=order), server(clients=5)
        # Every client reports its own number, so that a stack tells who is in it.
        said = {
            client: Knowledge(
                logits=torch.full((1, CLASSES), float(client)), score=torch.tensor(score, dtype=torch.float64)
            )
            for client, score in enumerate(scores)
        }
        for arrival in (said, dict(reversed(said.items()))):
            merged = method.merge(at, arrival)
            for student, teachers in expected.items():
                assert merged[student]["logits"][:, 0, 0].tolist() == teachers
                assert list(merged[student]) == ["logits"], "scores have done their work at the server"

    def test_the_order_changes_the_student_and_a_soup_has_none(self) -> None:
        one, other = (federate(small(f"dp_kd(form='sequential', order='{o}')", clients=3)) for o in ("desc", "asc"))
        assert distance(one.final(0), other.final(0)) > 1e-5
        one, other = (federate(small(f"dp_kd(form='soup', order='{order}')", clients=3)) for order in ("desc", "asc"))
        assert same_weights(one.final(0), other.final(0))
        assert list(one.reports[0][0]) == ["logits"]

    def test_teachers_may_be_few(self) -> None:
        outcome = federate(small("dp_kd(form='sequential', teachers='k(2)')", clients=5))
        said = {client: bag["logits"] for client, bag in outcome.reports[0].items()}
        for student, bag in outcome.knowledge[1].items():
            assert bag["logits"].shape == (2, 14, CLASSES)
            for sent in bag["logits"]:
                (teacher,) = [client for client, own in said.items() if torch.equal(own, sent)]
                assert teacher != student

    def test_common_validation_leaves_teachers_without_a_score(self) -> None:
        of = small("dp_kd", val="common")
        DPKD(form="soup").check(of, labelled=False)
        with pytest.raises(UserError, match='use val = "local"'):
            DPKD(form="sequential").check(of, labelled=False)


class TestForms:
    @SEVERAL
    @MASKS
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    def test_with_one_teacher_every_form_is_parallel_to_the_last_bit(
        self, form: str, mask: str, momentum: float
    ) -> None:
        settings: dict[str, Any] = {
            "clients": 3, "rounds": 3, "transfer": LABELLED, "train": replace(TRAINING, momentum=momentum)
        }  # fmt: skip
        for teachers in ("one(1)", "k(1)"):
            plain, other = (
                federate(small(f"dp_kd(form='{each}', mask='{mask}', teachers='{teachers}')", **settings))
                for each in ("parallel", form)
            )
            for client in range(3):
                for found, expected in zip(other.weights[client], plain.weights[client], strict=True):
                    assert same_weights(found, expected)
            assert distance(plain.final(0), plain.weights[0][0]) > 1e-3

    @SEVERAL
    def test_and_with_layers_that_count_batches_too(self, form: str) -> None:
        settings: dict[str, Any] = {
            "models": "resnet8(norm='batch')", "rounds": 2, "train": Training(lr=0.01, batch_size=4, steps=2)
        }  # fmt: skip
        plain, other = (federate(small(f"dp_kd(form='{each}')", **settings)) for each in ("parallel", form))
        assert any("running_mean" in name for name in plain.final(0))
        assert same_weights(other.final(0), plain.final(0))

    @FORMS
    def test_it_takes_the_steps_of_every_other_method(self, form: str) -> None:
        for train in (TRAINING, Training(batch_size=4, steps=2)):
            dp_kd, local = (
                federate(small(spec, clients=5, train=train, rounds=3)) for spec in (f"dp_kd(form='{form}')", "local")
            )
            for number in range(4):
                for client in range(5):
                    steps = dp_kd.rows[number, client, "", "steps"]
                    assert steps == local.rows[number, client, "", "steps"]
                    assert dp_kd.rows[number, client, "", "samples"] == steps * train.batch_size

    @pytest.mark.parametrize("clients", [2, 3, 5])
    def test_knowledge_grows_with_the_teachers(self, clients: int) -> None:
        def sent(form: str) -> list[int]:
            outcome = federate(small(f"dp_kd(form='{form}')", clients=clients))
            assert [bool(bags) for bags in outcome.knowledge] == [False, True, False], "and travels once"
            return [outcome.knowledge[1][client].nbytes for client in range(clients)]

        one = 14 * CLASSES * 2
        header = sent("parallel")[0] - one
        assert sent("parallel") == [header + one] * clients
        assert sent("sequential") == sent("soup") == [header + (clients - 1) * one] * clients

    @SEVERAL
    def test_a_students_teachers_are_the_others_alone(self, form: Any) -> None:
        method, at = DPKD(form=form), server(clients=4)
        nodes = [node(client, clients=4) for client in range(4)]
        said = {client.id: method.report(client) for client in nodes}
        reports = {client: bag for client, bag in said.items() if bag is not None}
        plain = method.merge(at, reports)
        for changed in range(4):
            other = reports | {changed: Knowledge({**reports[changed], "logits": reports[changed]["logits"] + 9})}
            merged = method.merge(at, other)
            for student in range(4):
                assert same_knowledge(merged[student], plain[student]) == (student == changed)

    @SEVERAL
    @MASKS
    @pytest.mark.parametrize("steps", [2, 3, 4, 7])
    def test_it_is_a_loop_over_teachers_steps_and_samples(self, form: Any, mask: Any, steps: int) -> None:
        client = node(labelled=True, training=Training(lr=0.3, batch_size=4, steps=steps))
        method = DPKD(mask=mask, form=form, wire="float32", temperature=2.0)
        method.setup(client)
        teachers = logits("teachers", teachers=3)
        expected = by_hand(client, teachers, form, mask, rounds=4)
        learnt(method, client, Knowledge(logits=teachers), rounds=4)
        assert distance(weights(client.student), expected) <= 1e-5
        for other in {"sequential", "soup"} - {form}:
            again = node(labelled=True, training=client.training)
            method.setup(again)
            assert distance(by_hand(again, teachers, other, mask, rounds=4), expected) > 1e-4

    def test_equal_teachers_one_after_the_other_are_one_teacher_on_the_same_batches(self) -> None:
        # Always surer than the student, so that the renewed past never speaks; SGD without momentum has no memory.
        sure = logits("sure") * 100
        one, several = node(), node()
        for client in (one, several):
            DPKD().setup(client)
        assert learnt(DPKD(), one, Knowledge(logits=sure), rounds=4) > 1e-3
        learnt(DPKD(form="sequential"), several, Knowledge(logits=torch.stack([sure] * 3)), rounds=4)
        assert same_weights(weights(one.student), weights(several.student))
        assert one.steps == several.steps

    def test_a_soup_is_the_mean_of_students_from_the_same_start_buffers_too(self) -> None:
        train = Training(lr=0.01, batch_size=4, steps=4)
        teachers = logits("teachers", teachers=2)

        def started() -> Node:
            client = node(training=train)
            client.models["student"] = model(3, "resnet8(norm='batch')")
            DPKD(wire="float32").setup(client)
            return client

        alone = []
        for teacher in range(2):
            # Two steps each: the first teacher's are those of a first round of two, the second's of a second.
            client = started()
            client.training, client.round = replace(train, steps=2), teacher + 1
            DPKD(wire="float32").learn(client, Knowledge(logits=teachers[teacher]))
            alone.append(weights(client.student))
        client = started()
        DPKD(wire="float32", form="soup").learn(client, Knowledge(logits=teachers))
        for name, found in weights(client.student).items():
            assert not torch.equal(alone[0][name], alone[1][name]) or "num_batches" in name
            torch.testing.assert_close(found, ((alone[0][name].double() + alone[1][name]) / 2).to(found.dtype))

    @FORMS
    def test_students_and_teachers_may_be_of_different_architectures(self, form: str) -> None:
        outcome = federate(small(f"dp_kd(form='{form}')", models=f"{MODEL}|cnn(width=4, hidden=8)", clients=3))
        assert outcome.final(0).keys() != outcome.final(1).keys()
        assert max(distance(outcome.final(client), outcome.weights[client][0]) for client in range(3)) > 1e-3

    @FORMS
    @MASKS
    def test_without_a_transfer_set_it_learns_from_models_on_its_own_samples(self, form: str, mask: str) -> None:
        models = f"{MODEL}|mlp(hidden=[5])"
        outcome = federate(
            small(f"dp_kd(form='{form}', mask='{mask}')", clients=3, transfer="private", models=models), private
        )
        for client in range(3):
            names = list(outcome.knowledge[1][client])
            assert not any("score" in name for name in names)
            told = list(dict.fromkeys(int(name.split("/")[1]) for name in names))
            assert sorted(told) == [teacher for teacher in range(3) if teacher != client]
            if form == "sequential":
                scores = [outcome.rows[0, teacher, "val", "accuracy"] for teacher in told]
                assert scores == sorted(scores, reverse=True)
        # A student is often the surest on what it was trained on, but not every one.
        assert max(distance(outcome.final(client), outcome.weights[client][0]) for client in range(3)) > 1e-3

    @FORMS
    @MASKS
    def test_without_a_transfer_set_ones_own_model_asks_for_no_change(self, form: str, mask: str) -> None:
        of = small(f"dp_kd(form='{form}', mask='{mask}', teachers='self')", transfer="private", rounds=3)
        outcome = federate(of, private)
        for client in range(2):
            assert distance(outcome.final(client), outcome.weights[client][0]) <= 1e-6

    @SEVERAL
    def test_a_repeated_exchange_gives_the_identical_reply(self, form: str) -> None:
        federate(small(f"dp_kd(form='{form}')", clients=3, rounds=3), twice=True)


class TestTurns:
    """How a round's steps go to the teachers."""

    @drawn
    @given(steps=st.integers(1, 20), teachers=st.integers(1, 7), round=st.integers(1, 9))
    def test_they_are_the_rounds_steps_one_after_the_other(self, steps: int, teachers: int, round: int) -> None:
        found = list(turns(node(round=round, training=Training(steps=steps)), teachers))
        assert sum(taken for _, taken, _ in found) == steps
        assert [teacher for teacher, *_ in found] == sorted({teacher for teacher, *_ in found})
        first = (round - 1) * steps
        for _, taken, begins in found:
            assert begins == first
            first += taken
        shares = [taken for _, taken, _ in found] + [0] * (teachers - len(found))
        assert max(shares) - min(shares) <= 1
        assert min(taken for _, taken, _ in found) >= 1

    @drawn
    @given(steps=st.integers(1, 20), teachers=st.integers(1, 7))
    def test_over_as_many_rounds_as_teachers_all_have_the_same(self, steps: int, teachers: int) -> None:
        total = [0] * teachers
        for round in range(1, teachers + 1):
            for teacher, taken, _ in turns(node(round=round, training=Training(steps=steps)), teachers):
                total[teacher] += taken
        assert total == [steps] * teachers

    def test_with_fewer_steps_than_teachers_the_next_ones_have_their_turn_in_the_next_round(self) -> None:
        found = [
            [teacher for teacher, *_ in turns(node(round=round, training=Training(steps=2)), 5)]
            for round in range(1, 7)
        ]
        assert found == [[0, 1], [2, 3], [0, 4], [1, 2], [3, 4], [0, 1]]

    def test_a_soup_of_few_steps_is_of_those_who_had_one(self) -> None:
        client = node(training=Training(lr=0.3, batch_size=4, steps=1))
        alone = node(training=client.training)
        teachers = logits("teachers", teachers=3)
        for each in (client, alone):
            DPKD().setup(each)
        DPKD(form="soup").learn(client, Knowledge(logits=teachers))
        DPKD().learn(alone, Knowledge(logits=teachers[0]))
        assert same_weights(weights(client.student), weights(alone.student))


def by_hand(client: Node, teachers: Tensor, form: str, mask: str, rounds: int) -> Weights:
    """Weights after some rounds of Roth et al.'s sequential transfer or soup at T = 2, written out.

    Leaves the client's own student as it is.
    """
    student, x, y = model(client.id), client.public.x, client.public.y
    assert y is not None
    n, size, steps, lr = len(x), client.training.batch_size, client.training.steps, client.training.lr
    passes = [torch.randperm(n, generator=client.rng("batches/transfer", part)) for part in range(rounds * steps)]
    endless = torch.cat(passes)
    with torch.no_grad():
        anchor = student(x)
    step = extra = 0
    for _ in range(rounds):
        shares = [steps // len(teachers)] * len(teachers)
        for _ in range(steps % len(teachers)):
            shares[extra % len(teachers)] += 1
            extra += 1
        begun, done = weights(student), []
        for share, teacher in zip(shares, teachers, strict=True):
            if not share:
                continue
            if form == "soup":
                student.load_state_dict(begun)
            target = anchor.clone()
            for sample in range(n):
                p_t, p_0 = teacher[sample].softmax(0), anchor[sample].softmax(0)
                label = int(y[sample])
                if (p_t[label] > p_0[label]) if mask == "supervised" else (p_t.max() > p_0.max()):
                    target[sample] = teacher[sample]
            for _ in range(share):
                batch = endless[step * size : (step + 1) * size]
                p, q = (target[batch] / 2).softmax(1), (student(x[batch]) / 2).softmax(1)
                loss = 4 * (p * (p.log() - q.log())).sum(1).mean()
                parameters = list(student.parameters())
                with torch.no_grad():
                    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                        parameter.sub_(lr * gradient)
                step += 1
            done.append(weights(student))
            if form == "sequential":
                with torch.no_grad():
                    anchor = student(x)
        if form == "soup":
            student.load_state_dict({name: torch.stack([each[name] for each in done]).mean(0) for name in begun})
    return weights(student)


def test_a_score_is_no_more_than_an_accuracy() -> None:
    client = node()
    assert client.val is not None
    assert client.val.y is not None
    report = DPKD(form="sequential").report(client)
    assert report is not None
    assert float(report["score"]) == accuracy(client.predict(client.val.x), client.val.y)

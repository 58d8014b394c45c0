"""The mathematics of methods: identities between them, limits, who teaches whom, and the search of tuned_kd."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.distillation.teachers import choose
from fedkd.knowledge.knowledge import Knowledge, over_the_wire
from fedkd.method import METHODS, Method
from fedkd.methods.kd import KD
from fedkd.node.moment import AT_START
from fedkd.node.node import Node
from fedkd.settings.training import Training
from fedkd.tensors.losses import OBJECTIVES, cross_entropy
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch
from tests.small import (
    CLASSES,
    LABELLED,
    TRAINING,
    UNLABELLED,
    cornered,
    distance,
    distilling,
    federate,
    node,
    preparing,
    same_knowledge,
    same_outcome,
    same_weights,
    server,
    small,
    start,
    weights,
)
from tests.small import own_cache as own_cache

BOTH = pytest.mark.parametrize("transfer", [UNLABELLED, LABELLED], ids=["unlabelled", "labelled"])
ONE_STEP = Training(lr=0.1, batch_size=4, steps=1)


def logits(*name: int | str, n: int = 14, teachers: int | None = None, scale: float = 2.0) -> Tensor:
    """Random logits (n, classes) or (teachers, n, classes), by name."""
    shape = (n, CLASSES) if teachers is None else (teachers, n, CLASSES)
    return torch.randn(*shape, generator=stream("logits", *name)) * scale


def learnt(method: Method, client: Node, knowledge: Knowledge, rounds: int = 1) -> float:
    """How far the student's weights move, at most, in some rounds."""
    before = weights(client.student)
    for client.round in range(1, rounds + 1):
        method.learn(client, knowledge)
    return distance(weights(client.student), before)


class TestKD:
    @BOTH
    @pytest.mark.parametrize("objective", list(OBJECTIVES))
    def test_without_weight_it_is_local_training(self, transfer: str, objective: str) -> None:
        kd = federate(small(f"kd(weight=0.0, objective='{objective}')", transfer=transfer))
        local = federate(small("local", transfer=transfer))
        for client in range(2):
            # One forward pass of 8 samples instead of 4 may round otherwise.
            assert distance(kd.final(client), local.final(client)) <= 1e-6
            assert distance(local.final(client), local.weights[client][0]) > 0.01

    @BOTH
    @pytest.mark.parametrize("objective", list(OBJECTIVES))
    def test_with_all_weight_on_distillation_it_reads_no_label(self, transfer: str, objective: str) -> None:
        method = METHODS.build(f"kd(weight=1.0, objective='{objective}')")
        knowledge = Knowledge(logits=logits("teacher"))
        moved = []
        for shift in (0, 1):
            client = node(labelled=transfer == LABELLED)
            assert client.private.y is not None
            client.data = Data(client.private.x * (1 - shift), (client.private.y + shift) % CLASSES)
            if client.public.y is not None:
                client.transfer = Data(client.public.x, (client.public.y + shift) % CLASSES)
            assert learnt(method, client, knowledge, rounds=2) > 1e-3
            moved.append(weights(client.student))
            assert client.samples == client.steps * TRAINING.batch_size, "private samples are left alone"
        assert same_weights(*moved)

    def test_the_loss_is_the_weighted_sum(self) -> None:
        student, teacher, labelled = logits("s", n=5), logits("t", n=5), logits("l", n=4)
        labels = torch.tensor([0, 1, 2, 0])
        batch = Batch(node(), labelled, labels, student, teacher, None)
        for name, weight, temperature in itertools.product(OBJECTIVES, (0.1, 0.5, 0.9), (1.0, 4.0)):
            kd = METHODS.build(f"kd(objective='{name}', weight={weight}, temperature={temperature})")
            distilled = OBJECTIVES[name](student, teacher, temperature)
            expected = (1 - weight) * cross_entropy(labelled, labels) + weight * distilled
            torch.testing.assert_close(kd.loss(batch), expected)

    @pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
    @pytest.mark.parametrize(
        ("objective", "merge_by"),
        # What averages of probabilities leave open, a constant a sample, mse would take for a difference.
        [*itertools.product(OBJECTIVES, ["logits", "probabilities"])][:-1],
    )
    def test_ones_own_teacher_asks_for_no_change_at_the_start(
        self, temperature: float, objective: Any, merge_by: Any
    ) -> None:
        method = KD(temperature, 1.0, objective, merge_by, teachers="self", wire="float32")
        client = node(1, training=ONE_STEP)
        sent = start(method, [node(0), client, node(2)], server())
        assert learnt(method, client, sent[1]) <= 1e-5 * temperature**2 * ONE_STEP.lr

    def test_teachers_are_averaged_as_logits_or_as_softened_probabilities(self) -> None:
        nodes = [node(client) for client in range(4)]
        own = torch.stack([client.transfer_logits() for client in nodes])
        for merge_by, temperature in itertools.product(("logits", "probabilities"), (1.0, 4.0)):
            method = METHODS.build(f"kd(merge_by='{merge_by}', temperature={temperature}, wire='float32')")
            sent = start(method, nodes, server(clients=4))
            for student in range(4):
                others = own[[teacher for teacher in range(4) if teacher != student]]
                if merge_by == "logits":
                    expected = (others.mean(0) / temperature).softmax(1)
                else:
                    expected = (others / temperature).softmax(2).mean(0)
                torch.testing.assert_close((sent[student]["logits"] / temperature).softmax(1), expected)

    @pytest.mark.parametrize("temperature", [1e-40, 1e-20, 0.01, 1e4, 1e20, 1e200])
    def test_every_temperature_is_refused_or_trains_to_finite_numbers(self, temperature: float) -> None:
        try:
            outcome = federate(small(f"kd(temperature={temperature})"))
        except UserError:
            return
        assert all(math.isfinite(value) for value in outcome.rows.values())

    def test_frozen_teachers_travel_once_and_teach_in_every_round(self) -> None:
        outcome = federate(small("kd(weight=1.0)", rounds=3))
        assert [len(sent) for sent in outcome.knowledge] == [0, 2, 0, 0]
        assert [len(received) for received in outcome.reports] == [2, 0, 0, 0]
        for client in range(2):
            moves = [distance(*pair) for pair in itertools.pairwise(outcome.weights[client])]
            assert min(moves) > 1e-4

    def test_refreshed_teachers_report_after_every_round_but_the_last(self) -> None:
        outcome = federate(small("kd(refresh='every round')", rounds=3))
        assert [len(sent) for sent in outcome.knowledge] == [0, 2, 2, 2]
        assert [len(received) for received in outcome.reports] == [2, 2, 2, 0]
        logits = [received[0]["logits"] for received in outcome.reports[:3]]
        assert not torch.equal(logits[0], logits[1])

    @pytest.mark.parametrize("wire", ["float16", "float32"])
    @pytest.mark.parametrize("refresh", ["once", "every round"])
    def test_ones_own_teacher_costs_nothing_and_teaches_what_it_would_over_the_wire(
        self, wire: str, refresh: str
    ) -> None:
        common = f"weight=0.7, temperature=2.0, refresh='{refresh}', wire='{wire}'"
        own, sent = (
            federate(small(f"kd(teachers='{teachers}', {common})", clients=3, rounds=3))
            for teachers in ("self", "one(0)")
        )
        assert not any(own.reports)
        assert not any(bag.nbytes for bags in own.knowledge for bag in bags.values())
        assert sent.knowledge[1][0].nbytes > 0
        for found, expected in zip(own.weights[0], sent.weights[0], strict=True):
            assert same_weights(found, expected)
        assert distance(own.final(0), own.weights[0][0]) > 1e-3
        assert distance(own.final(1), sent.final(1)) > 1e-3

    def test_ones_own_teacher_is_of_the_start_or_of_the_last_round(self) -> None:
        nodes = [node(client) for client in range(2)]
        for refresh, follows in (("once", False), ("every round", True)):
            method, client = KD(teachers="self", refresh=cast("Any", refresh), wire="float32"), nodes[follows]
            client.round = 0
            assert method.report(client) is None
            first = client.transfer_logits().clone()
            client.round = 1
            method.learn(client, Knowledge())
            if refresh == "every round":
                method.report(client)
            target = method.target(client, method.predictions(client, Knowledge()))
            assert target is not None
            assert torch.equal(target.logits, client.transfer_logits() if follows else first)
            assert not torch.equal(client.transfer_logits(), first)

    @pytest.mark.parametrize("spec", [f"kd(teachers='self', refresh='{r}')" for r in ("once", "every round")])
    def test_ones_own_teacher_is_kept_where_a_repeated_exchange_finds_it(self, spec: str) -> None:
        assert same_outcome(federate(small(spec, rounds=3), twice=True), federate(small(spec, rounds=3)))

    @pytest.mark.parametrize("seed", range(3))
    def test_at_high_temperature_its_divergences_pull_logits_together(self, seed: int) -> None:
        # T²·KL and T²·reverse KL → ‖δ‖²/(2C) with δ = centred(z_s − z_t), T²·JS a quarter of it; mse has no T.
        for name, share in (("kl", 1.0), ("reverse_kl", 1.0), ("js", 0.25)):
            student, teacher = (logits(who, seed).double() for who in ("s", "t"))
            student.requires_grad_()
            method = METHODS.build(f"kd(objective='{name}', weight=1.0, temperature=10000.0)")
            loss = method.loss(Batch(node(), student, torch.zeros(14, dtype=torch.int64), student, teacher, None))
            (gradient,) = torch.autograd.grad(loss, student)
            apart = (student - teacher).detach()
            expected = share * (apart - apart.mean(1, keepdim=True)) / CLASSES / 14
            torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=1e-5)

    def test_refreshing_changes_nothing_in_the_first_round(self) -> None:
        once, always = (federate(small(f"kd(refresh='{refresh}')", rounds=2)) for refresh in ("once", "every round"))
        assert same_weights(once.weights[0][1], always.weights[0][1])
        assert not same_weights(once.weights[0][2], always.weights[0][2])


def listening() -> list[str]:
    """Every method whose students are taught by other clients."""
    built = {name: METHODS.build(name) for name in METHODS.names}
    taught = [name for name, of in built.items() if of.reports(AT_START) == "teachers" and not of.has_global_model]
    return [cornered(name) for name in taught]


class TestMerging:
    @pytest.mark.parametrize("spec", listening())
    def test_students_and_teachers_may_be_of_different_architectures(self, spec: str) -> None:
        outcome = federate(small(spec, models="mlp(hidden=[8])|cnn(width=4, hidden=8)", clients=3))
        assert outcome.final(0).keys() == outcome.final(2).keys() != outcome.final(1).keys()
        assert max(distance(outcome.final(client), outcome.weights[client][0]) for client in range(3)) > 1e-3

    @pytest.mark.parametrize("spec", [*listening(), 'kd(merge_by="probabilities")', 'dml(reduce="sum")'])
    def test_a_students_knowledge_comes_from_the_others_alone(self, spec: str) -> None:
        method, at = METHODS.build(spec), server(clients=4)
        nodes = [node(client, clients=4) for client in range(4)]
        reports = {client.id: _reported(method, client) for client in nodes}
        plain = method.merge(at, reports)
        for changed in range(4):
            other = dict(reports)
            other[changed] = Knowledge({name: _disturbed(tensor) for name, tensor in reports[changed].items()})
            merged = method.merge(at, other)
            for student in range(4):
                assert same_knowledge(merged[student], plain[student]) == (student == changed)

    @pytest.mark.parametrize("spec", listening())
    def test_the_order_in_which_reports_arrive_does_not_matter(self, spec: str) -> None:
        method, at = METHODS.build(spec), server(clients=4)
        reports = {client: _reported(method, node(client, clients=4)) for client in range(4)}
        plain = method.merge(at, reports)
        for order in ([3, 2, 1, 0], [2, 0, 3, 1]):
            merged = method.merge(at, {client: reports[client] for client in order})
            assert merged.keys() == plain.keys()
            assert all(same_knowledge(merged[client], plain[client]) for client in plain)

    def test_with_two_clients_each_is_sent_the_other(self) -> None:
        outcome = federate(small("kd"))
        assert torch.equal(outcome.knowledge[1][0]["logits"], outcome.reports[0][1]["logits"])
        assert torch.equal(outcome.knowledge[1][1]["logits"], outcome.reports[0][0]["logits"])

    def test_a_chosen_teacher_teaches_all(self) -> None:
        outcome = federate(small("kd(teachers='one(1)')", clients=3))
        for student in range(3):
            assert torch.equal(outcome.knowledge[1][student]["logits"], outcome.reports[0][1]["logits"])

    @pytest.mark.parametrize("spec", ["kd(teachers='k(2)', refresh='every round')", "dp_kd(teachers='k(2)')"])
    def test_some_teachers_are_the_mean_or_best_of_some_others(self, spec: str) -> None:
        outcome = federate(small(spec, clients=5, rounds=3))
        method, at = distilling(spec), server(clients=5)
        found = set()
        for exchange, sent in enumerate(outcome.knowledge):
            for student in sent:
                reports = outcome.reports[exchange - 1]
                for pair in itertools.combinations(sorted(set(range(5)) - {student}), 2):
                    stack = torch.stack([reports[teacher]["logits"].float() for teacher in pair])
                    if torch.equal(
                        over_the_wire(method.combine(at, stack), "float16"), sent[student]["logits"].float()
                    ):
                        found.add((exchange, student, pair))
        assert {(exchange, student) for exchange, student, _ in found} >= {(1, student) for student in range(5)}
        assert len({pair for *_, pair in found}) > 1, "not everybody has the same teachers"

    def test_each_student_draws_its_own_teachers_anew_each_time(self) -> None:
        # Every client reports its own number, so that a mean over one teacher is that teacher's number.
        method, at, clients = METHODS.build("kd(teachers='k(1)', refresh='every round')"), server(clients=9), range(9)
        reports = {client: Knowledge(logits=torch.full((1, CLASSES), float(client))) for client in clients}

        def drawn(exchange: int) -> list[int]:
            at.moment = preparing(exchange)
            return [int(bag["logits"][0, 0]) for _, bag in sorted(method.merge(at, reports).items())]

        assert all(teacher != student for student, teacher in enumerate(drawn(0)))
        places = {teacher - (teacher > student) for student, teacher in enumerate(drawn(0))}
        assert len(places) > 2, "not the same place among the others for all"
        assert drawn(1) != drawn(0)
        assert drawn(0) == drawn(0)


class TestTeachers:
    @pytest.mark.parametrize("clients", [2, 3, 7])
    def test_others_are_all_but_oneself(self, clients: int) -> None:
        for student in range(clients):
            expected = [client for client in range(clients) if client != student]
            assert choose("others", student, range(clients), stream("t")) == expected

    def test_all_are_all_who_may_teach_and_are_sent_the_same(self) -> None:
        for student in range(4):
            assert choose("all", student, [0, 2, 3], stream("t")) == [0, 2, 3]
        outcome = federate(small("kd(teachers='all')", clients=3))
        reported = torch.stack([outcome.reports[0][client]["logits"].float() for client in range(3)]).mean(0)
        for student in range(3):
            assert torch.equal(outcome.knowledge[1][student]["logits"].float(), over_the_wire(reported, "float16"))

    def test_self_and_one_are_who_they_say(self) -> None:
        assert choose("self", 3, range(5), stream("t")) == [3]
        assert [choose("one(2)", student, range(5), stream("t")) for student in range(5)] == [[2]] * 5

    @pytest.mark.parametrize("number", [1, 2, 4])
    def test_k_are_so_many_different_others(self, number: int) -> None:
        drawn = set()
        for seed in range(40):
            teachers = choose(f"k({number})", 2, range(5), stream("t", seed))
            assert len(set(teachers)) == number
            assert set(teachers) <= {0, 1, 3, 4}
            assert teachers == sorted(teachers)
            drawn |= set(teachers)
        assert drawn == {0, 1, 3, 4}, "each of the others has its turn"

    def test_k_is_the_same_again_from_the_same_stream(self) -> None:
        assert all(
            choose("k(3)", 0, range(9), stream("t", s)) == choose("k(3)", 0, range(9), stream("t", s))
            for s in range(10)
        )

    @pytest.mark.parametrize(
        ("teachers", "clients"), [("others", 1), ("one(3)", 3), ("k(0)", 3), ("k(3)", 3), ("k(1)", 1)]
    )
    def test_teachers_that_do_not_exist_are_refused_before_the_start(self, teachers: str, clients: int) -> None:
        for spec in ("kd", "dp_kd"):
            with pytest.raises(UserError, match=r"teachers = "):
                METHODS.build(f"{spec}(teachers='{teachers}')").check(small(spec, clients=clients), labelled=False)

    def test_one_client_may_teach_itself(self) -> None:
        federate(small("kd(teachers='self')", clients=1))


class TestLocal:
    def test_without_transfer_labels_public_changes_nothing(self) -> None:
        one, other = (federate(small(f"local(public={public})")) for public in ("true", "false"))
        assert same_weights(one.final(0), other.final(0))

    def test_with_them_it_may_be_told_to_leave_them(self) -> None:
        with_labels, without = (federate(small(f"local(public={p})", transfer=LABELLED)) for p in ("true", "false"))
        assert not same_weights(with_labels.final(0), without.final(0))
        assert same_weights(without.final(0), federate(small("local")).final(0))

    def test_nothing_travels(self) -> None:
        outcome = federate(small("local"))
        assert not any(outcome.reports)
        assert not any(outcome.knowledge)


def _reported(method: Method, client: Node) -> Knowledge:
    client.moment = AT_START
    method.setup(client)
    report = method.report(client)
    assert report is not None
    return report


def _disturbed(tensor: Tensor) -> Tensor:
    return tensor + torch.randn(tensor.shape, generator=stream("disturbed")).to(tensor.dtype) * 9

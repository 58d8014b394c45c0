"""The mathematics of each method: identities between methods, limits, and loops in numpy."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkd.errors import UserError
from fedkd.evaluate import accuracy, mean_loss
from fedkd.knowledge import Knowledge, over_the_wire
from fedkd.losses import OBJECTIVES, cross_entropy
from fedkd.method import METHODS, Method
from fedkd.methods.dml import DML
from fedkd.methods.dp_kd import DPKD
from fedkd.methods.kd import KD
from fedkd.methods.tuned_kd import TunedKD
from fedkd.node import Data, Node, Training
from fedkd.streams import stream
from fedkd.teachers import choose
from fedkd.train import Batch
from fedkd.tuning import best_cell, try_cells
from tests.small import (
    CLASSES,
    LABELLED,
    TRAINING,
    UNLABELLED,
    cornered,
    distance,
    federate,
    model,
    node,
    same_knowledge,
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


def batch_of(student: Tensor, teacher: Tensor, clients: int) -> Batch:
    """A batch with one labelled sample whose logits are constants: cross-entropy has no gradient."""
    return Batch(node(clients=clients), torch.zeros(1, CLASSES), torch.tensor([0]), student, teacher, None)


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

    def test_refreshing_changes_nothing_in_the_first_round(self) -> None:
        once, always = (federate(small(f"kd(refresh='{refresh}')", rounds=2)) for refresh in ("once", "every round"))
        assert same_weights(once.weights[0][1], always.weights[0][1])
        assert not same_weights(once.weights[0][2], always.weights[0][2])


class TestDML:
    """Mutual learning is distillation from the mean of the peers' probabilities."""

    @BOTH
    @pytest.mark.parametrize("clients", [2, 3])
    def test_it_is_kd_of_probabilities_at_twice_the_learning_rate(self, transfer: str, clients: int) -> None:
        # kd at w = ½ is ½·(CE + KL) = ½·L_dml: at twice the learning rate, plain SGD takes the same steps.
        twice = replace(TRAINING, lr=2 * TRAINING.lr)
        same = 'kd(temperature=1.0, weight=0.5, merge_by="probabilities", refresh="every round", wire="float32")'
        common: dict[str, Any] = {"clients": clients, "rounds": 4, "transfer": transfer}
        dml = federate(small('dml(wire="float32")', **common))
        kd = federate(small(same, train=twice, **common))
        half = federate(small(same, **common))
        for client in range(clients):
            assert distance(dml.final(client), kd.final(client)) <= 1e-5
            assert distance(dml.final(client), half.final(client)) > 0.01
            assert distance(dml.final(client), dml.weights[client][0]) > 0.01

    @pytest.mark.parametrize("reduce", ["mean", "sum"])
    @pytest.mark.parametrize("peers", [1, 2, 4])
    def test_its_gradient_is_that_of_each_peer_for_itself(self, reduce: Any, peers: int) -> None:
        dml = DML(reduce=reduce, wire="float32")
        student = logits("student", n=6).requires_grad_()
        others = logits("peers", n=6, teachers=peers)
        loss = dml.loss(batch_of(student, dml.combine(node(), others), peers + 1))
        (found,) = torch.autograd.grad(loss, student)
        # Σ_j KL(p_j ‖ p_i) written out; reduced by the sum or the mean over peers, and the mean over samples.
        each = torch.stack([_divergence(peer.softmax(1), student.softmax(1)) for peer in others])
        (expected,) = torch.autograd.grad(each.sum() if reduce == "sum" else each.mean(), student)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("reduce", ["mean", "sum"])
    def test_identical_models_have_nothing_to_learn_from_each_other(self, reduce: Any) -> None:
        method = DML(reduce=reduce, wire="float32")
        nodes = [node(client) for client in range(3)]
        for client in nodes:
            client.models["student"] = model(7)
        sent = start(method, nodes, server())
        student = nodes[0].transfer_logits().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(method.loss(batch_of(student, sent[0]["logits"], 3)), student)
        assert float(gradient.abs().max()) <= 1e-6

    def test_with_a_single_peer_the_sum_is_the_mean(self) -> None:
        outcomes = [federate(small(f"dml(reduce='{reduce}')")) for reduce in ("mean", "sum")]
        assert same_weights(outcomes[0].final(0), outcomes[1].final(0))

    def test_it_needs_a_peer(self) -> None:
        with pytest.raises(UserError, match="nobody else may teach client 0"):
            DML().check(small("dml", clients=1), labelled=False)


class TestDPKD:
    @pytest.mark.parametrize("mask", ["unsupervised", "supervised"])
    @pytest.mark.parametrize("seed", range(5))
    def test_the_target_is_a_loop_over_samples(self, mask: Any, seed: int) -> None:
        client = node(labelled=True)
        assert client.public.y is not None
        anchor, teacher, labels = logits("anchor", seed), logits("teacher", seed), client.public.y
        # Four samples on which the teacher says what the student says, two on which it swaps two classes that count
        # for neither mask.
        teacher[:4] = anchor[:4]
        for sample in (4, 5):
            top, rest = int(anchor[sample].argmax()), [0, 1, 2]
            rest.remove(top)
            anchor[sample, top] += 5
            teacher[sample] = anchor[sample]
            teacher[sample, rest] = anchor[sample, rest[::-1]]
            labels[sample] = top
        client.state["anchor"] = anchor
        found = DPKD(mask=mask).target(client, teacher.unsqueeze(0))
        assert found is not None
        chosen = 0
        for sample in range(len(anchor)):
            p_0, p_t = (np.exp(z) / np.exp(z).sum() for z in (anchor[sample].numpy(), teacher[sample].numpy()))
            label = int(labels[sample])
            better = p_t[label] > p_0[label] if mask == "supervised" else p_t.max() > p_0.max()
            better = bool(better) and sample > 5
            assert torch.equal(found.logits[sample], (teacher if better else anchor)[sample]), sample
            chosen += better
        assert 0 < chosen < len(anchor) - 6, "both sides occur"
        assert found.weights is None
        assert found.on == "transfer"

    @pytest.mark.parametrize("mask", ["unsupervised", "supervised"])
    def test_of_several_teachers_the_best_is_taken_per_sample(self, mask: Any) -> None:
        client = node(labelled=True)
        assert client.public.y is not None
        anchor, teachers = logits("anchor"), logits("teachers", teachers=3)
        client.state["anchor"] = anchor
        found = DPKD(mask=mask).target(client, teachers)
        assert found is not None
        for sample in range(len(anchor)):
            candidates = [anchor[sample], *teachers[:, sample]]
            label = int(client.public.y[sample])
            sure = [float(p[label] if mask == "supervised" else p.max()) for p in (z.softmax(0) for z in candidates)]
            assert torch.equal(found.logits[sample], candidates[int(np.argmax(sure))])

    def test_several_teachers_are_reduced_alike_at_the_server_and_at_the_client(self) -> None:
        nodes, at = [node(client) for client in range(4)], server(clients=4)
        method = DPKD(wire="float32")
        sent = start(method, nodes, at)
        stack = torch.stack([client.transfer_logits() for client in nodes[1:]])
        merged, whole = (
            method.target(nodes[0], nodes[0].predictions({"logits": z})) for z in (sent[0]["logits"], stack)
        )
        assert merged is not None
        assert whole is not None
        assert torch.equal(merged.logits, whole.logits)

    @pytest.mark.parametrize("wire", ["float16", "float32"])
    @pytest.mark.parametrize("mask", ["unsupervised", "supervised"])
    def test_ones_own_teacher_never_wins_whatever_the_wire_rounds(self, wire: Any, mask: Any) -> None:
        method = DPKD(mask=mask, teachers="self", wire=wire)
        nodes = [node(client, labelled=True) for client in range(3)]
        for client in nodes:
            # Large logits, of which float16 keeps little: what travelled differs from what did not.
            with torch.no_grad():
                client.student.head.weight *= 40
        sent = start(method, nodes, server(labelled=True))
        for client in nodes:
            own = client.transfer_logits()
            assert torch.equal(own, over_the_wire(own, wire)) == (wire == "float32")
            target = method.target(client, client.predictions(sent[client.id]))
            assert target is not None
            assert torch.equal(target.logits, client.state["anchor"])

    @pytest.mark.parametrize(("wire", "most"), [("float16", 1e-3), ("float32", 1e-6)])
    @pytest.mark.parametrize("mask", ["unsupervised", "supervised"])
    def test_ones_own_teacher_asks_for_no_change_in_any_round(self, wire: Any, most: float, mask: Any) -> None:
        # float16 rounds a logit by up to 2⁻¹¹ of itself, and the gradient in the logits is of that size.
        method = DPKD(mask=mask, teachers="self", wire=wire)
        nodes = [node(client, labelled=True) for client in range(3)]
        sent = start(method, nodes, server(labelled=True))
        assert learnt(method, nodes[1], sent[1], rounds=3) <= most * TRAINING.lr
        others = DPKD(mask=mask, wire=wire)
        sent = start(others, nodes, server(labelled=True))
        assert learnt(others, nodes[1], sent[1], rounds=3) > 1e-3

    def test_the_anchor_is_the_student_of_the_start_and_stays_that(self) -> None:
        method = DPKD(wire="float32")
        nodes = [node(client) for client in range(3)]
        sent = start(method, nodes, server())
        first = nodes[0].transfer_logits().clone()
        for round in (1, 2, 3):
            learnt(method, nodes[0], sent[0], round)
            assert torch.equal(nodes[0].state["anchor"], first)
        assert not torch.allclose(nodes[0].transfer_logits(), first, atol=1e-3)

    def test_a_teacher_that_is_always_surer_is_the_whole_target(self) -> None:
        client, sure = node(), logits("sure") * 100
        client.state["anchor"] = torch.zeros(14, CLASSES)
        target = DPKD().target(client, sure.unsqueeze(0))
        assert target is not None
        assert torch.equal(target.logits, sure)

    def test_it_reads_no_private_sample(self) -> None:
        method = DPKD()
        nodes = [node(client) for client in range(3)]
        sent = start(method, nodes, server())
        other = node(0)
        method.setup(other)
        other.data = Data(torch.zeros_like(other.private.x), torch.zeros(len(other.private), dtype=torch.int64))
        assert learnt(method, nodes[0], sent[0], 2) > 1e-3
        learnt(method, other, sent[0], 2)
        assert same_weights(weights(other.student), weights(nodes[0].student))
        assert other.samples == other.steps * TRAINING.batch_size, "nor are any sent through the network"

    def test_the_supervised_mask_needs_labels(self) -> None:
        DPKD(mask="supervised").check(small("dp_kd"), labelled=True)
        with pytest.raises(UserError, match="labelled=true"):
            DPKD(mask="supervised").check(small("dp_kd"), labelled=False)

    def test_the_unsupervised_mask_reads_no_label_even_where_there_are_some(self) -> None:
        with_labels, without = (federate(small("dp_kd", transfer=transfer)) for transfer in (LABELLED, UNLABELLED))
        assert same_weights(with_labels.final(0), without.final(0))


def listening() -> list[str]:
    """Every method whose students hear of other clients."""
    return [cornered(name) for name in METHODS.names if METHODS.build(name).refresh != "never"]


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
        method, at = METHODS.build(spec), server(clients=5)
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
            at.exchange = exchange
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


GRID = "tuned_kd(temperatures=[1.0, 4.0], weights=[0.2, 1.0], rounds=2)"


class TestTunedKD:
    def test_the_untuned_cell_is_always_among_them_and_first(self) -> None:
        untuned = "temperature=1.0,weight=0.5"
        for spec in (
            "tuned_kd",
            "tuned_kd(temperatures=[8.0], weights=[0.9])",
            "tuned_kd(temperatures=[1.0], weights=[0.5])",
        ):
            method = METHODS.build(spec)
            assert isinstance(method, TunedKD)
            assert next(iter(method.cells)) == untuned
            assert method.cells[untuned] == KD()

    def test_the_cells_are_the_grid(self) -> None:
        method = TunedKD(temperatures=(2.0, 8.0), weights=(0.1, 0.9), wire="float32")
        pairs = [(1.0, 0.5), (2.0, 0.1), (2.0, 0.9), (8.0, 0.1), (8.0, 0.9)]
        assert [(cell.temperature, cell.weight) for cell in method.cells.values()] == pairs
        assert {cell.wire for cell in method.cells.values()} == {"float32"}
        assert len(TunedKD().cells) == 6 * 6

    def test_the_search_leaves_the_client_as_it_found_it(self) -> None:
        method = TunedKD((1.0, 4.0), (0.2, 1.0), rounds=2)
        nodes = [node(client, round=0) for client in range(3)]
        sent = start(method, nodes, server())
        client = nodes[1]
        client.state["kept"] = torch.arange(3.0)
        before, predicted = weights(client.student), client.transfer_logits().clone()
        scores = try_cells(client, sent[1], method.cells, 2)
        assert len({tuple(row) for row in scores.tolist()}) > 1, "the cells did train"
        assert same_weights(weights(client.student), before)
        assert torch.equal(client.transfer_logits(), predicted)
        assert (client.steps, client.samples, client.round) == (0, 0, 0)
        assert client.state.keys() == {"kept"}
        assert torch.equal(client.state["kept"], torch.arange(3.0))

    @BOTH
    def test_every_cell_is_kd_alone_from_the_same_start(self, transfer: str) -> None:
        tuned = federate(small(GRID, transfer=transfer))
        method = METHODS.build(GRID)
        assert isinstance(method, TunedKD)
        for label, cell in method.cells.items():
            alone = federate(
                small(f"kd(temperature={cell.temperature}, weight={cell.weight})", rounds=2, transfer=transfer)
            )
            for client in range(2):
                for metric in ("accuracy", "loss"):
                    expected = alone.rows[2, client, "val", metric]
                    assert tuned.rows[1, client, "val", f"tuning_{metric}/{label}"] == pytest.approx(expected, rel=1e-5)

    def test_scores_are_accuracy_and_loss_on_validation(self) -> None:
        client = node(round=0)
        assert client.val is not None
        assert client.val.y is not None
        knowledge = Knowledge(logits=logits("teacher"))
        cell = KD(temperature=4.0, weight=0.5)
        (found,) = try_cells(client, knowledge, {"only": cell}, 3).tolist()
        learnt(cell, client, knowledge, rounds=3)
        predicted = client.predict(client.val.x)
        assert found == [accuracy(predicted, client.val.y), mean_loss(predicted, client.val.y)]

    def test_the_cell_with_the_best_mean_over_clients_is_chosen(self) -> None:
        # Accuracies 0.5 and 0.9 beat 0.8 and 0.5, though the latter is first and best at one client's.
        scores = torch.tensor([[[0.8, 1.0], [0.5, 1.0], [0.1, 0.0]], [[0.5, 1.0], [0.9, 1.0], [0.1, 0.0]]])
        assert best_cell(scores) == 1

    def test_of_equally_accurate_cells_the_lower_loss_is_chosen_then_the_first(self) -> None:
        assert best_cell(torch.tensor([[[0.5, 0.9], [0.5, 0.2], [0.5, 0.3]]])) == 1
        assert best_cell(torch.tensor([[[0.4, 0.1], [0.5, 0.2], [0.5, 0.2]]])) == 1
        assert best_cell(torch.tensor([[[0.5, 0.2]] * 3])) == 0

    def test_a_cell_whose_loss_is_no_number_wins_no_tie(self) -> None:
        assert best_cell(torch.tensor([[[0.5, math.nan], [0.5, 0.3]]])) == 1
        assert best_cell(torch.tensor([[[0.5, 0.3], [0.5, math.nan]]])) == 0

    @BOTH
    @pytest.mark.parametrize("seed", range(4))
    def test_the_choice_is_the_best_validation_score_and_the_same_for_all(self, transfer: str, seed: int) -> None:
        outcome = federate(small(GRID, clients=3, transfer=transfer, seed=seed))
        method = METHODS.build(GRID)
        assert isinstance(method, TunedKD)

        def mean(metric: str, label: str) -> float:
            return sum(outcome.rows[1, client, "val", f"tuning_{metric}/{label}"] for client in range(3)) / 3

        best = max(method.cells, key=lambda label: (round(mean("accuracy", label), 9), -mean("loss", label)))
        chosen = {key[3]: value for key, value in outcome.rows.items() if key[3].startswith("tuning_chosen/")}
        assert chosen == {f"tuning_chosen/{best}": 1.0}
        assert {int(sent["chosen"]) for sent in outcome.knowledge[2].values()} == {list(method.cells).index(best)}

    @BOTH
    @pytest.mark.parametrize("seed", range(4))
    def test_after_the_choice_it_is_kd_with_the_chosen_values_to_the_last_bit(self, transfer: str, seed: int) -> None:
        outcome = federate(small(GRID, rounds=3, transfer=transfer, seed=seed))
        (chosen,) = (key[3] for key in outcome.rows if key[3].startswith("tuning_chosen/"))
        directly = federate(
            small(f"kd({chosen.removeprefix('tuning_chosen/')})", rounds=3, transfer=transfer, seed=seed)
        )
        for client in range(2):
            assert len(outcome.weights[client]) == 4
            for found, expected in zip(outcome.weights[client], directly.weights[client], strict=True):
                assert same_weights(found, expected)

    def test_the_search_is_booked_as_tuning_and_not_as_training(self) -> None:
        outcome = federate(small(GRID))
        for client, steps in ((0, 3), (1, 4)):  # ⌈10 / 4⌉ and ⌈13 / 4⌉
            assert outcome.rows[1, client, "", "steps"] == outcome.rows[1, client, "", "samples"] == 0
            assert outcome.rows[1, client, "", "tuning_steps"] == 5 * 2 * steps
            # Three cells take private and transfer batches of 4, the two of weight 1 transfer batches alone.
            assert outcome.rows[1, client, "", "tuning_samples"] == 2 * steps * (3 * 8 + 2 * 4)

    def test_only_scores_go_up_and_only_the_choice_comes_down(self) -> None:
        outcome = federate(small(GRID, rounds=2))
        assert [sorted({name for bag in bags.values() for name in bag}) for bags in outcome.reports] == [
            ["logits"],
            ["scores"],
            [],
            [],
        ]
        assert [sorted({name for bag in bags.values() for name in bag}) for bags in outcome.knowledge] == [
            [],
            ["logits"],
            ["chosen"],
            [],
        ]


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


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Mean over samples of KL(p ‖ q), from probabilities."""
    return (p * (p.log() - q.log())).sum(1).mean()


def _reported(method: Method, client: Node) -> Knowledge:
    method.setup(client)
    report = method.report(client)
    assert report is not None
    return report


def _disturbed(tensor: Tensor) -> Tensor:
    return tensor + torch.randn(tensor.shape, generator=stream("disturbed")).to(tensor.dtype) * 9

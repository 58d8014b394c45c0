"""Data-partitioning KD: masks against loops over samples, the anchor and the controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.knowledge.knowledge import Knowledge, over_the_wire
from fedkd.method import METHODS, Method
from fedkd.methods.dp_kd import DPKD
from fedkd.node.holdings import Holdings
from fedkd.node.node import Node
from fedkd.settings.federation import Federation
from fedkd.tensors.samples import Data
from tests.small import (
    CLASSES,
    LABELLED,
    TRAINING,
    UNLABELLED,
    distance,
    federate,
    load,
    model,
    node,
    same_weights,
    server,
    small,
    start,
    weights,
)
from tests.small import own_cache as own_cache

MASKS = pytest.mark.parametrize("mask", ["unsupervised", "supervised"])
FORMS = pytest.mark.parametrize("form", ["parallel", "sequential", "soup"])
SEVERAL = pytest.mark.parametrize("form", ["sequential", "soup"])


def logits(*name: int | str, n: int = 14, teachers: int | None = None) -> Tensor:
    """Random logits (n, classes) or (teachers, n, classes), by name."""
    shape = (n, CLASSES) if teachers is None else (teachers, n, CLASSES)
    return torch.randn(*shape, generator=stream("logits", *name)) * 2


def learnt(method: Method, client: Node, knowledge: Knowledge, rounds: int = 1) -> float:
    """How far the student's weights move, at most, in some rounds."""
    before = weights(client.student)
    for client.round in range(1, rounds + 1):
        method.learn(client, knowledge)
    return distance(weights(client.student), before)


def private(of: Federation, client: int) -> Holdings:
    """The loader of tests/small.py without a transfer set."""
    held = load(of, client)
    judged = {split: data for split, data in held.evaluation.items() if split != "transfer"}
    return Holdings(held.shape, held.classes, held.data, held.val, None, judged)


class TestMask:
    @MASKS
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
        assert found.split(client) == "transfer"

    @MASKS
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

    def test_a_teacher_that_is_always_surer_is_the_whole_target(self) -> None:
        client, sure = node(), logits("sure") * 100
        client.state["anchor"] = torch.zeros(14, CLASSES)
        target = DPKD().target(client, sure.unsqueeze(0))
        assert target is not None
        assert torch.equal(target.logits, sure)

    def test_the_supervised_mask_needs_labels(self) -> None:
        DPKD(mask="supervised").check(small("dp_kd"), labelled=True)
        with pytest.raises(UserError, match="labelled=true"):
            DPKD(mask="supervised").check(small("dp_kd"), labelled=False)

    @FORMS
    def test_the_unsupervised_mask_reads_no_label_even_where_there_are_some(self, form: str) -> None:
        with_labels, without = (
            federate(small(f"dp_kd(form='{form}')", transfer=transfer, clients=3))
            for transfer in (LABELLED, UNLABELLED)
        )
        assert same_weights(with_labels.final(0), without.final(0))

    @FORMS
    def test_it_reads_no_private_sample(self, form: Any) -> None:
        method = DPKD(form=form)
        nodes = [node(client) for client in range(3)]
        sent = start(method, nodes, server())
        other = node(0)
        method.setup(other)
        other.data = Data(torch.zeros_like(other.private.x), torch.zeros(len(other.private), dtype=torch.int64))
        assert learnt(method, nodes[0], sent[0], 2) > 1e-3
        learnt(method, other, sent[0], 2)
        assert same_weights(weights(other.student), weights(nodes[0].student))
        assert other.samples == other.steps * TRAINING.batch_size, "nor are any sent through the network"


class TestOneself:
    """A student that is its own teacher keeps every tie, whatever the wire rounds."""

    @pytest.mark.parametrize("wire", ["float16", "float32"])
    @MASKS
    def test_ones_own_teacher_never_wins(self, wire: Any, mask: Any) -> None:
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
    @MASKS
    @FORMS
    def test_it_asks_for_no_change_in_any_round(self, wire: Any, most: float, mask: Any, form: Any) -> None:
        # float16 rounds a logit by up to 2⁻¹¹ of itself, and the gradient in the logits is of that size.
        method = DPKD(mask=mask, form=form, teachers="self", wire=wire)
        nodes = [node(client, labelled=True) for client in range(3)]
        sent = start(method, nodes, server(labelled=True))
        assert learnt(method, nodes[1], sent[1], rounds=3) <= most * TRAINING.lr
        others = DPKD(mask=mask, form=form, wire=wire)
        sent = start(others, nodes, server(labelled=True))
        assert learnt(others, nodes[1], sent[1], rounds=3) > 1e-3

    @FORMS
    def test_teachers_that_all_know_what_the_student_knows_ask_for_no_change(self, form: Any) -> None:
        method = DPKD(form=form, wire="float32")
        nodes = [node(client) for client in range(4)]
        for client in nodes:
            client.models["student"] = model(7)
        sent = start(method, nodes, server(clients=4))
        assert learnt(method, nodes[0], sent[0], rounds=3) <= 1e-6

    @FORMS
    @MASKS
    def test_it_is_the_control_of_the_docstring(self, form: str, mask: str) -> None:
        dp_kd, control = (
            federate(small(spec, transfer=LABELLED, rounds=3))
            for spec in (f"dp_kd(form='{form}', mask='{mask}', teachers='self')", "kd(weight=1.0, teachers='self')")
        )
        for client in range(2):
            assert same_weights(dp_kd.final(client), control.final(client))


class TestAnchor:
    @pytest.mark.parametrize("form", ["parallel", "soup"])
    def test_it_is_the_student_of_the_start_and_stays_that(self, form: Any) -> None:
        method = DPKD(wire="float32", form=form)
        nodes = [node(client) for client in range(3)]
        sent = start(method, nodes, server())
        first = nodes[0].transfer_logits().clone()
        for round in (1, 2, 3):
            learnt(method, nodes[0], sent[0], round)
            assert torch.equal(nodes[0].state["anchor"], first)
        assert not torch.allclose(nodes[0].transfer_logits(), first, atol=1e-3)

    @pytest.mark.parametrize("wire", ["float16", "float32"])
    def test_from_teacher_to_teacher_it_is_the_student_of_that_moment(self, wire: Any) -> None:
        method = DPKD(form="sequential", wire=wire)
        nodes = [node(client) for client in range(3)]
        sent = start(method, nodes, server())
        for round in (1, 2, 3):
            learnt(method, nodes[0], sent[0], round)
            now = over_the_wire(nodes[0].predict(nodes[0].public.x), wire)
            assert torch.equal(nodes[0].state["anchor"], now)


class TestControls:
    """Where every sample is the teacher's, it is kd with all weight on distillation (KL-Dist)."""

    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    @MASKS
    @FORMS
    def test_a_teacher_that_always_wins_is_kl_dist_to_the_last_bit(
        self, form: Any, mask: Any, temperature: float
    ) -> None:
        at, other = node(labelled=True), node(labelled=True)
        assert at.public.y is not None
        # Surer than the student of every label, and of itself.
        teacher = torch.nn.functional.one_hot(at.public.y, CLASSES) * 9 + logits("little") / 9
        dp_kd = DPKD(mask=mask, form=form, temperature=temperature)
        dp_kd.setup(at)
        kl_dist = METHODS.build(f"kd(weight=1.0, temperature={temperature})")
        assert learnt(dp_kd, at, Knowledge(logits=teacher), rounds=3) > 1e-3
        learnt(kl_dist, other, Knowledge(logits=teacher), rounds=3)
        assert same_weights(weights(at.student), weights(other.student))

    def test_a_teacher_that_never_wins_teaches_nothing(self) -> None:
        client = node()
        method = DPKD(wire="float32")
        method.setup(client)
        assert learnt(method, client, Knowledge(logits=torch.zeros(14, CLASSES)), rounds=3) <= 1e-6

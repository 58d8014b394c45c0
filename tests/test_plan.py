"""A method's round as a plan: what it asks for, in order, and what it sees in between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fedkd.base.streams import stream
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS, Method
from fedkd.methods.dp_kd import DPKD
from fedkd.node.node import Node
from fedkd.tensors.losses import kl
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch, Fit, Target
from fedkd.training.fit import fit
from tests.small import CLASSES, SHAPE, distance, node, same_weights, server, start, weights
from tests.small import own_cache as own_cache


class Twice(Method):
    """A round in two halves, the second of which is told of the first."""

    def __init__(self) -> None:
        self.between: list[dict[str, Tensor]] = []

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
        del knowledge
        self.between.append(weights(client.student))
        yield Fit(self.loss, steps=2, first=0)
        self.between.append(weights(client.student))
        yield Fit(self.loss, steps=1, first=2)


def test_a_plan_goes_on_with_the_trained_student() -> None:
    method, client, whole = Twice(), node(), node()
    before = weights(client.student)
    method.learn(client, Knowledge())
    assert same_weights(method.between[0], before)
    assert distance(method.between[1], before) > 1e-3
    assert client.steps == 3
    fit(whole, Fit(Method().loss, steps=3, first=0))
    assert same_weights(weights(whole.student), weights(client.student)), "sgd has no memory between the two"


@pytest.mark.parametrize("spec", ["local", "kd", "dml", "fedavg", "fedprox", "label_smoothing", "dp_kd"])
def test_a_plan_trains_nothing_by_itself(spec: str) -> None:
    method, nodes, at = METHODS.build(spec), [node(client) for client in range(3)], server()
    sent = start(method, nodes, at)
    jobs = list(method.plan(nodes[0], sent.get(0, Knowledge())))
    assert [job.numbers(nodes[0])[:2] for job in jobs] == [(3, 0)], "one training, of a round's steps"
    assert nodes[0].steps == 0


def test_dp_kd_renews_its_anchor_between_two_teachers() -> None:
    method, nodes, at = DPKD(form="sequential"), [node(client) for client in range(3)], server()
    sent = start(method, nodes, at)
    client, anchors, students = nodes[0], [], []
    for job in method.plan(client, sent[0]):
        anchors.append(client.state["anchor"].clone())
        fit(client, job)
        students.append(method._student_logits(client))
    assert len(anchors) == 2
    assert torch.equal(anchors[1], students[0]), "what it was when the first teacher was done"
    assert torch.equal(client.state["anchor"], students[1])
    assert not torch.equal(anchors[0], anchors[1])


def test_the_numbers_of_a_round_are_those_of_the_client() -> None:
    client = node(round=3)
    client.rounds = 5
    steps = client.training.steps_a_round(len(client.private))
    assert Fit(kl_loss).numbers(client) == (steps, 2 * steps, 5 * steps, steps)
    assert Fit(kl_loss, steps=2, first=7).numbers(client) == (2, 7, 5 * steps, steps)
    assert Fit(kl_loss, steps=2, horizon=9, period=3).numbers(client) == (2, 4, 9, 3)
    client.rounds = 0
    assert Fit(kl_loss, steps=2, first=7).numbers(client) == (2, 7, 9, steps), "a training of its own ends with itself"


def kl_loss(batch: Batch) -> Tensor:
    assert batch.student is not None
    assert batch.teacher is not None
    return kl(batch.student, batch.teacher)


class TestTargets:
    """A target may be of any samples: they are those that go through the network."""

    def test_samples_that_are_neither_private_nor_the_transfer_set(self) -> None:
        rng, client, moved = stream("third"), node(), node()
        third = Data(torch.rand(6, *SHAPE, generator=rng), None)
        target = Target(torch.randn(6, CLASSES, generator=rng), samples=third)
        assert target.split(client) == "transfer"
        fit(client, Fit(kl_loss, target, labels="none", steps=3))
        moved.transfer = third
        fit(moved, Fit(kl_loss, Target(target.logits), labels="none", steps=3))
        assert same_weights(weights(client.student), weights(moved.student))

    def test_without_samples_it_is_of_what_the_client_distils_on(self) -> None:
        client = node()
        logits = torch.zeros(14, CLASSES)
        assert Target(logits).data(client) is client.public
        assert not Target(logits).is_private(client)
        client.transfer = None
        assert Target(logits).data(client) is client.private
        assert Target(logits).is_private(client)

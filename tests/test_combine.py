"""`combine` makes one prediction of several exactly once, wherever that is: it need not be idempotent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedkd.base.streams import stream
from fedkd.distillation.class_teacher import SOFT_LABELS
from fedkd.distillation.distilling import Distilling
from fedkd.knowledge.knowledge import Knowledge, collect, over_the_wire, to_wire
from fedkd.node.received import predicted
from tests.small import CLASSES, distilling, federate, node, same_outcome, server, small, start
from tests.small import own_cache as own_cache

OWN = '''
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd import STRICT, Node
from fedkd.methods.kd import KD


@dataclass(frozen=True, config=STRICT)
class Shifted(KD):
    """kd whose teachers are one more sure of class 0 together than each of them alone."""

    by: float = 1.0
    """how much more"""

    def combine(self, node: Node, predictions: Tensor) -> Tensor:
        together = predictions.mean(0)
        together[:, 0] += self.by
        return together
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A user's own file with a method whose `combine` applied twice is not what it is applied once."""
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def target_of(method: Distilling, client: object, knowledge: Knowledge) -> Tensor:
    """What the student of a client would learn in its round, before any revision."""
    job = next(iter(method.plan(client, knowledge)))  # type: ignore[arg-type]
    assert job.target is not None
    return job.target.unrevised


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        'wire="float32"',
        'wire="top(1)"',
        'revise="labels(eta=0.8)"',
        'revise="labels(eta=0.8, per_teacher=true)"',
        'select="random(keep=0.5)"',
        'refresh="every round"',
    ],
)
def test_over_the_wire_once(file: Path, arguments: str) -> None:
    method = distilling(f"{file}:shifted({arguments})")
    nodes, at = [node(client, labelled=True) for client in range(3)], server(labelled=True)
    sent = start(method, nodes, at)
    teachers = torch.stack([over_the_wire(each.transfer_logits(), method.wire) for each in nodes[1:]])
    together = method.combine(at, teachers)
    expected = together if "per_teacher" in arguments else over_the_wire(together, method.wire)
    assert torch.equal(target_of(method, nodes[0], sent[0]), expected)
    assert not torch.equal(expected, method.combine(at, expected.unsqueeze(0))), "twice would be something else"


def test_from_models_once(file: Path) -> None:
    method = distilling(f"{file}:shifted")
    nodes, at = [node(client) for client in range(3)], server()
    for each in (*nodes, at):
        each.transfer = None
    sent = start(method, nodes, at)
    teachers = torch.stack([nodes[0].predict(nodes[0].private.x, other.student) for other in nodes[1:]])
    found = target_of(method, nodes[0], predicted(nodes[0], sent[0]))
    assert torch.equal(found, method.combine(nodes[0], teachers))


def test_of_one_s_own_past_once(file: Path) -> None:
    method, client = distilling(f'{file}:shifted(teachers="self")'), node()
    start(method, [client], server(clients=1))
    own = over_the_wire(client.transfer_logits(), "float16").unsqueeze(0)
    assert torch.equal(target_of(method, client, Knowledge()), method.combine(client, own))


def test_with_an_autoencoder_beside_once(file: Path) -> None:
    method, client = distilling(f'{file}:shifted(teachers="others+autoencoder")'), node(labelled=True)
    peers = torch.randn(2, len(client.public), CLASSES, generator=stream("peers"))
    soft = torch.randn(CLASSES, CLASSES, generator=stream("soft")).log_softmax(1)
    labels = client.public.y
    assert labels is not None
    reports = {1: Knowledge(logits=peers[0]), 2: Knowledge(logits=peers[1])}
    sent = Knowledge(
        {SOFT_LABELS: soft}, logits=to_wire(method.gathered(server(), collect(reports, CLASSES)), "float32")
    )
    expected = method.combine(client, torch.cat([peers, soft[labels].unsqueeze(0)]))
    assert torch.equal(target_of(method, client, sent), expected)


def test_a_combine_that_adds_nothing_is_that_of_kd(file: Path) -> None:
    assert same_outcome(federate(small("kd")), federate(small(f"{file}:shifted(by=0.0)")))

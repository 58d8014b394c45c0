"""Clients in lockstep have the weights that each has alone, whatever the network and however steps are taken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from benchmarks import stacking
from fedkd.base.errors import DivergedError, UserError
from fedkd.base.streams import stream
from fedkd.methods.fedprox import FedProx
from fedkd.methods.kd import KD
from fedkd.methods.local import Local
from fedkd.models import Model, build_model
from fedkd.models.architecture import Shape
from fedkd.node.node import Node
from fedkd.settings.training import Training
from fedkd.tensors.losses import cross_entropy
from fedkd.training import stacked
from fedkd.training.batch import Batch, Fit, Target
from fedkd.training.fit import fit
from fedkd.training.stack_size import stack_size
from fedkd.training.stacked import fit_stacked
from fedkd.training.together import train_together
from simulations.recipe import expand
from tests.small import CLASSES, distance, node, same_weights, samples, weights
from tests.small import own_cache as own_cache

SIZES = (10, 13, 22, 16, 3)
"""Unequal shards, and one with fewer samples than a batch."""
TRAINING = Training(lr=0.1, batch_size=4)
Job = Callable[[Node], Fit]


def clients(spec: str, training: Training, shape: Shape = (1, 8, 8), double: bool = True) -> list[Node]:
    """Clients with unequal shards and weights of their own, in float64 unless said otherwise."""
    made = []
    for client, size in enumerate(SIZES):
        each = node(client, clients=len(SIZES), training=training)
        each.data, each.transfer = samples(size, "private", client, shape=shape), samples(14, "transfer", shape=shape)  # type: ignore[arg-type]
        each.transfer = replace(each.transfer, y=None)
        each.shape, each.specs = shape, (spec,) * len(SIZES)
        each.models = {"student": build_model(spec, shape, CLASSES, client, "init")}
        if double:
            each.student.double()
            each.data, each.transfer = (replace(part, x=part.x.double()) for part in (each.data, each.transfer))
        made.append(each)
    return made


def labels(client: Node) -> Fit:  # noqa: ARG001
    return Fit(Local().loss)


def soft(client: Node) -> Fit:
    teacher = torch.randn(14, CLASSES, generator=stream("teacher", client.id)).to(client.student.head.weight.dtype)
    return Fit(KD(temperature=2.0).loss, Target(teacher))


def near(client: Node) -> Fit:
    start = {name: value.detach() + 0.1 for name, value in client.student.named_parameters()}
    return Fit(FedProx(mu=0.5).loss, fixed=start)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of clients of every stack that has trained."""
    seen: list[int] = []
    plain = stacked.Stack.trained

    def watched(self: stacked.Stack) -> list[Tensor | Exception]:
        losses = plain(self)
        seen.append(len(self.clients))
        return losses

    monkeypatch.setattr(stacked.Stack, "trained", watched)
    return seen


def assert_as_alone(spec: str, training: Training, job: Job, within: float = 1e-9, **given: Any) -> None:
    """Weights, buffers, mean losses, steps and samples in lockstep are those one by one."""
    alone, stack = clients(spec, training, **given), clients(spec, training, **given)
    before = [weights(each.student) for each in stack]
    expected = [fit(each, job(each)) for each in alone]
    losses = fit_stacked(stack, [job(each) for each in stack])
    for mine, its, start in zip(stack, alone, before, strict=True):
        assert distance(weights(mine.student), weights(its.student)) <= within
        assert distance(weights(mine.student), start) > 2 * within, "it has learnt"
        assert (mine.steps, mine.samples) == (its.steps, its.samples)
    for loss, other in zip(losses, expected, strict=True):
        assert isinstance(loss, Tensor)
        assert float(loss) == pytest.approx(float(other), abs=max(within, 1e-5))


NETWORKS = [
    "mlp",
    "cnn",
    "fedavg_cnn",
    "lenet5(norm='group')",
    "resnet8",
    "resnet8(norm='batch')",
    "wrn(depth=10, width=1)",
]


@pytest.mark.parametrize("spec", NETWORKS)
def test_every_kind_of_network(spec: str, together: list[int]) -> None:
    assert_as_alone(spec, replace(TRAINING, momentum=0.9, epochs=2), soft)
    assert together == [4], "the client whose batch is smaller trains alone"


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.9, "weight_decay": 0.1},
        {"optimizer": "adam", "weight_decay": 0.1, "lr": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.1, "lr": 0.01},
        {"clip": 0.1, "momentum": 0.5},
        {"clip": 0.1, "optimizer": "adam"},
        {"schedule": "cosine", "warmup": 0.5},
        {"schedule": "cosine", "optimizer": "adamw", "weight_decay": 0.1},
        {"augment": "crop(padding=1)+flip"},
        {"steps": 5},
        {"batch_size": 64},
    ],
    ids=str,
)
@pytest.mark.parametrize("job", [labels, soft, near], ids=lambda job: job.__name__)
def test_every_way_to_take_steps(settings: dict[str, Any], job: Job) -> None:
    assert_as_alone("mlp(hidden=[8])", replace(TRAINING, **({"epochs": 3} | settings)), job)


def test_in_float32_within_its_rounding() -> None:
    assert_as_alone("cnn", replace(TRAINING, momentum=0.9), soft, within=2e-5, double=False)


def test_bfloat16_is_rounded_as_it_is_alone(together: list[int]) -> None:
    assert_as_alone("mlp", replace(TRAINING, precision="bfloat16"), labels, within=2e-3, double=False)
    assert together == [4]


def test_a_compiled_stack_learns_the_same(together: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: plain(self, backend="aot_eager"))
    assert_as_alone("mlp(hidden=[8])", replace(TRAINING, compile=True), labels)
    assert together == [4]


def test_cells_of_a_search_differ_in_every_number(together: list[int]) -> None:
    # One client, the same batches, and other hyper-parameters of the method and of the optimiser.
    cells = [(1.0, 0.1, 0.0, 0.0), (4.0, 0.02, 0.9, 0.0), (4.0, 0.02, 0.5, 0.1), (1.0, 0.3, 0.0, 0.01)]
    made: list[list[Node]] = []
    for _ in range(2):
        made.append([])
        for temperature, lr, momentum, decay in cells:
            each = clients("mlp", replace(TRAINING, lr=lr, momentum=momentum, weight_decay=decay))[1]
            each.records["", "temperature"] = temperature
            made[-1].append(each)
    jobs = [replace(soft(each), loss=KD(temperature=each.records["", "temperature"]).loss) for each in made[0]]
    for each, job in zip(made[0], jobs, strict=True):
        fit(each, job)
    fit_stacked(made[1], jobs)
    assert together == [4]
    for mine, its in zip(made[1], made[0], strict=True):
        assert distance(weights(mine.student), weights(its.student)) <= 1e-12
    assert len({float(each.student.head.bias[0].detach()) for each in made[1]}) == 4


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_client_that_diverges_changes_no_other(optimizer: Any) -> None:
    training = replace(TRAINING, optimizer=optimizer, clip=1.0)
    alone, stack = clients("mlp", training), clients("mlp", training)
    for nodes in (alone, stack):
        with torch.no_grad():
            nodes[2].student.head.bias[0] = torch.inf
    for each in alone:
        if each.id != 2:
            fit(each, labels(each))
    losses = fit_stacked(stack, [labels(each) for each in stack])
    assert [isinstance(loss, DivergedError) for loss in losses] == [False, False, True, False, False]
    for mine, its in zip(stack, alone, strict=True):
        assert mine.id == 2 or distance(weights(mine.student), weights(its.student)) <= 1e-9


def test_networks_with_dropout_train_one_by_one(together: list[int]) -> None:
    def with_dropout() -> list[Node]:
        made = clients("mlp", TRAINING, double=False)
        for each in made:
            torch.manual_seed(each.id)
            each.models["student"] = Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5)), 8, CLASSES)
        return made

    alone, stack = with_dropout(), with_dropout()
    for each in alone:
        fit(each, labels(each))
    fit_stacked(stack, [labels(each) for each in stack])
    assert not together
    assert all(same_weights(weights(a.student), weights(b.student)) for a, b in zip(alone, stack, strict=True))


def looks(batch: Batch) -> Tensor:
    """A loss that decides by a value."""
    loss = cross_entropy(batch.labelled, batch.labels)
    return loss * 2 if float(loss.detach()) > 1 else loss


def reads_state(batch: Batch) -> Tensor:
    """A loss that reads what is at one client only."""
    return cross_entropy(batch.labelled, batch.labels) * batch.node.state["factor"]


def reads_model(batch: Batch) -> Tensor:
    """A loss that reads the parameters of the client's network by itself."""
    pulls = torch.stack([value.square().sum() for value in batch.node.student.parameters()])
    return cross_entropy(batch.labelled, batch.labels) + pulls.sum()


@pytest.mark.parametrize("loss", [looks, reads_state, reads_model])
def test_a_loss_that_cannot_be_stacked_is_right_all_the_same(
    loss: Callable[[Batch], Tensor], together: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    stacked._say.cache_clear()
    alone, stack = clients("mlp", TRAINING), clients("mlp", TRAINING)
    for each in (*alone, *stack):
        each.state["factor"] = torch.tensor(0.5 + each.id)
    for each in alone:
        fit(each, Fit(loss))
    with caplog.at_level(logging.WARNING, "fedkd"):
        fit_stacked(stack, [Fit(loss) for _ in stack])
    assert not together
    assert all(same_weights(weights(a.student), weights(b.student)) for a, b in zip(alone, stack, strict=True))
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()
    assert "train one by one" in caplog.records[0].getMessage()


def test_a_loss_made_for_one_client_is_never_used_for_another(together: list[int]) -> None:
    def job(client: Node) -> Fit:
        def loss(batch: Batch) -> Tensor:
            return cross_entropy(batch.labelled, batch.labels) * (1 + client.id)

        return Fit(loss)

    assert_as_alone("mlp", TRAINING, job)
    assert not together


def test_plans_go_on_with_what_they_are_sent_and_end_apart(together: list[int]) -> None:
    def plan(client: Node) -> Generator[Fit, Tensor, float]:
        losses = 0.0
        for epoch in range(client.id + 1):
            losses += float((yield Fit(Local().loss, steps=2, first=2 * epoch)))
        return losses

    alone, stack = clients("mlp", TRAINING)[:3], clients("mlp", TRAINING)[:3]
    expected = [train_together([each], [plan(each)])[0] for each in alone]
    assert train_together(stack, [plan(each) for each in stack]) == pytest.approx(expected, rel=1e-5)
    assert together == [3, 2]


def test_a_plan_that_fails_ends_alone() -> None:
    def plan(client: Node) -> Iterator[Fit]:
        yield Fit(Local().loss)
        if client.id == 1:
            raise OSError("broken")

    outcomes = train_together(nodes := clients("mlp", TRAINING)[:3], [plan(each) for each in nodes])
    assert [type(outcome) for outcome in outcomes] == [type(None), OSError, type(None)]


def test_an_error_in_training_reaches_the_plan() -> None:
    def plan(client: Node) -> Iterator[Fit]:
        try:
            yield Fit(Local().loss)
        except DivergedError as error:
            raise DivergedError(f"at client {client.id}, {error}") from error

    nodes: Sequence[Node] = clients("mlp", TRAINING)[:3]
    with torch.no_grad():
        nodes[0].student.head.bias[0] = torch.inf
    outcomes = train_together(nodes, [plan(each) for each in nodes])
    assert str(outcomes[0]).startswith("at client 0, its training loss is not finite")
    assert outcomes[1:] == [None, None]


def test_the_benchmark_measures_both_ways_and_its_gpu_mode_runs() -> None:
    case = stacking.Case("cnn", (1, 8, 8), 2, samples=32)
    cpu = torch.device("cpu")
    (line,) = stacking.lines([case], 1, cpu)
    assert line.startswith("| cnn, 8×8, 2 clients |")
    assert stacking.replayed(case, 1, cpu).median > 0
    with patch("torch.cuda.is_available", lambda: False), patch("sys.argv", ["stacking", "--device", "cuda"]):
        assert stacking.main() == 2


class TestSize:
    @pytest.mark.parametrize(
        ("spec", "shape", "gains"),
        [
            ("mlp", (1, 8, 8), True),
            ("mlp(hidden=[8])", (1, 8, 8), True),
            ("cnn(width=8)", (1, 8, 8), True),
            ("cnn", (1, 28, 28), False),
            ("resnet8", (3, 32, 32), False),
            ("gpt", (32,), False),
        ],
    )
    def test_auto_stacks_what_has_been_measured_to_gain(self, spec: str, shape: Shape, gains: bool) -> None:
        assert (stack_size(Training(stack="auto"), spec, shape) > 1) is gains
        assert stack_size(Training(), spec, shape) == 1
        assert stack_size(Training(stack=7), spec, shape) == 7

    def test_it_does_not_depend_on_the_machine(self) -> None:
        before = stack_size(Training(stack="auto"), "mlp", (1, 8, 8))
        with patch("os.cpu_count", lambda: 64), patch("torch.cuda.is_available", lambda: True):
            assert stack_size(Training(stack="auto"), "mlp", (1, 8, 8)) == before

    @pytest.mark.parametrize("value", ["0", "-2", '"many"', "1.5", "true"])
    def test_a_senseless_one_is_refused(self, value: str) -> None:
        with pytest.raises(UserError, match=r"recipe key 'train\.stack'.*'auto'|recipe key 'train\.stack'.*found"):
            expand("study", {"method": "kd"}, [f"train.stack={value}"])

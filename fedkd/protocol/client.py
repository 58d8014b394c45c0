"""One exchange at a client: a short function a phase. State lies on the node's own disk between exchanges."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fedkd.base.store import read_tensors, write_tensors
from fedkd.channels.contract import CHANNELS
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import scoped, under
from fedkd.knowledge.weights import unpacked
from fedkd.models import build_model, restored_model
from fedkd.node.holdings import Holdings
from fedkd.node.moment import Moment, Phase
from fedkd.node.node import Node
from fedkd.node.received import predicted
from fedkd.protocol.keeping import keep
from fedkd.protocol.schedule import Schedule, schedule_of
from fedkd.settings.federation import Federation
from fedkd.training.finite import check_weights
from fedkd.training.pretrain import Spent, pretrain


@dataclass(frozen=True)
class Reply:
    """What a client sends back."""

    report: Knowledge | None
    metrics: dict[tuple[str, str], float]
    """by (split, metric)"""


class StateLostError(RuntimeError):
    """A client's state of its last exchange is not on its disk any more."""


@dataclass(eq=False)
class _Visit:
    """One client in one exchange: what the functions of the phases read and change."""

    schedule: Schedule
    moment: Moment
    node: Node
    knowledge: Knowledge
    holdings: Holdings
    store: Path
    started_right: Tensor | None = None
    """which test samples were right at the start"""
    report: Knowledge | None = None
    metrics: dict[tuple[str, str], float] = field(default_factory=dict)
    starting: float = 0.0
    """seconds that the first model took"""

    @property
    def federation(self) -> Federation:
        return self.schedule.federation

    @property
    def evaluates(self) -> bool:
        """Whether the client's model may have changed in a way that results show."""
        return self.moment.begins or self.moment.phase in (Phase.START, Phase.ROUND)


def take_part(
    federation: Federation, client: int, exchange: int, knowledge: Knowledge, holdings: Holdings, store: Path
) -> Reply:
    """One exchange of one client: act as the phase asks, be evaluated, report.

    Reads the state that the client's last exchange left in `store` and writes its own beside it, so that a repeated
    message finds what the first attempt found and gives the same reply.

    Raises:
        StateLostError: the client's last exchange left no readable state.
        DivergedError: the training loss or a weight is not finite.
    """
    began = time.perf_counter()
    schedule = schedule_of(federation)
    moment, device = schedule.moments[exchange], best_device()
    holdings = holdings.to(device)
    node = _node(schedule, client, moment, holdings, device)
    visit = _Visit(schedule, moment, node, knowledge, holdings, store)
    if moment.phase is not Phase.START:
        _restore(visit)
    _PHASES[moment.phase](visit)
    check_weights(node.student)
    if visit.evaluates:
        _evaluate(visit)
    if moment.begins:
        schedule.method.setup(node)
    if client in schedule.reporters(moment):
        _report(visit)
    _keep(visit)
    metrics = visit.metrics | node.records
    metrics["", "steps"], metrics["", "samples"] = node.steps, node.samples
    # A start belongs to all federations that begin from it: what it took is no cost of the one that came first.
    metrics["", "seconds"] = time.perf_counter() - began - visit.starting
    return Reply(visit.report, metrics)


def _node(schedule: Schedule, client: int, moment: Moment, holdings: Holdings, device: torch.device) -> Node:
    federation = schedule.federation
    return Node(
        client,
        federation.clients,
        federation.seed,
        federation.train,
        holdings.classes,
        data=holdings.data,
        val=holdings.val,
        transfer=holdings.transfer,
        device=device,
        students=federation.students and federation.learners,
        teachers=federation.teachers and federation.tutors,
        specs=federation.client_models,
        shape=holdings.shape,
        channel=CHANNELS.build(federation.channel),
        moment=moment,
        rounds=federation.rounds,
    )


def _start(visit: _Visit) -> None:
    """Take up the first model: drawn, brought along, or pre-trained on the client's own samples."""
    federation, node, holdings = visit.federation, visit.node, visit.holdings
    spec = federation.client_models[node.id]
    owner = "common" if federation.init == "common" else f"client {node.id}"
    node.models["student"] = build_model(
        spec, holdings.shape, holdings.classes, federation.seed, f"init/{owner}", node.id
    )
    node.student.to(node.device)
    began, spent = time.perf_counter(), Spent()
    if federation.start != "random":
        spent = pretrain(node, node.student, spec, federation.pretrain)
    visit.starting = time.perf_counter() - began
    visit.metrics |= {("", f"pretrain_{name}"): float(value) for name, value in asdict(spent).items()}
    visit.metrics["", "parameters"] = sum(parameter.numel() for parameter in node.student.parameters())


def _hand_over(visit: _Visit) -> None:
    """Distil and pass the model on, if it is this client's turn."""
    plan = visit.schedule.consolidation
    assert plan is not None
    visit.report = plan.hand_over(visit.node, visit.knowledge) if visit.knowledge else None


def _take_up(visit: _Visit) -> None:
    """Replace the client's model by the common one."""
    visit.node.student.load_state_dict(unpacked(visit.knowledge))
    visit.knowledge = Knowledge()


def _prepare(visit: _Visit) -> None:
    visit.knowledge = predicted(visit.node, visit.knowledge)
    visit.schedule.method.prepare(visit.node, visit.knowledge)


def _learn(visit: _Visit) -> None:
    visit.knowledge = predicted(visit.node, visit.knowledge)
    visit.schedule.method.learn(visit.node, visit.knowledge)


_PHASES: dict[Phase, Callable[[_Visit], None]] = {
    Phase.START: _start,
    Phase.HANDOVER: _hand_over,
    Phase.TAKE_UP: _take_up,
    Phase.PREPARE: _prepare,
    Phase.ROUND: _learn,
}


def _evaluate(visit: _Visit) -> None:
    """Measure the client's model beside the method, and what it was taught."""
    node, moment = visit.node, visit.moment
    detailed = moment.phase is Phase.START or not visit.schedule.goes_on(node.id, moment)
    evaluation = visit.holdings.evaluate(node.student, visit.started_right, detailed, node.compute)
    visit.metrics |= evaluation.metrics
    if evaluation.transfer_logits is not None:
        node.remember_transfer_logits(evaluation.transfer_logits)
    visit.started_right = evaluation.right if visit.started_right is None else visit.started_right
    if moment.round > 0 and "logits" in visit.knowledge:
        teachers = node.predictions(visit.knowledge)
        visit.metrics |= visit.holdings.evaluate_teacher(evaluation.transfer_logits, teachers)


def _report(visit: _Visit) -> None:
    """What the client sends: what the method asks for, or its model on the way to a common one."""
    if visit.moment.begins or visit.moment.phase in (Phase.PREPARE, Phase.ROUND):
        visit.report = visit.schedule.method.report(visit.node)
    elif visit.moment.phase is Phase.START:
        assert visit.schedule.consolidation is not None
        visit.report = visit.schedule.consolidation.report(visit.node)


def _restore(visit: _Visit) -> None:
    """Take up what the client's last exchange left on its disk."""
    node = visit.node
    before = visit.schedule.previous(node.id, visit.moment)
    state = read_tensors(_state_file(visit.store, node.id, before.exchange), node.device)
    if state is None:
        raise StateLostError(f"client {node.id} has no state of exchange {before.exchange} in {visit.store}")
    node.models["student"] = restored_model(
        node.specs[node.id], node.shape, node.classes, under("model/student/", state)
    )
    node.state.update(under("state/", state))
    visit.started_right = state["started_right"]
    if _keeps_knowledge(visit):
        # Frozen teachers teach in every round, but travel once.
        visit.knowledge = Knowledge({**under("kept/", state), **visit.knowledge})


def _keeps_knowledge(visit: _Visit) -> bool:
    return visit.schedule.method.keeps and visit.moment.phase in (Phase.PREPARE, Phase.ROUND)


def _keep(visit: _Visit) -> None:
    """Leave on the client's disk what its next exchange needs, and its model where the recipe asks for that."""
    node, schedule, store = visit.node, visit.schedule, visit.store
    goes_on = schedule.goes_on(node.id, visit.moment)
    if visit.federation.save != "none" and visit.evaluates:
        keep(visit.federation, node, visit.metrics, store, last=not goes_on)
    if goes_on:
        tensors = scoped("model/student/", node.student.state_dict()) | scoped("state/", node.state)
        if _keeps_knowledge(visit):
            tensors |= scoped("kept/", visit.knowledge)
        assert visit.started_right is not None
        write_tensors(
            _state_file(store, node.id, visit.moment.exchange), tensors | {"started_right": visit.started_right}
        )
    # What this exchange has read stays: the server may still ask for it again.
    if visit.moment.exchange > 0:
        read = schedule.previous(node.id, visit.moment)
        if read.exchange > 0:
            _state_file(store, node.id, schedule.previous(node.id, read).exchange).unlink(missing_ok=True)


def forget(client: int, store: Path) -> None:
    """Remove what this client's exchanges left on its disk."""
    for file in store.glob(f"client-{client}-*"):
        file.unlink(missing_ok=True)


def started(store: Path) -> int:
    """How many clients have written the state of the start."""
    return sum(1 for _ in store.glob("client-*-0.state"))


def has_state(store: Path, client: int, exchange: int) -> bool:
    """Whether a client could go on after this exchange: its state is there, and whole."""
    return read_tensors(_state_file(store, client, exchange)) is not None


def _state_file(store: Path, client: int, exchange: int) -> Path:
    return store / f"client-{client}-{exchange}.state"


def best_device() -> torch.device:
    """The GPU that this process may use, where there is one: Ray shows a client only what it was given."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_one_thread() -> None:
    """One torch thread a client: with more, sums change with the number of cores, and the numbers with them."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)

"""One exchange at a client, with one short function for each phase. Between exchanges its state is on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fedkd.base.allocation import keep_freed_memory
from fedkd.base.stopwatch import Stopwatch
from fedkd.base.store import read_tensors, write_tensors
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import scoped, under
from fedkd.knowledge.weights import unpacked
from fedkd.models import build_model, restored_model
from fedkd.node.holdings import Holdings
from fedkd.node.moment import Moment, Phase
from fedkd.node.node import Node
from fedkd.node.received import predicted
from fedkd.protocol.files import drop_outdated, state_file
from fedkd.protocol.keeping import keep
from fedkd.protocol.participant import participant
from fedkd.protocol.schedule import Schedule, schedule_of
from fedkd.settings.federation import Federation
from fedkd.training.finite import check_weights
from fedkd.training.pretrain import Spent, pretrain


@dataclass(frozen=True)
class Reply:
    """The reply of a client."""

    report: Knowledge | None
    metrics: dict[tuple[str, str], float]
    """by (split, metric)"""
    seconds: dict[str, float] = field(default_factory=dict)
    """where the time of the exchange went: training, evaluation, reports, state"""


class StateLostError(RuntimeError):
    """The state of a client's last exchange is missing on its disk."""


@dataclass(eq=False)
class Visit:
    """One client in one exchange: the values that the functions of the phases read and change."""

    schedule: Schedule
    moment: Moment
    node: Node
    knowledge: Knowledge
    holdings: Holdings
    store: Path
    watch: Stopwatch
    started_right: Tensor | None = None
    """which samples of the main split were right at the start"""
    report: Knowledge | None = None
    metrics: dict[tuple[str, str], float] = field(default_factory=dict)
    starting: float = 0.0
    """seconds to make the first model"""

    @property
    def federation(self) -> Federation:
        return self.schedule.federation

    @property
    def evaluates(self) -> bool:
        """Whether the client is evaluated after this exchange."""
        return self.schedule.is_evaluated(self.node.id, self.moment)


def take_part(
    federation: Federation, client: int, exchange: int, knowledge: Knowledge, holdings: Holdings, store: Path
) -> Reply:
    """One exchange of one client: run the phase, evaluate the model, report.

    It reads the state of the client's last exchange from `store` and writes the new state to another file. So a
    repeated message reads the same state as the first attempt and gives the same reply.

    Raises:
        StateLostError: the client's last exchange left no readable state.
        DivergedError: the training loss or a weight is not finite.
    """
    visit = arrive(federation, client, exchange, knowledge, holdings, store)
    _PHASES[visit.moment.phase](visit)
    return leave(visit)


def arrive(
    federation: Federation, client: int, exchange: int, knowledge: Knowledge, holdings: Holdings, store: Path
) -> Visit:
    """The beginning of an exchange, up to what the phase does: the client has the state of its last exchange."""
    schedule = schedule_of(federation)
    moment, device = schedule.moments[exchange], best_device()
    watch = Stopwatch()
    holdings = holdings.to(device)
    node = participant(schedule, client, holdings, moment, device)
    visit = Visit(schedule, moment, node, knowledge, holdings, store, watch)
    if moment.phase is not Phase.START:
        _restore(visit)
    watch.lap("state")
    return visit


def leave(visit: Visit) -> Reply:
    """The end of an exchange: evaluate the model, report, write the state.

    Raises:
        DivergedError: a weight is not finite.
    """
    node, moment, schedule, watch = visit.node, visit.moment, visit.schedule, visit.watch
    check_weights(node.student)
    watch.lap("training")
    if visit.evaluates:
        _evaluate(visit)
    watch.lap("evaluation")
    if moment.begins:
        schedule.method.setup(node)
    if node.id in schedule.reporters(moment):
        _report(visit)
    watch.lap("reports")
    _keep(visit)
    watch.lap("state")
    metrics = visit.metrics | node.records
    metrics["", "steps"], metrics["", "samples"] = node.steps, node.samples
    # Several federations share a start, so the federation that ran first must not count its time.
    metrics["", "seconds"] = watch.total - visit.starting
    return Reply(visit.report, metrics, watch.seconds)


def _start(visit: Visit) -> None:
    """Make the first model: initialised at random, from a checkpoint, or pre-trained on the client's samples."""
    build(visit)
    began, spent, node = time.perf_counter(), Spent(), visit.node
    if visit.federation.start != "random":
        spent = pretrain(node, node.student, node.specs[node.id], visit.federation.pretrain)
    book_start(visit, spent, time.perf_counter() - began)


def build(visit: Visit) -> None:
    """The client's first model, as its weights are drawn or brought."""
    federation, node, holdings = visit.federation, visit.node, visit.holdings
    owner = "common" if federation.init == "common" else f"client {node.id}"
    node.models["student"] = build_model(
        node.specs[node.id], holdings.shape, holdings.classes, federation.seed, f"init/{owner}", node.id
    )
    node.student.to(node.device)


def book_start(visit: Visit, spent: Spent, seconds: float) -> None:
    """Record the cost of a pre-training that took `seconds` now; from a cache it takes less than it cost."""
    visit.starting = seconds
    visit.metrics |= {("", f"pretrain_{name}"): float(value) for name, value in asdict(spent).items()}
    visit.metrics["", "parameters"] = sum(parameter.numel() for parameter in visit.node.student.parameters())


def _hand_over(visit: Visit) -> None:
    """Distil and pass the model on, if it is this client's turn."""
    plan = visit.schedule.consolidation
    assert plan is not None
    visit.report = plan.hand_over(visit.node, visit.knowledge) if visit.knowledge else None


def _take_up(visit: Visit) -> None:
    """Replace the client's model by the common one."""
    visit.node.student.load_state_dict(unpacked(visit.knowledge))
    visit.knowledge = Knowledge()


def _prepare(visit: Visit) -> None:
    visit.knowledge = predicted(visit.node, visit.knowledge)
    visit.schedule.method.prepare(visit.node, visit.knowledge)


def _learn(visit: Visit) -> None:
    visit.knowledge = predicted(visit.node, visit.knowledge)
    visit.schedule.method.learn(visit.node, visit.knowledge)


_PHASES: dict[Phase, Callable[[Visit], None]] = {
    Phase.START: _start,
    Phase.HANDOVER: _hand_over,
    Phase.TAKE_UP: _take_up,
    Phase.PREPARE: _prepare,
    Phase.ROUND: _learn,
}


def _evaluate(visit: Visit) -> None:
    """Evaluate the client's model, and the teachers' predictions that it received."""
    node, moment = visit.node, visit.moment
    detailed = moment.phase is Phase.START or not visit.schedule.goes_on(node.id, moment)
    whole = detailed or moment.begins
    evaluation = visit.holdings.evaluate(node.student, visit.started_right, detailed, node.compute, whole)
    visit.metrics |= evaluation.metrics
    if evaluation.transfer_logits is not None:
        node.remember_transfer_logits(evaluation.transfer_logits)
    visit.started_right = evaluation.right if visit.started_right is None else visit.started_right
    if moment.round > 0 and "logits" in visit.knowledge and visit.schedule.evaluates(moment):
        teachers = node.predictions(visit.knowledge)
        visit.metrics |= visit.holdings.evaluate_teacher(evaluation.transfer_logits, teachers)


def _report(visit: Visit) -> None:
    """Make the client's report: that of the method, or that of the consolidation at the start."""
    if visit.moment.begins or visit.moment.phase in (Phase.PREPARE, Phase.ROUND):
        visit.report = visit.schedule.method.report(visit.node)
    elif visit.moment.phase is Phase.START:
        assert visit.schedule.consolidation is not None
        visit.report = visit.schedule.consolidation.report(visit.node)


def _restore(visit: Visit) -> None:
    """Load the state of the client's last exchange from its disk."""
    node = visit.node
    before = visit.schedule.previous(node.id, visit.moment)
    state = read_tensors(state_file(visit.store, node.id, before.exchange), node.device)
    if state is None:
        raise StateLostError(f"client {node.id} has no state of exchange {before.exchange} in {visit.store}")
    # Copied where it was received, because training changes it and the message may be handled again.
    model = under("model/student/", state) or {
        name: tensor.to(node.device, copy=True) for name, tensor in unpacked(visit.knowledge).items()
    }
    node.models["student"] = restored_model(node.specs[node.id], node.shape, node.classes, model)
    node.state.update(under("state/", state))
    visit.started_right = state.get("started_right")
    if _keeps_knowledge(visit):
        # Frozen teachers teach in every round, but their knowledge is sent only once.
        visit.knowledge = Knowledge({**under("kept/", state), **visit.knowledge})


def _keeps_knowledge(visit: Visit) -> bool:
    return visit.schedule.method.keeps and visit.moment.phase in (Phase.PREPARE, Phase.ROUND)


def _keep(visit: Visit) -> None:
    """Write the state that the client's next exchange needs, and its model if the recipe asks for it."""
    node, schedule, store = visit.node, visit.schedule, visit.store
    following = schedule.following(node.id, visit.moment)
    if visit.federation.save != "none" and (visit.evaluates or following is None):
        keep(visit.federation, node, visit.metrics, store, last=following is None)
    if following is not None:
        tensors = scoped("state/", node.state)
        if not (schedule.method.replaces_models and following.phase is Phase.ROUND):
            tensors |= scoped("model/student/", node.student.state_dict())
        if _keeps_knowledge(visit):
            tensors |= scoped("kept/", visit.knowledge)
        if visit.started_right is not None:
            tensors["started_right"] = visit.started_right
        write_tensors(state_file(store, node.id, visit.moment.exchange), tensors)
    drop_outdated(schedule, node.id, visit.moment, store)


def best_device() -> torch.device:
    """The GPU that this process may use, else the CPU. Ray shows a client only the GPUs that it was given."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_up_process() -> None:
    """Set this process up to train: one torch thread, and freed memory is used again."""
    keep_freed_memory()
    use_one_thread()


def use_one_thread() -> None:
    """Use one torch thread: with more, sums and so results would depend on the number of cores."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)

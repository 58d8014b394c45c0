"""One exchange at a client: learn, be judged, report. State lives on the node's own disk between exchanges."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedkd.base.store import read_tensors, write_tensors
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.weights import unpacked
from fedkd.models import build_model, restored_model
from fedkd.node.holdings import Holdings
from fedkd.node.node import Node
from fedkd.node.received import predicted
from fedkd.protocol.keeping import keep
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
    """A client's state of the last exchange is not on its disk any more."""


def serve(
    federation: Federation, client: int, exchange: int, knowledge: Knowledge, holdings: Holdings, store: Path
) -> Reply:
    """Exchange number `exchange` of one client: 0 is the start, then the method's preparations, then the rounds.

    Reads the state that exchange − 1 left in `store` and writes its own beside it, so that a repeated message
    finds what the first attempt found and gives the same reply.

    Raises:
        StateLostError: exchange − 1 left no readable state.
        DivergedError: the training loss or a weight is not finite.
    """
    began = time.perf_counter()
    device = best_device()
    holdings = holdings.to(device)
    method, plan = federation.built, federation.consolidation
    last, own = federation.last_exchange, exchange - federation.offset
    node = Node(
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
        round=max(0, own - method.preparations),
        exchange=max(0, own),
    )
    model = federation.client_models[client]
    started_right: Tensor | None = None
    metrics: dict[tuple[str, str], float] = {}
    starting = 0.0
    if exchange == 0:
        owner = "common" if federation.init == "common" else f"client {client}"
        node.models["student"] = build_model(
            model, holdings.shape, holdings.classes, federation.seed, f"init/{owner}", client
        )
        node.student.to(device)
        started, spent = time.perf_counter(), Spent()
        if federation.start != "random":
            spent = pretrain(node, node.student, model, federation.pretrain)
        # A start belongs to all federations that begin from it: what it took is no cost of the one that came first.
        starting = time.perf_counter() - started
        metrics |= {("", f"pretrain_{name}"): float(value) for name, value in asdict(spent).items()}
        metrics["", "parameters"] = sum(parameter.numel() for parameter in node.student.parameters())
    else:
        state = read_tensors(_place(store, client, exchange - 1), device)
        if state is None:
            raise StateLostError(f"client {client} has no state of exchange {exchange - 1} in {store}")
        node.models["student"] = restored_model(
            model, holdings.shape, holdings.classes, _under("model/student/", state)
        )
        node.state.update(_under("state/", state))
        started_right = state["started_right"]
        if method.refresh == "once" and own > 0:
            # Frozen teachers teach in every round, but travel once.
            knowledge = Knowledge({**_under("kept/", state), **knowledge})

    handed: Knowledge | None = None
    if exchange > 0 and own < 0:
        assert plan is not None
        handed = plan.hand_over(node, knowledge) if knowledge else None
    elif plan and own == 0:
        node.student.load_state_dict(unpacked(knowledge))
        knowledge = Knowledge()
    else:
        knowledge = predicted(node, knowledge)
        if node.round > 0:
            method.learn(node, knowledge)
        elif own > 0:
            method.prepare(node, knowledge)
    check_weights(node.student)
    if exchange == 0 or own == 0 or node.round > 0:
        judged = holdings.judge(node.student, started_right, detailed=exchange in (0, last))
        metrics |= judged.metrics
        node.remember_transfer_logits(judged.transfer_logits)
        started_right = judged.right if started_right is None else started_right
        if node.round > 0 and "logits" in knowledge:
            metrics |= holdings.judge_teacher(judged.transfer_logits, node.predictions(knowledge))
        if own == 0:
            method.setup(node)
    if own < 0:
        assert plan is not None
        report = handed if exchange else plan.report(node)
    else:
        report = method.report(node) if reports(federation, exchange, client) else None

    goes_on = exchange < last and client in federation.learners
    if federation.save != "none" and (exchange == 0 or own == 0 or node.round > 0):
        keep(federation, node, metrics, store, last=not goes_on)
    if goes_on:
        tensors = {f"model/student/{key}": value for key, value in node.student.state_dict().items()}
        tensors |= {f"state/{key}": value for key, value in node.state.items()}
        if method.refresh == "once" and own > 0:
            tensors |= {f"kept/{key}": value for key, value in knowledge.items()}
        assert started_right is not None
        write_tensors(_place(store, client, exchange), tensors | {"started_right": started_right})
    # The last exchange's input stays: the server may still ask for it again.
    _place(store, client, exchange - 2).unlink(missing_ok=True)

    metrics |= node.records
    metrics["", "steps"], metrics["", "samples"] = node.steps, node.samples
    metrics["", "seconds"] = time.perf_counter() - began - starting
    return Reply(report, metrics)


def reports(federation: Federation, exchange: int, client: int | None = None) -> bool:
    """Whether this client, or anybody, reports after this exchange: nobody would read a report after the last one.

    Teachers report at the start, and those of them that learn after every round where the method asks for it;
    what the preparations find is reported by whoever learns.
    """
    method, exchange = federation.built, exchange - federation.offset
    if exchange < 0:
        return True
    if method.refresh == "never":
        return False
    if 0 < exchange <= method.preparations:
        asked = federation.rounds > 0 or exchange < method.preparations
        return asked and (client is None or client in federation.learners)
    if exchange == 0:
        asked = federation.rounds > 0 or method.preparations > 0 or method.has_global_model
    else:
        goes_on = exchange < method.preparations + federation.rounds
        asked = method.refresh == "every round" and (goes_on or method.has_global_model)
    return asked and (client is None or client in federation.tutors or method.teachers == "self")


def forget(client: int, store: Path) -> None:
    """Remove what this client's exchanges left on its disk."""
    for file in store.glob(f"client-{client}-*"):
        file.unlink(missing_ok=True)


def has_state(store: Path, client: int, exchange: int) -> bool:
    """Whether a client could go on after this exchange: its state is there, and whole."""
    return read_tensors(_place(store, client, exchange)) is not None


def _place(store: Path, client: int, exchange: int) -> Path:
    return store / f"client-{client}-{exchange}.state"


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def best_device() -> torch.device:
    """The GPU that this process may use, where there is one: Ray shows a client only what it was given."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_one_thread() -> None:
    """One torch thread a client: with more, sums change with the number of cores, and the numbers with them."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)

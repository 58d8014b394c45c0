"""One exchange of the clients of a group: those of one stack train in lockstep, the others one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import plan_of
from fedkd.node.holdings import Loader
from fedkd.node.moment import Phase
from fedkd.node.received import predicted
from fedkd.protocol.client import Reply, Visit, arrive, book_start, build, leave, take_part
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.training.pretrain import Spent, pretrain_stack
from fedkd.training.together import train_together

Outcome = Reply | Exception


def take_part_together(
    federation: Federation, exchange: int, knowledge: Mapping[int, Knowledge], load: Loader, store: Path
) -> Iterator[tuple[int, Outcome]]:
    """`take_part` of every client in `knowledge`: its reply, or the exception that only this client raised."""
    if federation.train.stack == 1:
        stacks: list[tuple[int, ...]] = [(client,) for client in knowledge]
    else:
        schedule, shape = schedule_of(federation), load(federation, min(knowledge)).shape
        stacks = schedule.stacks(schedule.moments[exchange], shape, knowledge)
    for stack in stacks:
        bags = {client: knowledge[client] for client in stack}
        yield from _stack(federation, exchange, bags, load, store).items()


def _stack(
    federation: Federation, exchange: int, knowledge: Mapping[int, Knowledge], load: Loader, store: Path
) -> dict[int, Outcome]:
    """The outcome of every client of one stack."""
    phase = schedule_of(federation).moments[exchange].phase
    outcomes: dict[int, Outcome] = {}
    if len(knowledge) == 1 or phase not in (Phase.START, Phase.ROUND):
        for client, bag in knowledge.items():
            try:
                held = load(federation, client)
                outcomes[client] = take_part(federation, client, exchange, bag, held, store)
            except Exception as error:
                outcomes[client] = error
        return outcomes
    visits: list[Visit] = []
    for client, bag in knowledge.items():
        try:
            visit = arrive(federation, client, exchange, bag, load(federation, client), store)
            _ready(visit)
            visits.append(visit)
        except Exception as error:
            outcomes[client] = error
    for visit, failure in _trained(visits):
        try:
            if failure is not None:
                raise failure
            outcomes[visit.node.id] = leave(visit)
        except Exception as error:
            outcomes[visit.node.id] = error
    return {client: outcomes[client] for client in knowledge}


def _ready(visit: Visit) -> None:
    """What a client does alone before the stack trains: make its model, or predict with the models that it received."""
    if visit.moment.phase is Phase.START:
        build(visit)
    else:
        visit.knowledge = predicted(visit.node, visit.knowledge)
    visit.watch.lap("training")


def _trained(visits: list[Visit]) -> Iterator[tuple[Visit, Exception | None]]:
    """Train the clients together; yields each with the exception that ended its training, if one did."""
    if not visits:
        return
    began, federation, nodes = time.perf_counter(), visits[0].federation, [visit.node for visit in visits]
    if visits[0].moment.phase is Phase.ROUND:
        method = visits[0].schedule.method
        results = train_together(nodes, [plan_of(method, visit.node, visit.knowledge) for visit in visits])
    elif federation.start == "random":
        results = [Spent()] * len(visits)
    else:
        spec = nodes[0].specs[nodes[0].id]
        results = pretrain_stack(nodes, [node.student for node in nodes], spec, federation.pretrain)
    share = (time.perf_counter() - began) / len(visits)
    for visit, result in zip(visits, results, strict=True):
        visit.watch.resume(share)
        if isinstance(result, Exception):
            yield visit, result
        else:
            if isinstance(result, Spent):
                book_start(visit, result, share)
            yield visit, None

"""The server's side of a search: it merges reports for each cell, stops poor cells and chooses the best one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import numbered, scoped, under
from fedkd.node.node import Node
from fedkd.tuning.bags import PREFIX, bag, pack, shares
from fedkd.tuning.plan import SearchPlan
from fedkd.tuning.sampling import given_up, propose
from fedkd.tuning.scores import best, direction, ranked, value
from fedkd.tuning.state import CHOSEN, POINTS, SETUP
from fedkd.tuning.trying import DIVERGED, GOING, SCORES
from fedkd.tuning.views import as_if_untuned, drop, settle, state_of, view

_BATCH = f"{PREFIX}batch"
"""Numbers of all cells in the present batch."""
_START, _STATE, _SENT = f"{PREFIX}start/", f"{PREFIX}state/", f"{PREFIX}sent/"
_ALL = f"{PREFIX}all"
"""(learners, cells, steps, 2) scores so far; NaN where there are none."""


def begin(search: SearchPlan, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
    """After the start: the knowledge for the first batch of cells, from the reports of the start."""
    drop(server, SETUP)
    later = search.batches > 1
    for client, report in reports.items():
        if later or (search.side_by_side and client not in server.learners):
            server.state |= scoped(f"{_START}{client}/", report)
    return _batch(search, server, reports)


def go_on(search: SearchPlan, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
    """After an exchange of a batch: the knowledge for its next exchange, for the next batch, or the choice."""
    batch, step = search.when(server.moment)
    going = [int(number) for number in server.state[GOING]]
    scores = server.state[_ALL]
    for row, client in enumerate(server.learners):
        if client in reports and SCORES in reports[client]:
            scores[row, going, step - 1] = reports[client][SCORES]
    if step < search.steps:
        return _next_step(search, server, reports, going, step)
    if batch + 1 < search.batches:
        return _batch(search, server, _started(server))
    return _choice(search, server)


def merge_chosen(search: SearchPlan, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
    """The knowledge for each learner in a round, merged by the cell that was chosen for it."""
    cells = search.cells(server)
    merged: dict[int, Knowledge] = {}
    chosen = dict(zip(server.learners, server.state[CHOSEN].tolist(), strict=True))
    for number in dict.fromkeys(chosen.values()):
        with as_if_untuned(server, cells[number].training):
            knowledge = cells[number].method.merge(server, reports)
        merged |= {client: bag for client, bag in knowledge.items() if chosen[client] == number}
    return merged


def _batch(search: SearchPlan, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
    """The knowledge for each learner at the start of a new batch of cells."""
    before = server.state[_ALL].shape[1] if _ALL in server.state else 0
    news: dict[str, Tensor] = {}
    if search.sampler == "tpe":
        news[POINTS] = _proposed(search, server)
        known = server.state.get(POINTS, news[POINTS][:0])
        server.state[POINTS] = torch.cat([known, news[POINTS]])
    cells = search.cells(server)
    going = range(before, len(cells))
    server.state[GOING] = server.state[_BATCH] = torch.tensor(going, dtype=torch.int16)
    room = torch.full((len(server.learners), len(going), search.steps, 2), math.nan, dtype=torch.float64)
    server.state[_ALL] = torch.cat([server.state[_ALL], room], dim=1) if before else room
    merged = _merged(search, server, _at_start(search, server, reports, going), going, 0)
    messages = {}
    for student in server.learners:
        known_bags = [bytes(row.tolist()) for row in server.state.get(f"{_SENT}{student}", torch.empty(0, 32))]
        packed, digests = pack([each.get(student, Knowledge()) for each in merged], known_bags)
        if search.batches > 1:
            server.state[f"{_SENT}{student}"] = torch.tensor([list(mark) for mark in digests], dtype=torch.uint8)
        messages[student] = Knowledge(packed | news)
    return {student: message for student, message in messages.items() if message}


def _next_step(
    search: SearchPlan, server: Node, reports: Mapping[int, Knowledge], going: Sequence[int], step: int
) -> dict[int, Knowledge]:
    """The knowledge for each learner in the next round of the cells that are not stopped."""
    out = {int(number) for report in reports.values() for number in report.get(DIVERGED, torch.empty(0))}
    if search.pruner == "halving":
        out |= _given_up(search, server, [number for number in going if number not in out], step)
    cells = search.cells(server)
    for number in sorted(out):
        server.record(f"tuning_stopped/{cells[number].label}", step)
    on = [number for number in going if number not in out]
    server.state[GOING] = torch.tensor(on, dtype=torch.int16)
    news = {GOING: server.state[GOING]}
    if search.refresh != "every round":
        return dict.fromkeys(server.learners, Knowledge(news))
    moving = _opened(reports, [going.index(number) for number in on], len(going))
    frozen = {client: report for client, report in _started(server).items() if client not in server.learners}
    fixed = _at_start(search, server, frozen, on)
    merged = _merged(search, server, [one | other for one, other in zip(moving, fixed, strict=True)], on, step)
    return {
        student: Knowledge(pack([each.get(student, Knowledge()) for each in merged])[0] | news)
        for student in server.learners
    }


def _choice(search: SearchPlan, server: Node) -> dict[int, Knowledge]:
    """The number of the best cell, of the federation or of each learner, as knowledge for each learner."""
    final = server.state[_ALL][:, :, -1].contiguous()
    heard = final[~final.isnan().flatten(1).all(1)]
    finished = (~final.isnan().all(2).all(0)).nonzero().flatten().tolist()
    if search.per == "client":
        chosen = [best(scores, search.criterion, finished) for scores in final]
    else:
        number = best(heard, search.criterion, finished)
        server.record(f"tuning_chosen/{search.cells(server)[number].label}", 1.0)
        chosen = [number] * len(server.learners)
    state = under(f"{_STATE}{chosen[0]}/0/", server.state)
    settle(search, server, chosen[0])
    server.state |= state
    server.state[CHOSEN] = torch.tensor(chosen)
    return {
        client: Knowledge({CHOSEN: torch.tensor(number)})
        for client, number in zip(server.learners, chosen, strict=True)
    }


def _merged(
    search: SearchPlan,
    server: Node,
    reports_of_cells: Sequence[Mapping[int, Knowledge]],
    numbers: Sequence[int],
    round: int,
) -> list[dict[int, Knowledge]]:
    """The knowledge that each cell's method merges from the reports of this cell after `round` rounds, by student."""
    if search.untuned.refresh == "never":
        return [{} for _ in numbers]
    cells, merged = search.cells(server), []
    for number, reports in zip(numbers, reports_of_cells, strict=True):
        before = under(f"{_STATE}{number}/{round - 1}/", server.state)
        alone = view(
            server, cells[number], before if round else state_of(search, server, number), round, dict(server.models)
        )
        merged.append(cells[number].method.merge(alone, reports))
        server.state |= scoped(f"{_STATE}{number}/{round}/", alone.state)
        if number == 0 and round == 0:
            # If the server has a model, the one of the untuned cell is evaluated at the start.
            server.models = alone.models
    return merged


def _opened(reports: Mapping[int, Knowledge], positions: Sequence[int], many: int) -> list[dict[int, Knowledge]]:
    """The reports of all clients for each of some cells, given by their positions among the `many` packed ones."""
    opened: list[dict[int, Knowledge]] = [{} for _ in positions]
    for client, report in reports.items():
        numbers = shares(report, many)
        bags = {
            number: Knowledge(bag(report, number))
            for number in dict.fromkeys(numbers[position] for position in positions)
        }
        for each, position in zip(opened, positions, strict=True):
            if bags[numbers[position]]:
                each[client] = bags[numbers[position]]
    return opened


def _at_start(
    search: SearchPlan, server: Node, reports: Mapping[int, Knowledge], numbers: Sequence[int]
) -> list[dict[int, Knowledge]]:
    """The reports of all clients at the start, for each of some cells."""
    many = len(search.at_start(server))
    return _opened(reports, [number if number < many else 0 for number in numbers], many)


def _started(server: Node) -> dict[int, Knowledge]:
    """The reports of the start that are still needed, by client."""
    return {client: Knowledge(tensors) for client, tensors in numbered(_START, server.state).items()}


def _proposed(search: SearchPlan, server: Node) -> Tensor:
    """(points, parameters) of the next batch, proposed from the scores of the cells before it."""
    tried: dict[tuple[float, ...], float | None] = {}
    for number, cell in enumerate(search.cells(server)):
        if cell.point is not None:
            scores = list(_scored(server, number)) if _ALL in server.state else []
            tried[cell.point] = value(scores[-1], search.criterion) if scores else None
    proposed = server.state[POINTS].shape[0] if POINTS in server.state else 0
    number = min(search.batch, search.wanted - proposed)
    points = propose(search.grid, search.sampler, number, server.seed, tried, direction(search.criterion))
    return torch.tensor(points, dtype=torch.float64).reshape(-1, len(search.grid.names))


def _given_up(search: SearchPlan, server: Node, going: Sequence[int], step: int) -> set[int]:
    """The cells among `going` that the pruner stops after this step.

    It compares ranks instead of scores, so that losses decide between cells of equal accuracy.
    """
    ranks: dict[int, list[float]] = {}
    for done in range(1, step + 1):
        there = [int(n) for n in server.state[_BATCH] if len(_scored(server, int(n))) >= done]
        there = [number for number in there if number in going or len(_scored(server, number)) < step]
        if there:
            scores = torch.stack([_scored(server, number)[done - 1] for number in there], dim=1)
            for rank, position in enumerate(ranked(scores, search.criterion)):
                ranks.setdefault(there[position], []).append(rank)
    return given_up(ranks, "minimize") if ranks else set()


def _scored(server: Node, number: int) -> Tensor:
    """(steps, learners, 2) accuracy and loss of a cell after each of its steps so far, of the learners with any."""
    scores = server.state[_ALL][:, number]
    heard = scores[~scores.isnan().flatten(1).all(1)]
    done = ~heard.isnan().any(2).any(0) & (len(heard) > 0)
    return heard[:, done].transpose(0, 1)

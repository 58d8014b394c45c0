"""The client's side of a search: it trains every cell from its pre-trained state, then rounds of the chosen cell."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fedkd.base.errors import DivergedError
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import forget, scoped, under
from fedkd.method import plan_of
from fedkd.node.node import Node
from fedkd.node.received import predicted
from fedkd.training.batch import Fit
from fedkd.training.finite import not_finite
from fedkd.training.stack_size import stack_size
from fedkd.training.together import train_together
from fedkd.tuning.bags import PREFIX, bag, bags_of, pack, shares
from fedkd.tuning.cells import Cell
from fedkd.tuning.plan import SearchPlan
from fedkd.tuning.scores import sendable, validated
from fedkd.tuning.state import CHOSEN, POINTS
from fedkd.tuning.views import as_if_untuned, keep_states, settle, state_of, view

GOING = f"{PREFIX}going"
"""Numbers of the cells that have not been stopped."""
SCORES = f"{PREFIX}scores"
"""(cells, 2) accuracy and loss of each cell tried now."""
DIVERGED = f"{PREFIX}diverged"
"""Numbers of the cells that diverged."""
_OUT = torch.tensor([0.0, math.nan], dtype=torch.float64)
"""Factor for the score of a cell that diverged: accuracy 0 and loss NaN."""
_BAGS = f"{PREFIX}bags"
"""Number of the bag that each cell starts from."""
_START = f"{PREFIX}start/"
_MODEL, _STATE, _REPORT = f"{PREFIX}model/", f"{PREFIX}state/", f"{PREFIX}report/"


def start_report(search: SearchPlan, client: Node) -> Knowledge | None:
    """The reports of all cells at the start, packed so that equal ones are sent once."""
    if search.untuned.refresh == "never":
        return None
    reports: list[Mapping[str, Tensor]] = []
    states: list[Mapping[str, Tensor]] = []
    for number, cell in enumerate(search.at_start(client)):
        alone = view(client, cell, state_of(search, client, number), 0, dict(client.models))
        reports.append(reported(alone, cell) or Knowledge())
        states.append(alone.state)
    keep_states(client, states)
    return Knowledge(pack(reports)[0]) or None


def reported(client: Node, cell: Cell) -> Knowledge | None:
    """The report of a client for one cell; None if the cell's method asks for none."""
    return cell.method.report(client) if cell.method.is_asked(client) else None


def try_batch(search: SearchPlan, client: Node, knowledge: Knowledge) -> None:
    """Train the cells of this exchange, score them on validation samples, and store the report in the state.

    The client's own model does not change. The cost is recorded as tuning. A cell sees the same batches as rounds 1,
    2, … will.
    """
    _, step = search.when(client.moment)
    last = step == search.steps
    going = _new_cells(search, client, knowledge) if step == 1 else [int(number) for number in knowledge[GOING]]
    bags = _bags(search, client, knowledge, going, step)
    rounds = [step] if search.side_by_side else range(1, search.rounds + 1)
    scored = last or search.pruner != "none"
    scores, reports, diverged, steps, samples = [], [], [], 0, 0
    for number, cell, alone, whole in _trained(search, client, dict(zip(going, bags, strict=True)), step, rounds):
        steps, samples = steps + alone.steps, samples + alone.samples
        if scored:
            scores.append(validated(alone) if whole else validated(alone) * _OUT)
            for metric, value in zip(("accuracy", "loss"), scores[-1].tolist(), strict=True):
                if math.isfinite(value):
                    client.record(f"tuning_{metric}/{cell.label}", value, split="val")
        if not last:
            report = (reported(alone, cell) if search.refresh == "every round" else None) or Knowledge()
            sound = whole and not not_finite(report)
            if not sound:
                diverged.append(number)
            reports.append(report if sound else Knowledge())
            model = {name: value.clone() for name, value in alone.student.state_dict().items()}
            client.state |= scoped(f"{_MODEL}{number}/", model) | scoped(f"{_STATE}{number}/", alone.state)
    client.record("tuning_steps", steps)
    client.record("tuning_samples", samples)
    up = {} if last else pack(reports)[0]
    if scores and not torch.stack(scores).isnan().all():
        up[SCORES] = sendable(torch.stack(scores))
    if diverged:
        up[DIVERGED] = torch.tensor(diverged, dtype=torch.int16)
    client.state |= scoped(_REPORT, up)


def batch_report(client: Node) -> Knowledge | None:
    """The report that `try_batch` has stored; None if it is empty."""
    up = Knowledge(under(_REPORT, client.state))
    forget(client.state, _REPORT)
    return up or None


def chosen_plan(search: SearchPlan, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
    """One round of training with the chosen cell."""
    every = search.refresh == "every round"
    if client.round == 1:
        client.state[CHOSEN] = knowledge[CHOSEN]
    number = int(client.state[CHOSEN])
    cell = search.cells(client)[number]
    received = knowledge
    if not every or client.round == 1:
        first = under(_START, client.state) if every else knowledge
        received = Knowledge(bag(first, int(client.state[_BAGS][number])))
    if client.round == 1:
        settle(search, client, number, *([] if every else [_BAGS]))
        if search.per == "client":
            client.record(f"tuning_chosen/{cell.label}", 1.0)
    with as_if_untuned(client, cell.training):
        yield from plan_of(cell.method, client, predicted(client, received))


def _new_cells(search: SearchPlan, client: Node, knowledge: Knowledge) -> list[int]:
    """Store the knowledge of a new batch; returns the numbers of its cells."""
    before = client.state.get(_BAGS, torch.empty(0, dtype=torch.int16))
    if POINTS in knowledge:
        known = client.state.get(POINTS)
        client.state[POINTS] = knowledge[POINTS] if known is None else torch.cat([known.cpu(), knowledge[POINTS]])
    new = list(range(len(before), len(search.cells(client))))
    client.state[_BAGS] = torch.cat([before.cpu(), torch.tensor(shares(knowledge, len(new)), dtype=torch.int16)])
    if search.refresh == "every round":
        # Cells start from it, and so does round 1. It is sent only once, so it is stored until then.
        client.state |= scoped(_START, bags_of(knowledge))
    return new


def _bags(search: SearchPlan, client: Node, knowledge: Knowledge, going: list[int], step: int) -> list[Knowledge]:
    """The knowledge for each of the cells, in their order."""
    every = search.refresh == "every round"
    if every and step > 1:
        source: Mapping[str, Tensor] = knowledge
        numbers = shares(knowledge, len(going))
    else:
        source = under(_START, client.state) if every else knowledge
        numbers = [int(client.state[_BAGS][number]) for number in going]
    opened = {number: predicted(client, Knowledge(bag(source, number))) for number in dict.fromkeys(numbers)}
    return [opened[number] for number in numbers]


def _trained(
    search: SearchPlan, client: Node, bags: Mapping[int, Knowledge], step: int, rounds: Sequence[int]
) -> Iterator[tuple[int, Cell, Node, bool]]:
    """Train cells for some rounds, as many in lockstep as clients are; `bags` are their knowledge, by number.

    Yields each cell with the client as it sees it, and whether its training is whole: one that diverged is a bad cell,
    not a failure of the client.
    """
    cells, models, states = search.cells(client), under(_MODEL, client.state), under(_STATE, client.state)
    forget(client.state, _MODEL, _STATE)
    start, numbers = client.student.state_dict(), list(bags)
    size = stack_size(client.training, client.specs[client.id], client.shape)
    students = [copy.deepcopy(client.student) for _ in numbers[:size]]
    for first in range(0, len(numbers), size):
        some, alone = numbers[first : first + size], []
        for number, student in zip(some, students, strict=False):
            student.load_state_dict(start if step == 1 else under(f"{number}/", models))
            state = state_of(search, client, number) if step == 1 else under(f"{number}/", states)
            alone.append(view(client, cells[number], state, step, client.models | {"student": student}))
        plans = [_plan(cells[number], node, bags[number], rounds) for number, node in zip(some, alone, strict=True)]
        for number, node, error in zip(some, alone, train_together(alone, plans), strict=True):
            if isinstance(error, Exception) and not isinstance(error, DivergedError):
                raise error
            yield number, cells[number], node, error is None


def _plan(cell: Cell, alone: Node, knowledge: Knowledge, rounds: Sequence[int]) -> Iterator[Fit]:
    """The trainings of a cell in some rounds."""
    for alone.round in rounds:
        yield from plan_of(cell.method, alone, knowledge)

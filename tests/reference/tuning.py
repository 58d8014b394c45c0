"""tuned_kd and tuned: cells are tried from the start, and the one that validates best is gone on with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tests.reference.alone import seen
from tests.reference.distillation import KD, one_round
from tests.reference.ledger import Ledger
from tests.reference.rounds import Known, begin, teach, teachers_of, tell, truth
from tests.reference.training import learn
from tests.reference.wire import NUMBER, cost
from tests.reference.world import SERVER, Client, World

Values = Mapping[str, Any]
Try = Callable[[Client, int, Values], None]
"""One round of a cell at a client."""


@dataclass(frozen=True)
class Score:
    """How a cell does at one client: right of so many validation samples, and the loss."""

    accuracy: Fraction
    loss: float


def tuned_kd(
    world: World, *, temperatures: Sequence[float], weights: Sequence[float], rounds: int = 3, **settings: object
) -> Ledger:
    """kd at the best temperature and weight of a grid; other settings are those of kd."""
    of = KD(**settings)  # type: ignore[arg-type]
    ledger = begin(world)
    known: Known = tell(world, ledger, 0, of.wire, world.tutors)
    taught = {}
    for number in world.learners:
        others = teachers_of(world, "others", number, 0)
        taught[number] = teach(world, ledger, 0, of.wire, known, number, others, of.merge)

    def attempt(client: Client, round: int, values: Values) -> None:
        one_round(world, ledger, client, round, replace(of, **values), taught[client.id])

    grid = {"temperature": temperatures, "weight": weights}
    cells = cells_of({"temperature": of.temperature, "weight": of.weight}, grid)
    return search(world, ledger, cells, attempt, rounds, "val_accuracy", "federation", taught)


def tuned_local(
    world: World, *, lr: Sequence[float], rounds: int, select: str = "val_accuracy", per: str = "federation"
) -> Ledger:
    """local at the best learning rate."""
    ledger = begin(world)

    def attempt(client: Client, round: int, values: Values) -> None:
        settings = replace(world.training, **values)
        learn(world, client, round, truth(world, client), common=seen(world), settings=settings)

    cells = cells_of({"lr": world.training.lr}, {"lr": lr})
    return search(world, ledger, cells, attempt, rounds, select, per, {})


def cells_of(untuned: Values, grid: Mapping[str, Sequence[Any]]) -> list[Values]:
    """The untuned cell, then those of the grid, the last parameter changing fastest; each once."""
    cells = [untuned]
    for values in itertools.product(*grid.values()):
        cell = dict(zip(grid, values, strict=True))
        if cell not in cells:
            cells.append(cell)
    return cells


def search(
    world: World,
    ledger: Ledger,
    cells: Sequence[Values],
    attempt: Try,
    rounds: int,
    select: str,
    per: str,
    taught: Mapping[int, Tensor],
) -> Ledger:
    """Try all cells at all clients, choose, and go on with the chosen one from the start."""
    scores: dict[int, list[Score]] = {}
    names = [",".join(f"{name}={value!r}" for name, value in cell.items()) for cell in cells]
    up = cost(np.zeros((len(cells), 2)))
    for client in world.learnt():
        start = client.weights()
        scores[client.id] = []
        for cell in cells:
            client.model.load_state_dict(start)
            for round in range(1, rounds + 1):
                attempt(client, round, cell)
            scores[client.id].append(score(client))
        client.model.load_state_dict(start)
        for name, found in zip(names, scores[client.id], strict=True):
            ledger.add(0, client.id, f"tuning_accuracy/{name}", float(found.accuracy), "val")
            ledger.add(0, client.id, f"tuning_loss/{name}", found.loss, "val")
        ledger.add(0, client.id, "tuning_steps", client.steps)
        ledger.add(0, client.id, "tuning_samples", client.samples)
        client.steps = client.samples = 0
        ledger.add(0, client.id, "tuning_bytes", ledger.rows[0, client.id, "", "bytes_down"] + up)
        ledger.up(0, client.id, up)
    chosen = {number: best([own], select) for number, own in scores.items()}
    if per == "federation":
        chosen = dict.fromkeys(chosen, best(list(scores.values()), select))
        ledger.add(0, SERVER, f"tuning_chosen/{names[chosen[world.learners[0]]]}", 1)
    for round in range(1, world.rounds + 1):
        for client in world.learnt():
            if round == 1:
                ledger.down(round, client.id, NUMBER)
                if per == "client":
                    ledger.add(round, client.id, f"tuning_chosen/{names[chosen[client.id]]}", 1)
            attempt(client, round, cells[chosen[client.id]])
            ledger.judge(round, client, teacher=taught.get(client.id))
    return ledger


def score(client: Client) -> Score:
    """A client's model on its own validation samples."""
    logits, labels = client.predict(client.val.x), client.val.y
    right = int((logits.argmax(1) == labels).sum())
    return Score(Fraction(right, len(labels)), F.cross_entropy(logits.double(), labels).item())


def best(scores: Sequence[Sequence[Score]], select: str) -> int:
    """The cell of the highest mean accuracy over the clients, then of the lowest loss, then the first."""

    def standing(cell: int) -> tuple[Fraction | float, ...]:
        accuracy = sum((own[cell].accuracy for own in scores), Fraction()) / len(scores)
        loss = round(sum(own[cell].loss for own in scores) / len(scores), 9)
        return (-accuracy, loss) if select == "val_accuracy" else (loss, -accuracy)

    return min(range(len(scores[0])), key=standing)

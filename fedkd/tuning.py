"""Search over settings of a method whose teachers are frozen: every cell in one message, judged on validation."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedkd.evaluate import accuracy, mean_loss
from fedkd.node import Node

if TYPE_CHECKING:
    from fedkd.knowledge import Knowledge
    from fedkd.method import Method


def try_cells(client: Node, knowledge: Knowledge, cells: Mapping[str, Method], rounds: int) -> Tensor:
    """Validation accuracy and loss of every cell after `rounds` rounds from the client's present state, (cells, 2).

    The client's model and state are afterwards what they were. The work is booked as tuning, not as training.
    Every cell sees the batches that rounds 1, 2, … will bring.
    """
    assert client.val is not None
    assert client.val.y is not None
    start = copy.deepcopy(client.student.state_dict())
    steps, samples, now = client.steps, client.samples, client.round
    scores = torch.empty(len(cells), 2, dtype=torch.float64)
    for row, (label, method) in enumerate(cells.items()):
        for client.round in range(1, rounds + 1):
            method.learn(client, knowledge)
        logits = client.predict(client.val.x)
        for column, (metric, measure) in enumerate((("accuracy", accuracy), ("loss", mean_loss))):
            scores[row, column] = measure(logits, client.val.y)
            client.record(f"tuning_{metric}/{label}", float(scores[row, column]), split="val")
        client.student.load_state_dict(start)
    client.remember_transfer_logits(None)
    client.record("tuning_steps", client.steps - steps)
    client.record("tuning_samples", client.samples - samples)
    client.steps, client.samples, client.round = steps, samples, now
    return scores


def best_cell(scores: Tensor) -> int:
    """Row of the best mean over clients of (clients, cells, 2): highest accuracy, then lowest loss, then first."""
    mean = scores.mean(0).nan_to_num(nan=math.inf).tolist()  # a cell that diverged wins no tie
    return min(range(len(mean)), key=lambda row: (-mean[row][0], mean[row][1], row))

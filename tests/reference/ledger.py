"""The numbers that a federation reports: by (round, client, split, metric)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference.world import SERVER, Client, Samples, World, predict

Key = tuple[int, int, str, str]
TIED = 2e-4
"""Two logits that are nearer than this are as good as tied: sums in another order may put either first."""


class Ledger:
    """Every row of a federation, but for times and for how skewed the split is."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[Key, float] = {}
        self.doubt: dict[Key, float] = {}
        """by how much a row may be off because predictions are as good as tied"""
        self.offset = 0
        """rounds before the method's first: those of a consolidation"""
        self.rounded = False
        """whether anything was rounded to few digits on its way: values near the middle may go either way"""
        self._tied: dict[tuple[int, int, str], float] = {}
        self._global_right: Tensor | None = None

    def add(self, round: int, client: int, metric: str, value: float, split: str = "") -> None:
        """One row."""
        self.rows[round + self.offset, client, split, metric] = float(value)

    def up(self, round: int, client: int, nbytes: int) -> None:
        """A client has sent so much."""
        self._cost(round, client, "bytes_up", nbytes)

    def down(self, round: int, client: int, nbytes: int) -> None:
        """A client has been sent so much."""
        self._cost(round, client, "bytes_down", nbytes)

    def asked(self, round: int, client: Client) -> None:
        """A client has taken part in an exchange: its work and its bytes are counted, be they none."""
        for metric, value in (("steps", client.steps), ("samples", client.samples), ("bytes_up", 0), ("bytes_down", 0)):
            self._cost(round, client.id, metric, value)
        client.steps = client.samples = 0

    def _cost(self, round: int, client: int, metric: str, value: float) -> None:
        key = (round + self.offset, client, "", metric)
        self.rows[key] = self.rows.get(key, 0.0) + value

    def judge(self, round: int, client: Client, *, teacher: Tensor | None = None) -> None:
        """How good a client's model is after a round, and what it has done in it.

        `teacher` (n, classes): what it was taught on the transfer set in this round.
        """
        logits = {split: client.predict(samples.x) for split, samples in client.judged.items() if len(samples)}
        for split, predicted in logits.items():
            self._score(round, client.id, split, predicted, client.judged[split].y)
        right = self._changes(round, client.id, logits["test"], client.started_right)
        client.started_right = right if client.started_right is None else client.started_right
        if round + self.offset in (0, self.world.rounds + self.offset) and self.world.token_bytes is None:
            labels = self.world.test.y
            for label in range(self.world.classes):
                self._share(round, client.id, "test", f"accuracy/{label}", right[labels == label])
        if teacher is not None and not self.world.exchanges_models:
            self._score(round, client.id, "transfer", teacher, self.world.transfer.y, "teacher_")
            same = logits["transfer"].argmax(1) == teacher.argmax(1)
            self._share(round, client.id, "transfer", "agreement", same)
        self.asked(round, client)

    def judge_global(self, round: int, model: nn.Module, *, on_the_way: bool = False) -> None:
        """How good the server's model is: on the test set, the transfer set and everybody's validation samples.

        `on_the_way` to a common start, only how accurate it is.
        """
        world = self.world
        val = Samples(*(torch.cat([getattr(part, name) for part in world.val]) for name in ("x", "y")))
        judged = {"test": world.test, "val": val} | ({} if world.exchanges_models else {"transfer": world.transfer})
        logits = {split: predict(model, samples.x) for split, samples in judged.items()}
        for split, predicted in logits.items():
            self._score(round, SERVER, split, predicted, judged[split].y)
        if on_the_way:
            return
        right = self._changes(round, SERVER, logits["test"], self._global_right)
        self._global_right = right if self._global_right is None else self._global_right

    def _score(self, round: int, client: int, split: str, logits: Tensor, y: Tensor, who: str = "") -> None:
        highest = logits.topk(2, 1).values
        key = (round + self.offset, client, split)
        tied = (highest[:, 0] - highest[:, 1] < TIED).sum().item()
        self._tied[key] = self._tied.get(key, 0) + tied
        loss = -logits.double().log_softmax(1)[torch.arange(len(y)), y].mean().item()
        self._share(round, client, split, f"{who}accuracy", logits.argmax(1) == y)
        self.add(round, client, f"{who}loss", loss, split)
        if self.world.token_bytes is not None and not who:
            bits = loss / math.log(2) * len(y)
            self.add(round, client, "bits_per_byte", bits / self.world.token_bytes[y].sum().item(), split)

    def _changes(self, round: int, client: int, logits: Tensor, before: Tensor | None) -> Tensor:
        """Knowledge gained and lost since the start, and calibration; returns what is right."""
        right = logits.argmax(1) == self.world.test.y
        before = right if before is None else before
        self._share(round, client, "test", "gained", ~before & right)
        self._share(round, client, "test", "lost", before & ~right)
        self.add(round, client, "ece", calibration_error(logits, right), "test")
        at = round + self.offset
        self.doubt[at, client, "test", "ece"] = 2 * self.doubt[at, client, "test", "gained"]
        return right

    def _share(self, round: int, client: int, split: str, metric: str, which: Tensor) -> None:
        """A row that is the share of samples of which something is true; tied ones may go either way."""
        self.add(round, client, metric, which.double().mean().item(), split)
        at = round + self.offset
        tied = self._tied[at, client, split] + self._tied.get((0, client, split), 0)
        self.doubt[at, client, split, metric] = tied / len(which)


def calibration_error(logits: Tensor, right: Tensor) -> float:
    """Σ over 15 equal bins (lower, upper] of confidence: share of samples × |accuracy − mean confidence|."""
    confidence = F.softmax(logits.double(), 1).max(1).values.numpy()
    error = 0.0
    for upper in np.arange(1, 16) / 15:
        inside = (confidence > upper - 1 / 15) & (confidence <= upper)
        if inside.any():
            gap = right.numpy()[inside].mean() - confidence[inside].mean()
            error += inside.mean() * abs(gap)
    return float(error)

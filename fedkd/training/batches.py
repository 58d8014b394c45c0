"""The batches of a training, the same for every method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.node.node import Node
from fedkd.tensors.samples import Data, rows_of
from fedkd.training.augment import augmentation
from fedkd.training.batch import Batch, Fit


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of one step: b private ones, then m common ones."""

    x: Tensor
    """(b + m, …)"""
    private: Tensor
    """(b,) indices"""
    common: Tensor
    """(m,) indices"""

    def __len__(self) -> int:
        return len(self.private) + len(self.common)


class Batches:
    """The batches of one `Fit`: private samples, and common ones: the transfer set or the samples of the target."""

    def __init__(self, node: Node, job: Fit) -> None:
        target, self._settings = job.target, job.optimisation or node.training
        on_private = target is not None and target.is_private(node)
        on_common = target is not None and not on_private
        common = target.data(node) if target is not None and on_common else node.transfer
        self._node, self._job, self._on_private = node, job, on_private
        self._reads_common = job.labels == "all" and common is not None and common.y is not None
        """whether the labels of common samples are read"""
        self._private = node.private if job.labels != "none" or on_private else None
        self._common = common if self._reads_common or on_common else None
        self._change = None if on_private else augmentation(self._settings.augment)

    def steps(self, steps: int, first: int) -> Iterator[tuple[int, Samples]]:
        """(number, samples) of each step from number `first` on."""
        none, device = torch.empty(0, dtype=torch.int64, device=self._node.device), self._node.device
        private = self._indices("private", self._private, steps, first)
        common = self._indices("transfer", self._common, steps, first)
        for number in range(first, first + steps):
            private_index = none if private is None else next(private).to(device, non_blocking=True)
            common_index = none if common is None else next(common).to(device, non_blocking=True)
            yield number, Samples(self._inputs(number, private_index, common_index), private_index, common_index)

    def seen(self, outputs: Tensor, samples: Samples) -> Batch:
        """The `Batch` that the loss reads, from the network's outputs for the samples of one step."""
        node, target = self._node, self._job.target
        private, common, logits = samples.private, samples.common, outputs.flatten(0, -2)
        border = len(private) * (len(logits) // len(samples))
        private_logits, common_logits = logits[:border], logits[border:]
        labelled, y = private_logits, private[:0]
        if self._job.labels != "none":
            y = _labels(self._private, private)
            if self._reads_common:
                labelled, y = logits, torch.cat([y, _labels(self._common, common)])
        if target is None:
            return Batch(node, labelled, y, None, None, known=self._reads_common)
        student, index = (private_logits, private) if self._on_private else (common_logits, common)
        n = len(target.data(node))
        teacher = rows_of(target.logits, index, n)
        weights = None if target.weights is None else rows_of(target.weights, index, n)
        revised = None if target.revised is None else rows_of(target.revised, index, n)
        known = self._reads_common or (self._on_private and self._job.labels != "none")
        return Batch(node, labelled, y, student, teacher, weights, revised, known)

    def _inputs(self, number: int, private: Tensor, common: Tensor) -> Tensor:
        """One tensor of all samples of a step, because one forward pass is faster than two."""
        x = []
        if self._private is not None:
            x.append(self._private.x[private])
            if self._change is not None:
                x[0] = self._change(x[0], self._node.rng(f"{self._job.purpose}/augment", number))
        if self._common is not None:
            x.append(self._common.x[common])
        return torch.cat(x) if len(x) > 1 else x[0]

    def _indices(self, kind: str, data: Data | None, steps: int, first: int) -> Iterator[Tensor] | None:
        """(batch,) indices of each step: consecutive slices of endless, reshuffled passes over the data."""
        if data is None:
            return None
        n = len(data)
        size = min(self._settings.batch_size, n)
        start, stop = first * size, (first + steps) * size
        passes = range(start // n, -(-stop // n))
        order = [torch.randperm(n, generator=self._node.rng(f"{self._job.purpose}/{kind}", part)) for part in passes]
        skipped = start % n
        return iter(torch.split(torch.cat(order)[skipped : skipped + steps * size], size) if order else ())


def _labels(data: Data | None, index: Tensor) -> Tensor:
    assert data is not None
    assert data.y is not None
    return rows_of(data.y, index, len(data))

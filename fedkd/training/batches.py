"""The batches of a training, the same for every method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        size = self._settings.batch_size
        self.sizes = _most(size, self._private), _most(size, self._common)
        """private and common samples of every step"""
        self.parameters = dict(node.student.named_parameters())
        """those of the student, by name"""

    def steps(self, steps: int, first: int) -> Iterator[tuple[int, Samples]]:
        """(number, samples) of each step from number `first` on."""
        for number, private, common in zip(range(first, first + steps), *self.indices(steps, first), strict=True):
            yield number, Samples(self._inputs(number, private, common), private, common)

    def indices(self, steps: int, first: int) -> tuple[Tensor, Tensor]:
        """(steps, b) indices of the private samples of each step, and (steps, m) ones of the common samples."""
        return self._indices("private", self._private, steps, first), self._indices(
            "transfer", self._common, steps, first
        )

    def block(self, first: int, private: Tensor, common: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Inputs (steps, b + m, …) and `rows` (steps, …) of several steps at once, from number `first` on."""
        steps = len(private)
        if self._change is None:
            parts = [(self._private, private), (self._common, common)]
            given = [data.x[index] for data, index in parts if data is not None]
            x = torch.cat(given, dim=1) if len(given) > 1 else given[0]
        else:
            x = torch.stack([self._inputs(first + step, private[step], common[step]) for step in range(steps)])
        rows = self.rows(private.flatten(), common.flatten())
        return x, {name: values.reshape(steps, -1, *values.shape[1:]) for name, values in rows.items()}

    def seen(self, outputs: Tensor, samples: Samples) -> Batch:
        """The `Batch` that the loss reads, from the network's outputs for the samples of one step."""
        rows = self.rows(samples.private, samples.common)
        return self.batch(self._node, outputs, rows, self.parameters, self._job.fixed)

    def rows(self, private: Tensor, common: Tensor) -> dict[str, Tensor]:
        """What is known of the samples at (b,) and (m,) indices: labels, and their rows of the target, as there are."""
        rows, target = {}, self._job.target
        if self._job.labels != "none":
            rows["private labels"] = _labels(self._private, private)
        if self._reads_common:
            rows["common labels"] = _labels(self._common, common)
        if target is not None:
            index, n = private if self._on_private else common, len(target.data(self._node))
            known = {"teacher": target.logits, "weights": target.weights, "revised": target.revised}
            rows |= {name: rows_of(values, index, n) for name, values in known.items() if values is not None}
        return rows

    def batch(
        self,
        node: Node,
        outputs: Tensor,
        rows: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        fixed: Mapping[str, Tensor],
    ) -> Batch:
        """The `Batch` of one step, from the outputs for its samples and from their `rows`."""
        private, common = self.sizes
        logits = outputs.flatten(0, -2)
        border = private * (len(logits) // (private + common))
        private_logits, common_logits = logits[:border], logits[border:]
        labelled, y = private_logits, rows.get("private labels")
        if self._reads_common:
            assert y is not None
            labelled, y = logits, torch.cat([y, rows["common labels"]])
        if y is None:
            y = torch.empty(0, dtype=torch.int64, device=logits.device)
        known = self._reads_common or (self._on_private and self._job.labels != "none")
        student = None if self._job.target is None else private_logits if self._on_private else common_logits
        read = rows.get("teacher"), rows.get("weights"), rows.get("revised")
        return Batch(node, labelled, y, student, *read, known, parameters, fixed)

    @property
    def form(self) -> tuple[object, ...]:
        """What the shapes of the batches depend on, besides those of the samples: equal forms can be stacked."""
        target = self._job.target
        parts = () if target is None else (target.logits.shape[1:], target.weights is None, target.revised is None)
        return (self.sizes, self._job.labels, self._on_private, self._reads_common, *parts)

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

    def _indices(self, kind: str, data: Data | None, steps: int, first: int) -> Tensor:
        """(steps, batch) indices: consecutive slices of endless, reshuffled passes over the data."""
        if data is None or not steps:
            return torch.empty(steps, 0, dtype=torch.int64, device=self._node.device)
        n = len(data)
        size = _most(self._settings.batch_size, data)
        start, stop = first * size, (first + steps) * size
        passes = range(start // n, -(-stop // n))
        order = [torch.randperm(n, generator=self._node.rng(f"{self._job.purpose}/{kind}", part)) for part in passes]
        skipped = start % n
        drawn = torch.cat(order)[skipped : skipped + steps * size].view(steps, size)
        return drawn.to(self._node.device, non_blocking=True)


def _most(size: int, data: Data | None) -> int:
    return 0 if data is None else min(size, len(data))


def _labels(data: Data | None, index: Tensor) -> Tensor:
    assert data is not None
    assert data.y is not None
    return rows_of(data.y, index, len(data))

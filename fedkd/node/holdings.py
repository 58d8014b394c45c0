"""The data of one participant: samples for its method to learn from, and samples for evaluation only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedkd.models.architecture import Shape
from fedkd.settings.evaluation import Split
from fedkd.settings.federation import Federation
from fedkd.tensors.compute import PLAIN, Compute
from fedkd.tensors.evaluate import accuracy, agreement, bits_per_byte, calibration_error, class_accuracies, mean_loss
from fedkd.tensors.evaluate import right as which_right
from fedkd.tensors.samples import Data, rows_a_sample

Row = tuple[int, str, str, float]
"""(client, split, metric, value)"""


@dataclass(frozen=True, eq=False)
class Some:
    """A part of the common test set."""

    data: Data
    rows: Tensor
    """int64, where the rows of its predictions are among those of the whole set"""

    def to(self, device: torch.device) -> Some:
        """The same on a device."""
        return Some(self.data.to(device), self.rows.to(device))


@dataclass(frozen=True, eq=False)
class Holdings:
    """One participant's data. `evaluation` never goes to its `Node`."""

    shape: Shape
    classes: int
    """what a model tells apart: classes, or the tokens of a vocabulary"""
    data: Data | None
    """private training samples; None at the server"""
    val: Data | None
    """validation samples; None where the participant holds none"""
    transfer: Data | None
    """transfer set as methods may see it: without labels unless the study gives them to all"""
    evaluation: Mapping[str, Data] = field(default_factory=dict)
    """labelled samples by split ("test", "local_test", "val", "transfer"): read for reporting after learning, never by
    a method"""
    token_bytes: Tensor | None = None
    """(vocabulary,) int64, how many bytes of text each token stands for; None: the samples are images"""
    main: Split = "test"
    """the split of which more is measured: knowledge gained and lost, calibration, classes"""
    some: Some | None = None
    """the part of the common test set that is evaluated between the start and the last round; None: all of it"""

    def to(self, device: torch.device) -> Holdings:
        """The same data on a device; itself where they are there already."""
        if device.type == "cpu":
            return self
        data, val, transfer = (part and part.to(device) for part in (self.data, self.val, self.transfer))
        evaluation = {split: part.to(device) for split, part in self.evaluation.items()}
        token_bytes = None if self.token_bytes is None else self.token_bytes.to(device)
        some = self.some and self.some.to(device)
        return Holdings(self.shape, self.classes, data, val, transfer, evaluation, token_bytes, self.main, some)

    def evaluate(
        self,
        model: nn.Module,
        started_right: Tensor | None,
        detailed: bool = False,
        compute: Compute = PLAIN,
        whole: bool = True,
    ) -> Evaluation:
        """Accuracy and loss of a model on every split of `evaluation`, in one forward pass; calibration on `main`.

        Of text, accuracy and loss are those of the next token, and bits per byte are added. `started_right` is the
        (rows,) bool mask of what was right on the main split at the start; with it, knowledge gained (wrong → right)
        and lost (right → wrong) are shares of all its rows. `detailed` adds the accuracy on each class of the main
        split; a vocabulary is too large for that. Without `whole`, only `some` of the common test set is evaluated.
        """
        evaluated = dict(self.evaluation)
        if self.some and not whole:
            evaluated["test"] = self.some.data
            if started_right is not None and self.main == "test":
                started_right = started_right[self.some.rows]
        splits = {name: data for name, data in evaluated.items() if len(data)}
        if not splits:
            return Evaluation({}, None, torch.empty(0, dtype=torch.bool))
        rows = [len(data) * rows_a_sample(data.x) for data in splits.values()]
        parts = compute.predicted(model, [data.x for data in splits.values()])
        logits = dict(zip(splits, torch.split(parts, rows), strict=True))
        metrics: dict[tuple[str, str], float] = {}
        correct: dict[str, Tensor] = {}
        for name, data in splits.items():
            assert data.y is not None
            correct[name] = which_right(logits[name], data.y)
            metrics[name, "accuracy"] = float(correct[name].double().mean())
            metrics[name, "loss"] = mean_loss(logits[name], data.y)
            if self.token_bytes is not None:
                metrics[name, "bits_per_byte"] = bits_per_byte(metrics[name, "loss"], data.y, self.token_bytes)
        right = torch.empty(0, dtype=torch.bool)
        if (main := self.main) in splits:
            labels = splits[main].y
            assert labels is not None
            right = correct[main]
            before = right if started_right is None else started_right
            metrics[main, "gained"] = float((right & ~before).double().mean())
            metrics[main, "lost"] = float((before & ~right).double().mean())
            metrics[main, "ece"] = calibration_error(logits[main], labels, correct=right)
            if detailed and self.token_bytes is None:
                each = class_accuracies(logits[main], labels, right)
                metrics |= {(main, f"accuracy/{label}"): value for label, value in each.items()}
        # A copy: a view would keep the logits of all splits.
        return Evaluation(metrics, logits["transfer"].clone() if "transfer" in logits else None, right)

    def evaluate_teacher(self, student: Tensor | None, teacher: Tensor) -> dict[tuple[str, str], float]:
        """How good soft labels are on the transfer set, and how often a student agrees with them.

        `student` (n, classes), after it has learnt from them; `teacher` (n, classes) or (teachers, n, classes), whose
        mean counts. Nothing where the transfer set's labels are not known, or the soft labels are of other samples.
        """
        merged = teacher.float().mean(0) if teacher.dim() == 3 else teacher.float()
        transfer = self.evaluation.get("transfer")
        if transfer is None or transfer.y is None or len(merged) != len(transfer.y):
            return {}
        metrics = {
            ("transfer", "teacher_accuracy"): accuracy(merged, transfer.y),
            ("transfer", "teacher_loss"): mean_loss(merged, transfer.y),
        }
        return metrics | ({} if student is None else {("transfer", "agreement"): agreement(student, merged)})


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good a model is."""

    metrics: dict[tuple[str, str], float]
    """by (split, metric)"""
    transfer_logits: Tensor | None
    """(rows, classes) on the transfer set: the same forward pass serves the report"""
    right: Tensor
    """(rows,) which predictions on the main split are right"""


Loader = Callable[[Federation, int], Holdings]
"""Gives a participant its data: (federation, client id or SERVER) → holdings."""

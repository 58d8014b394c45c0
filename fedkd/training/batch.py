"""How a method describes training: the target of a student, the batch that a loss reads, and the steps to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.node.node import Node
from fedkd.settings.training import Optimisation
from fedkd.tensors.losses import cross_entropy
from fedkd.tensors.samples import Data

Labels = Literal["all", "private", "none"]
"""The labelled samples that a loss reads: private and labelled transfer samples, only private ones, or none."""


@dataclass(frozen=True, eq=False)
class Target:
    """The soft labels that a student learns from."""

    logits: Tensor
    """(n, classes): soft labels are softmax(logits / T)"""
    weights: Tensor | None = None
    """(n,) how much each sample counts in the mean over a batch, 0 to 1, or None for all in full"""
    samples: Data | None = None
    """the n samples of these soft labels; None: the transfer set, or the client's own samples if there is none. With
    `client.private` itself, distillation and cross-entropy use the same samples of a batch"""
    revised: Tensor | None = None
    """(n,) bool: which soft labels were changed by a revision; None: none"""
    original: Tensor | None = None
    """(n, classes) logits before any revision; None: `logits` were not revised"""

    @property
    def unrevised(self) -> Tensor:
        """(n, classes) soft labels as they were before any revision."""
        return self.logits if self.original is None else self.original

    def data(self, client: Node) -> Data:
        """The samples, with labels where these are known."""
        return client.distilled if self.samples is None else self.samples

    def is_private(self, client: Node) -> bool:
        """Whether the samples are the client's own."""
        return self.data(client) is client.data

    def split(self, client: Node) -> str:
        """The `split` of result rows about these samples: "private" or "transfer"."""
        return "private" if self.is_private(client) else "transfer"


@dataclass(frozen=True, eq=False)
class Batch:
    """The tensors that a loss reads at one step."""

    node: Node
    labelled: Tensor
    """(b, classes) student logits of samples whose labels are known; with a labelled transfer set its share is last"""
    labels: Tensor
    """(b,) their labels"""
    student: Tensor | None
    """(m, classes) student logits of distilled samples, with gradients; None where nothing is distilled"""
    teacher: Tensor | None
    """(m, classes) their target logits"""
    weights: Tensor | None = None
    """(m,) their weights"""
    revised: Tensor | None = None
    """(m,) bool: which targets were revised"""
    known: bool = False
    """whether the distilled samples are among the labelled ones: then they are the last m of them"""
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    """the student's parameters at this step, with gradients, by name"""
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    """the client's tensors that `Fit.fixed` names"""

    def ground_truth(self, distilled: float) -> Tensor:
        """(1 − distilled)·CE, a scalar; `distilled` is the share of distillation in the loss.

        A sample with weight 0 is not distilled and counts with its whole CE.
        """
        if self.weights is None or not self.known:
            return (1 - distilled) * cross_entropy(self.labelled, self.labels)
        each = F.cross_entropy(self.labelled, self.labels, reduction="none")
        share = torch.full_like(each, 1 - distilled)
        share[len(each) - len(self.weights) :] += distilled * (1 - self.weights)
        return (share * each).mean()


Loss = Callable[[Batch], Tensor]
"""A scalar that depends on nothing but the batch. Then clients can be trained together; otherwise one by one."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A training: a number of steps of one loss. A number that is None is that of a usual round of the client."""

    loss: Loss
    target: Target | None = None
    """soft labels to distil; None: nothing is distilled"""
    labels: Labels = "all"
    """which labelled samples the loss reads"""
    steps: int | None = None
    """optimiser steps; None: as many as every method takes in a round"""
    first: int | None = None
    """number of the first step in the endless sequence of batches that every method sees; None: where the last round
    stopped"""
    horizon: int | None = None
    """steps of the whole training, of which these are a part; None: those of all rounds of the federation"""
    period: int | None = None
    """steps of a round, or of what else the learning rate's schedule counts in; None: those of a round"""
    optimisation: Optimisation | None = None
    """how steps are taken; None: as the table `[train]` says"""
    purpose: str = "batches"
    """name of the random streams that batches are drawn from"""
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    """tensors of this client that the loss reads, such as the weights it is to stay near to; all clients have the same
    names and shapes"""

    def numbers(self, node: Node) -> Numbers:
        """The step numbers for a client in its round. They depend on no state, so a resumed run has the same ones."""
        needs_a_round = None in (self.steps, self.horizon, self.period)
        a_round = node.training.steps_a_round(len(node.private)) if needs_a_round else 0
        steps = a_round if self.steps is None else self.steps
        first = (node.round - 1) * steps if self.first is None else self.first
        horizon = node.rounds * a_round if self.horizon is None else self.horizon
        return Numbers(steps, first, horizon or first + steps, a_round if self.period is None else self.period)


class Numbers(NamedTuple):
    """The numbers of a `Fit`, all in steps."""

    steps: int
    first: int
    horizon: int
    period: int

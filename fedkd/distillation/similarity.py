"""Similarity of classes from embeddings of samples, and a soft label for each class from it. Pure functions.

Doshi & Kim, arXiv 2404.09886. The similarity of two classes is the mean cosine over all pairs of their samples, and a
mean over pairs needs only sums: with u_a the sum of the unit embeddings of class a, and n_a how many there are,

    S_ab = ⟨u_a, u_b⟩ / (n_a·n_b)        S_aa = (‖u_a‖² − n_a) / (n_a·(n_a − 1)), over pairs of different samples.

Sums and counts of several parties add up, so S does not depend on who holds which sample (ours). All is in float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 1e-6
"""How much larger the similarity of a class to itself is than to any other, after the boost."""


def units(embeddings: Tensor) -> Tensor:
    """(n, latent) float64 embeddings of length 1. An embedding of zeros becomes one with equal entries."""
    pointing = torch.where((embeddings != 0).any(dim=1, keepdim=True), embeddings.double(), 1.0)
    return F.normalize(pointing, dim=1, eps=0.0)


def class_sums(embeddings: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(classes, latent) sums of the unit embeddings of each class, and (classes,) int64 counts of them."""
    sums = torch.zeros(classes, embeddings.shape[1], dtype=torch.float64, device=embeddings.device)
    return sums.index_add_(0, labels, units(embeddings)), torch.bincount(labels, minlength=classes)


def pair_sums(sums: Tensor, counts: Tensor) -> Tensor:
    """(classes, classes) sums of the cosines over all ordered pairs of different samples, from `class_sums`."""
    return sums @ sums.T - torch.diag(counts.double())


def pair_counts(counts: Tensor) -> Tensor:
    """(classes, classes) float64: the number of pairs in each entry of `pair_sums`."""
    number = counts.double()
    return torch.outer(number, number) - torch.diag(number)


def similarity(sums: Tensor, pairs: Tensor) -> Tensor:
    """(classes, classes) mean cosines, symmetric, from `pair_sums` and `pair_counts`, of one party or of several added.

    Entries without a pair of samples (a class without samples, or a class with one sample and itself) get the mean of
    all known entries of two different classes; 0 if there are none.
    """
    known = pairs > 0
    mean = torch.where(known, sums / pairs.clamp(min=1), 0.0)
    apart = known & ~torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)
    filled = torch.where(known, mean, mean[apart].mean() if apart.any() else 0.0)
    return (filled + filled.T) / 2


def needed_boost(similarity: Tensor, tau: float = 1.0) -> float:
    """The number to add to the diagonal so that it is the largest of each row: the largest gap of any row plus 1e-6.

    With τ above 1 the margin is 1e-6·τ, because similarities are divided by τ afterwards. 0 if the diagonal is the
    largest already. The paper gives a boost for each of its data sets and no rule; this one is ours.
    """
    others = similarity.clone().fill_diagonal_(-torch.inf)
    gap = float((others.amax(dim=1) - similarity.diagonal()).max())
    return max(0.0, gap + MARGIN * max(tau, 1.0))


def soft_labels(similarity: Tensor, boost: float, tau: float = 1.0) -> Tensor:
    """(classes, classes) log q: row y is log softmax((S[y] + boost at y) / τ), the soft label of class y.

    They can be used as logits. τ is ours, 1 in the paper; the larger it is, the more uniform q.
    """
    boosted = similarity + boost * torch.eye(len(similarity), dtype=similarity.dtype, device=similarity.device)
    return F.log_softmax(boosted / tau, dim=1)


def some_of_each(labels: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Indices of at most `most` samples of each class, drawn at random; of all samples if `most` is 0.

    labels: (n,) int64. Returns at most n indices, in the order of the classes.
    """
    order = torch.randperm(len(labels), generator=rng).to(labels.device)
    order = order[labels[order].argsort(stable=True)]
    if not most:
        return order
    counts = torch.bincount(labels)
    first = (counts.cumsum(0) - counts)[labels[order]]
    return order[torch.arange(len(order), device=labels.device) - first < most]

"""Difference sampling: find the samples that are easier for a good model than for a poor one, and select the best.

Gu et al., arXiv 2410.17215 (MiniPLM), step by step: `sample_losses` of two models, their difference, `highest`. With
several parties, scores stay private and the threshold comes from histograms (ours): the counts of all parties are
added, `cut_bin` returns the bin that contains the threshold, and `threshold` reads it from a second histogram, of that
bin alone.
Losses and scores are in nats a row: a row of predictions is a token, or an image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.tensors.compute import PLAIN, Compute
from fedkd.tensors.ranking import share
from fedkd.tensors.samples import Data, rows_a_sample

BINS = 1024
"""Bins of a histogram; with two for what lies outside and 4 bytes a count, one is 4,104 bytes, however many samples."""
LOW, HIGH = -16.0, 16.0
"""Range of the first histogram, in nats; one of its bins, and so the second, is 1/32 wide, and that one's 1/32,768."""


def sample_losses(
    model: nn.Module,
    data: Data,
    rows: int = 4096,
    progress: Callable[[int, int], None] | None = None,
    compute: Compute = PLAIN,
) -> Tensor:
    """(n,) float32: the mean cross-entropy of each sample's rows, in one pass of at most `rows` rows at a time.

    `progress` is called with (samples done, all samples).
    """
    assert data.y is not None
    size = max(1, rows // rows_a_sample(data.x))
    losses, done = [torch.empty(0, device=data.x.device)], 0
    for x, y in zip(torch.split(data.x, size), torch.split(data.y.view(len(data), -1), size), strict=True):
        logits = compute.outputs(model, x).flatten(0, -2)
        each = F.cross_entropy(logits.float(), y.flatten(), reduction="none")
        losses.append(each.view(len(x), -1).mean(1))
        done += len(x)
        if progress:
            progress(done, len(data))
    return torch.cat(losses)


def histogram(scores: Tensor, low: float = LOW, high: float = HIGH) -> Tensor:
    """(BINS + 2,) int32 counts: below `low`, in BINS equal bins up to `high`, and from there on."""
    bins = torch.bucketize(scores.double(), _edges(low, high).to(scores.device), right=True)
    return torch.bincount(bins, minlength=BINS + 2).int()


def cut_bin(counts: Tensor, keep: float) -> tuple[float, float]:
    """(low, high) edges of the bin that contains the threshold, from a first histogram summed over all parties."""
    edges, above = _edges(LOW, HIGH), _above(counts)
    enough = int((above >= share(keep, int(counts.sum()))).sum())
    at = min(max(enough - 1, 0), BINS - 1)
    return float(edges[at]), float(edges[at + 1])


def threshold(counts: Tensor, keep: float, low: float, high: float) -> float:
    """Bin edge for which the number of scores at or above it is nearest to `keep` times the number of all scores.

    `counts` is a histogram from `low` to `high`, summed over all parties. Equal scores are all kept or all left out.
    """
    excess = (_above(counts) - share(keep, int(counts.sum()))).abs()
    return float(_edges(low, high)[int(excess.argmin())])


def diversity(tokens: Tensor, n: int = 4) -> float:
    """Share of different n-grams among all those of (m, length) tokens; none crosses the border of a chunk."""
    grams = tokens.unfold(1, min(n, tokens.shape[1]), 1).flatten(0, 1)
    # One token at a time, so that numbers fit into 64 bits with every vocabulary.
    known = grams[:, 0]
    for token in grams.T[1:]:
        known = torch.unique(known * (int(tokens.max()) + 1) + token, return_inverse=True)[1]
    return len(torch.unique(known)) / max(len(known), 1)


def _edges(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, BINS + 1, dtype=torch.float64)


def _above(counts: Tensor) -> Tensor:
    """(BINS + 1,) how many scores are at each edge or above."""
    return counts.long().flip(0).cumsum(0).flip(0)[1:]

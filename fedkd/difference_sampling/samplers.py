"""Difference sampling at a node: the server trains teacher and reference, clients score and select their samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.difference_sampling import difference, refinement
from fedkd.knowledge.knowledge import Knowledge
from fedkd.models import Model
from fedkd.node.node import Node
from fedkd.tensors.ranking import highest
from fedkd.tensors.samples import Data, rows_a_sample

Score = Literal["difference", "reference", "bottom", "random", "all"]
ROLES: dict[Score, tuple[str, ...]] = {
    "difference": ("teacher", "reference"),
    "reference": ("reference",),
    "bottom": ("teacher", "reference"),
    "random": (),
    "all": (),
}
"""The models that each score needs."""
PREFIX = "miniplm/"
"""Prefix of the names of difference sampling, in states and in messages."""
SELECTED, SCORES, SOFT, TEXT, RANGE, CHUNKS, COUNTS, THRESHOLD = (
    f"{PREFIX}{name}" for name in ("kept", "scores", "soft", "text", "range", "chunks", "counts", "threshold")
)


def trained(server: Node, role: str, spec: str, epochs: int) -> Model:
    """Teacher or reference, trained on the transfer set or taken from the cache. Records its cost and its loss.

    Raises:
        UserError: see `refinement.learnable` and `refinement.trained`.
    """
    public, settings = refinement.learnable(server.public), server.training
    model = refinement.trained(spec, epochs, public, server.shape, server.classes, seed=server.seed, settings=settings)
    server.record(f"{role}_trained_tokens", epochs * len(public) * rows_a_sample(public.x))
    server.record(
        f"{role}_loss", float(refinement.losses(model, spec, public, compute=server.compute).mean()), "transfer"
    )
    return model


def written(server: Node, teacher: Model, spec: str, client: int, chunks: int) -> Tensor:
    """(chunks, length + 1) text that the teacher generates for a client: uint8 if all tokens fit, else int32."""
    draw = server.rng("miniplm", client)
    first = server.public.x[:, 0]
    first = first[torch.randint(len(first), (chunks,), generator=draw)]
    text = refinement.written(teacher, spec, first, server.shape[0], server.seed, client, compute=server.compute)
    count(server, "teacher", text[:, 1:])
    return text.to(torch.uint8 if server.classes <= 2**8 else torch.int32)


def scores(client: Node, score: Score, models: Mapping[str, tuple[str, Model]]) -> Tensor:
    """(n,) the score of each of the client's samples, by (spec, model) of each role.

    Raises:
        UserError: a model's loss is not finite.
    """
    losses = {}
    for role in ROLES[score]:
        spec, model = models[role]
        losses[role] = refinement.losses(model, spec, client.private, compute=client.compute)
        if not losses[role].isfinite().all():
            raise UserError(
                f"method miniplm: {role} {spec} has a loss that is not finite; take another, or other epochs"
            )
        count(client, role, client.private.x)
    return combined(score, losses, len(client.private), client.rng("miniplm")).to(client.device)


def combined(score: Score, losses: Mapping[str, Tensor], samples: int, draw: torch.Generator) -> Tensor:
    """(n,) scores, the higher the better, of the (n,) losses of the models that such a score asks for."""
    if score in ("random", "all"):
        return torch.rand(samples, generator=draw)
    if score == "reference":
        return losses["reference"]
    differences = losses["reference"] - losses["teacher"]
    return differences if score == "difference" else -differences


def count(node: Node, role: str, x: Tensor) -> None:
    """Add all rows of some samples to the number of tokens that a model has processed or generated."""
    before = node.records.get(("", f"{role}_tokens"), 0.0)
    node.record(f"{role}_tokens", before + len(x) * rows_a_sample(x))


def cut(server: Node, reports: Mapping[int, Knowledge], keep: float) -> dict[int, Knowledge]:
    """From the clients' histograms: first the bin that contains the threshold, in the second call the threshold."""
    counts = torch.stack([reports[client][COUNTS] for client in sorted(reports)]).sum(0)
    if RANGE not in server.state:
        server.state[RANGE] = torch.tensor(difference.cut_bin(counts, keep), dtype=torch.float64)
        knowledge = Knowledge({RANGE: server.state[RANGE]})
    else:
        at = difference.threshold(counts, keep, *server.state.pop(RANGE).tolist())
        knowledge = Knowledge({THRESHOLD: torch.tensor(at, dtype=torch.float64)})
    return dict.fromkeys(sorted(reports), knowledge)


def histogram(client: Node) -> Tensor:
    """(BINS + 2,) counts of the client's scores: over the whole range, or over the bin that the server has sent."""
    ends = client.state[RANGE].tolist() if RANGE in client.state else (difference.LOW, difference.HIGH)
    return difference.histogram(client.state[SCORES], *ends)


def take(client: Node, at: float) -> None:
    """Select the samples that score `at` or more, at least the best one, and delete what only the cut needed."""
    known = client.state.pop(SCORES)
    client.state.pop(RANGE)
    index = (known.double() >= at).nonzero().flatten()
    client.state[SELECTED] = index if len(index) else highest(known, 1 / len(known))
    if SOFT in client.state:
        client.state[SOFT] = client.state[SOFT].view(len(known), -1, client.state[SOFT].shape[1])[index].flatten(0, 1)


def learnt_from(client: Node) -> Data:
    """The samples that the client learns from: generated text, its selected samples, or before a selection all."""
    if TEXT in client.state:
        text = client.state[TEXT].long()
        return Data(text[:, :-1], text[:, 1:].flatten())
    if SELECTED in client.state:
        return refinement.subset(client.private, client.state[SELECTED])
    return client.private


def record(client: Node) -> None:
    """Record the share of samples that is learnt from, and for text its diversity."""
    data = learnt_from(client)
    client.record("kept", len(data) / len(client.private))
    if rows_a_sample(data.x) > 1:
        client.record("ngram_diversity", difference.diversity(data.x))

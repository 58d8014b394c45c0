"""Where a client starts: trained on its own shard, once for every study that asks for the same."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from fedkd.data import cache_root
from fedkd.losses import cross_entropy
from fedkd.models import Model
from fedkd.node import Node, Pretraining
from fedkd.store import alone, read_tensors, write_tensors
from fedkd.train import fit

SCHEMA = 1
"""Raise when the same settings would train to other weights: older ones are then left alone."""

CAP = 300
"""Epochs after which training ends even where the loss still falls."""
PATIENCE = 10
"""Epochs over which the loss must fall by `FALL`."""
FALL = 0.01


def pretrain(client: Node, model: Model, name: str, settings: Pretraining) -> float:
    """Train `model`, called `name`, on the client's private data, or take up what such training gave before.

    The result is kept under a hash of everything that it depends on, data and initial weights included, in a
    checksummed file. Returns the epochs it took.
    """
    if settings.epochs == 0:
        return 0.0
    path = _place(client, model, name, settings)
    kept = read_tensors(path)
    if kept is None:
        with alone(path):
            kept = read_tensors(path)
            if kept is None:
                epochs = _train(client, model, settings)
                kept = {**model.state_dict(), "epochs": torch.tensor(epochs)}
                write_tensors(path, kept)
    epochs = int(kept.pop("epochs"))
    model.load_state_dict(kept)
    return float(epochs)


def _train(client: Node, model: Model, settings: Pretraining) -> int:
    # A node of its own: what this training does must not show in the client's counters or random streams.
    scratch = Node(client.id, client.clients, client.seed, client.training, client.classes, client.data)
    scratch.device = client.device
    scratch.models["student"] = model
    steps = math.ceil(len(client.private) / settings.batch_size)
    best, stale = math.inf, 0
    last = CAP if settings.epochs == "converged" else settings.epochs
    for epoch in range(last):
        loss = float(
            fit(
                scratch,
                lambda batch: cross_entropy(batch.labelled, batch.labels),
                labels="private",
                steps=steps,
                first=epoch * steps,
                optimisation=settings,
                purpose="pretrain",
            )
        )
        best, stale = (loss, 0) if loss < best * (1 - FALL) else (best, stale + 1)
        if settings.epochs == "converged" and stale >= PATIENCE:
            return epoch + 1
    return last


def _place(client: Node, model: Model, name: str, settings: Pretraining) -> Path:
    data = client.private
    assert data.y is not None
    identity = [SCHEMA, torch.__version__, name, sorted(asdict(settings).items()), client.id, client.seed]
    digest = hashlib.sha256(repr(identity).encode())
    for tensor in (data.x, data.y, *_flat(model.state_dict())):
        digest.update(repr((tensor.dtype, tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return cache_root() / "pretrained" / f"{digest.hexdigest()[:40]}.safetensors"


def _flat(state: Mapping[str, Tensor]) -> list[Tensor]:
    return [state[key] for key in sorted(state)]

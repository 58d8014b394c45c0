"""Saving of clients' models as files that stay after the federation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from fedkd.models.checkpoint import save_checkpoint
from fedkd.node.node import Node
from fedkd.settings.federation import Federation
from fedkd.tensors.ties import rank_key

BEST = "keeping/best"


def keep(
    federation: Federation, client: Node, metrics: Mapping[tuple[str, str], float], store: Path, last: bool
) -> None:
    """Save the client's model as `saved_model(store, client)` if `federation.save` asks for it now.

    "last" saves after the client's last round. "best" saves whenever validation accuracy (then loss) is better than in
    all earlier rounds, the start included, so that of equal models the earlier one stays.
    """
    if federation.save == "best":
        score = torch.tensor([[metrics["val", "accuracy"]], [metrics["val", "loss"]]], dtype=torch.float64)
        best = client.state.get(BEST)
        if best is not None and rank_key(*score.tolist()) >= rank_key(*best.tolist()):
            return
        client.state[BEST] = score
    elif not last:
        return
    save_checkpoint(
        saved_model(store, client.id),
        federation.client_models[client.id],
        client.student,
        client.shape,
        client.classes,
    )


def saved_model(store: Path, client: int) -> Path:
    """The file of one client's saved model."""
    return store / f"model-{client}.safetensors"

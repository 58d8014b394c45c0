"""The client's model as a file that outlives the federation."""

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
    """Save the client's model as `kept_model(store, client)` where `federation.save` asks for it now.

    `last` after the client's last round; `best` whenever validation accuracy (then loss) is better than at every
    round before, the start included, so that ties keep the earlier model.
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
        kept_model(store, client.id),
        federation.client_models[client.id],
        client.student,
        client.shape,
        client.classes,
    )


def kept_model(store: Path, client: int) -> Path:
    """Where one client's model is kept."""
    return store / f"model-{client}.safetensors"

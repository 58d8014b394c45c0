"""Preparation of a study before it writes anything: load data, split them, and try to build all models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedkd.base.errors import UserError
from fedkd.data import load
from fedkd.data.source import Progress
from fedkd.models import ARCHITECTURES
from fedkd.models.trial import try_network
from fedkd.node.holdings import Row
from fedkd.node.node import SERVER
from fedkd.settings.federation import Federation
from simulations.splits import SplitKey, split_key, split_of


def prepare(federations: Iterable[Federation], progress: Progress) -> list[dict[str, Any]]:
    """Load all data, split them and try all models; returns a description of each split, for study.json.

    Raises:
        UserError: data, a partition or a model cannot be used.
    """
    described: dict[SplitKey, dict[str, Any]] = {}
    tried: set[tuple[object, ...]] = set()
    for federation in federations:
        key = split_key(federation)
        if key not in described:
            described[key] = _described(federation, progress)
            _check_evaluation(federation)
        _try_models(federation, tried)
    return list(described.values())


def _described(federation: Federation, progress: Progress) -> dict[str, Any]:
    dataset = load(federation.dataset, progress)
    split = split_of(federation)
    labels = dataset.labels[dataset.train].numpy()
    return {
        **dict(zip(("dataset", "partition", "seed", "clients"), split_key(federation), strict=False)),
        "sha256": split.sha256,
        "classes": list(dataset.classes),
        "counts": split.counts(labels, len(dataset.classes)).tolist(),
        "transfer": len(split.transfer),
        "val": sum(map(len, split.val)) if isinstance(split.val, tuple) else len(split.val),
    }


def _check_evaluation(federation: Federation) -> None:
    """Raise UserError if there is nothing on which a study could be evaluated."""
    local_test = split_of(federation).local_test
    if federation.evaluate.main == "local_test" and not any(map(len, local_test)):
        raise UserError(
            f"[evaluate] on = {list(federation.evaluate.on)}: {federation.partition} gives the clients no test samples "
            'of their own; add "test"'
        )


def _try_models(federation: Federation, tried: set[tuple[object, ...]]) -> None:
    """Build every model once, and once more for each file that it starts from. `tried`: what was built before."""
    dataset = load(federation.dataset)
    built = {model: ARCHITECTURES.build(model) for model in dict.fromkeys(federation.client_models)}
    for client, model in enumerate(federation.client_models):
        attempt = (federation.dataset, model, built[model].files(client))
        if attempt not in tried:
            tried.add(attempt)
            try_network(model, dataset.shape, len(dataset.outputs), client)


def skew_rows(federation: Federation) -> list[Row]:
    """How skewed the partition is, as rows of the start; measures as in `partitions.measures`."""
    names = {"samples": "train_samples", "classes": "train_classes"}
    rows: list[Row] = []
    for name, value in split_of(federation).measures.items():
        each = enumerate(value) if isinstance(value, list) else [(SERVER, value)]
        rows += [(client, "", names.get(name, name), float(v)) for client, v in each if v is not None]
    return rows

"""The same federation twice: by fedkd, from recipe to result table, and by the reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import analysis
from simulations.recipe import expand
from simulations.splits import split_of
from simulations.study import Study
from tests.reference.ledger import Key, Ledger
from tests.reference.world import World

RECIPE: dict[str, Any] = {
    "dataset": "digits",
    "partition": "dirichlet(alpha=0.5)",
    "models": "mlp(hidden=[16])",
    "clients": 3,
    "rounds": 2,
    "seed": 1,
    "transfer": "public(fraction=0.5)",
    "save": "last",
    "pretrain": {"epochs": 1, "lr": 0.2, "batch_size": 32},
    "train": {"lr": 0.1, "batch_size": 32},
}
"""Small, and not at a default that would hide a mistake."""
LABELLED = "public(fraction=0.5, labelled=true)"
CLOSE, ROUNDED = 1e-6, 2e-5
"""Largest difference of any two weights: what is left when sums are taken in another order, and where that may decide
which way something is rounded to half precision."""
EXACT = ("bytes", "steps", "samples", "parameters", "epochs")
"""What rows are called that are whole numbers: by the end of their name, or its beginning."""
SKEW = ("train_samples", "train_classes", "label_distance", "label_entropy", "mean_label_distance", "size_gini")

Reference = Callable[[World], Ledger]


def assert_agree(method: str, reference: Reference, **changes: Any) -> Ledger:
    """fedkd and the reference agree on one federation: weights, bytes and every other row. Returns the rows."""
    recipe = RECIPE | {"method": method} | changes
    (federation,) = expand("reference", recipe).federations
    world = World(recipe, split_of(federation))
    ledger = reference(world)
    with tempfile.TemporaryDirectory() as folder:
        Study(expand("reference", recipe), Path(folder)).run("inline")
        table = analysis.load(Path(folder))
        columns = zip(table["round"], table["client"], table["split"], table["metric"], table["value"], strict=True)
        found = {(round, client, split, metric): value for round, client, split, metric, value in columns}
        models = {file.stem: load_file(file) for file in Path(folder).glob("models/*/*.safetensors")}
    compare_rows(found, ledger)
    assert models.keys() == {f"client-{client.id}" for client in world.clients}
    for client in world.clients:
        for name, mine in client.weights().items():
            away = float((mine.double() - models[f"client-{client.id}"][name].double()).abs().max())
            assert away <= (ROUNDED if ledger.rounded else CLOSE), f"{name} of client {client.id} is {away:.2g} away"
    return ledger


def compare_rows(found: dict[Key, float], ledger: Ledger) -> None:
    """Every row is there, and the same: work and bytes exactly, the rest to rounding."""
    rows = {key: value for key, value in found.items() if not key[3].endswith("seconds") and key[3] not in SKEW}
    absent, unexpected = sorted(ledger.rows.keys() - rows.keys()), sorted(rows.keys() - ledger.rows.keys())
    assert not absent, f"no such rows: {absent}"
    assert not unexpected, f"rows that should not be: {unexpected}"
    different = {key: (value, ledger.rows[key]) for key, value in rows.items() if not same(key, value, ledger)}
    assert not different, f"(found, expected): {different}"


def same(key: Key, value: float, ledger: Ledger) -> bool:
    """Whether a row is what it should be."""
    expected = ledger.rows[key]
    if key[3].startswith(EXACT) or key[3].endswith(EXACT):
        return value == expected
    return abs(value - expected) <= 1e-9 + 2e-5 * abs(expected) + ledger.doubt.get(key, 0.0)

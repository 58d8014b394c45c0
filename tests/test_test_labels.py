"""Test labels are read to report, and for nothing else: with other ones, all that is learnt and chosen is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import analysis
from fedkd.data import load
from simulations.recipe import expand
from simulations.study import Study

LABELLED = {"transfer": "public(fraction=0.3, labelled=true)"}
PRIVATE = {"transfer": "private"}
GRID = "grid={'lr': [0.02, 0.3], 'weight': [0.2, 0.9]}, rounds=2"
CONFIGURATIONS: list[tuple[str, dict[str, Any]]] = [
    ("local", {"pretrain": {"epochs": "converged", "lr": 0.3, "patience": 1}}),
    ("local", {"pretrain": {"epochs": "early_stopping", "lr": 0.3, "patience": 1}}),
    ("local", {"pretrain": {"epochs": 8, "lr": 0.3, "target": 0.4}, "val": "local", "save": "best"}),
    ("pooled", {}),
    ("label_smoothing", LABELLED),
    ("kd", {"val": "common"}),
    ("kd", PRIVATE | {"models": "mlp(hidden=[8])|cnn(width=2, hidden=6)", "save": "best"}),
    ("kd(wire='top(3)', refresh='every round', teachers='k(1)')", {"students": [0, 1]}),
    ("kd(revise='labels', select='influence')", LABELLED),
    ("kd(teachers='others+autoencoder(epochs=1)')", LABELLED),
    ("tuned_kd(temperatures=[1.0, 4.0], weights=[0.1, 0.9], rounds=1)", {}),
    (f"tuned(method='kd', {GRID}, per='client')", PRIVATE),
    (f"tuned(method='kd', {GRID}, sampler='tpe', batch=2)", {}),
    (f"tuned(method='kd', {GRID}, pruner='halving')", {}),
    ("dml(sync='step', order='alternating')", {"train": {"steps": 1, "lr": 0.1}, "rounds": 4}),
    ("dp_kd(form='sequential')", PRIVATE),
    ("dp_kd(form='soup', mask='supervised')", LABELLED),
    ("reffakd(epochs=1)", {}),
    ("reffakd(epochs=1, encoder='local')", PRIVATE),
    ("fedavg", {"start": "best_client"}),
    ("fedprox", {"start": "consolidate(method='kd', order='sequential')"}),
    ("ensemble", {"start": "average"}),
    ("dp_kd", {"start": "kd(weight=0.8)"}),
]
RECIPE: dict[str, Any] = {
    "partition": "dirichlet(alpha=1.0, min_size=20)",
    "models": "mlp(hidden=[8])",
    "clients": 3,
    "rounds": 2,
    "transfer": "public(fraction=0.3)",
    "save": "last",
    "pretrain": {"epochs": 1, "lr": 0.2},
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two archives of the same digits, of which one calls every test image something else."""
    digits, folder = load("digits"), tmp_path_factory.mktemp("archives")
    images = (digits.images[:600, 0].numpy() * 15).astype(np.uint8)
    labels, is_test = digits.labels[:600].numpy(), np.arange(600) % 6 == 0
    paths = folder / "true.npz", folder / "false.npz"
    for path, changed in zip(paths, (labels, np.where(is_test, 9 - labels, labels)), strict=True):
        np.savez(path, images=images, labels=changed, is_test=is_test)
    return paths


@pytest.mark.parametrize(("method", "changes"), CONFIGURATIONS, ids=str)
def test_other_test_labels_change_no_bit_of_what_is_learnt(
    archives: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    changes: dict[str, Any],
) -> None:
    found = []
    for path in archives:
        out = tmp_path / path.stem
        # A cache of its own: what the first run has pre-trained is not what the second begins with.
        monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / f"cache of {path.stem}"))
        Study(expand("labels", RECIPE | changes | {"method": method, "dataset": f"npz:{path}"}), out).run("inline")
        table = analysis.load(out)
        rows = table[~table["metric"].str.endswith("seconds")].drop(columns=["federation", "dataset"])
        judged = rows["split"].isin(["test", "local_test"])
        models = {file.stem: load_file(file) for file in out.glob("models/*/*.safetensors")}
        found.append((rows[~judged].reset_index(drop=True), rows[judged].reset_index(drop=True), models))
    (rows, tested, models), (other_rows, other_tested, other_models) = found
    assert rows.equals(other_rows)
    assert not tested.equals(other_tested), "the labels were indeed others"
    assert models
    assert models.keys() == other_models.keys()
    for client, weights in models.items():
        for name, weight in weights.items():
            assert weight.numpy().tobytes() == other_models[client][name].numpy().tobytes(), f"{name} of {client}"

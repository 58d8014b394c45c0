"""`val = "none"`: no validation samples are held out, and what needs them says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import analysis
from fedkd.base.errors import UserError
from fedkd.data import load
from fedkd.settings.federation import Federation
from partitions.contract import PartitionError
from simulations.data import load_holdings
from simulations.recipe import expand
from simulations.splits import make_split, split_of, write_manifest
from tests.conftest import TINY, Call, written
from tests.small import own_cache

__all__ = ["own_cache"]


def federation(val: str, partition: str = "dirichlet(alpha=0.5)") -> Federation:
    return Federation("local", partition=partition, clients=4, val=val)  # type: ignore[arg-type]


def test_what_the_others_validate_on_is_trained_on() -> None:
    plain, whole = split_of(federation("local")), split_of(federation("none"))
    for client in range(4):
        assert not len(whole.val[client])
        both = np.concatenate([plain.clients[client], plain.val[client]])
        assert np.array_equal(np.sort(whole.clients[client]), np.sort(both))


def test_a_client_has_no_validation_samples() -> None:
    held = load_holdings(federation("none"), 1)
    assert held.val is not None
    assert len(held.val) == 0
    assert len(held.evaluation["local_test"])


def test_a_manifest(tmp_path: Path) -> None:
    split = make_split(federation("none"), load("digits"))
    write_manifest(tmp_path / "whole.json", split)
    read = split_of(federation("none", f"manifest(file='{tmp_path / 'whole.json'}')"))
    assert [list(part) for part in read.clients] == [list(part) for part in split.clients]


def test_a_manifest_with_validation_samples_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path / "split.json", make_split(federation("local"), load("digits")))
    with pytest.raises((PartitionError, UserError), match='val = "none", but the file has validation samples'):
        split_of(federation("none", f"manifest(file='{tmp_path / 'split.json'}')"))


def test_a_study_without_it(tmp_path: Path, call: Call) -> None:
    study = written(tmp_path / "study.toml", f'method = ["local", "kd", "fedavg", "pooled"]\nval = "none"\n{TINY}')
    ended = call("run", study, "--engine", "inline", "--report", "--out", "here")
    assert ended.code == 0, ended.out
    table = analysis.load(tmp_path / "here")
    assert "val" not in set(table["split"])
    assert "No validation samples are held out" in (tmp_path / "here" / "report.html").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "tuned_kd"},
        {"method": 'dp_kd(form="sequential")'},
        {"method": 'kd(select="influence", weight=0.9)', "transfer": "public(fraction=0.2, labelled=true)"},
        {"method": "kd", "start": "best_client"},
        {"method": "kd", "save": "best"},
        {"method": "kd", "pretrain.epochs": "early_stopping"},
        {"method": "kd", "pretrain.target": 0.5},
    ],
)
def test_what_needs_validation_samples_says_so(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r'val = .?"?(local|none)|val = .none'):
        expand("study", {**settings, "val": "none"})

"""Where training leaves the finite numbers, a federation ends and names who, when and what: no result comes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkd.base.errors import DivergedError, FederationError
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.method import METHODS
from fedkd.node.holdings import Row
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining, Training
from fedkd.tensors.compute import CPU
from fedkd.training.finite import check_results, check_weights
from simulations.data import load_holdings
from simulations.engine import InlineGrid
from tests.conftest import Call, written
from tests.small import LABELLED, cornered, model

HIGH: dict[str, Any] = {"lr": 1e30, "weight_decay": 1.0}
"""With the decay, each step multiplies every weight by −1e30. Without, all units may die, and all stays finite."""
MODEL = "mlp(hidden=[8])"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache, for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("FEDKD_CACHE", str(cache))
        patch.setattr("fedkd.protocol.client.best_device", lambda: CPU)
        yield cache


def ends(method: str, **settings: Any) -> tuple[str, list[Row]]:
    """Why a small federation on digits failed ("" where it did not), and the rows of its complete rounds."""
    plain: dict[str, Any] = {
        "models": MODEL,
        "clients": 2,
        "rounds": 2,
        "transfer": LABELLED,
        "pretrain": Pretraining(epochs=1),
    }
    federation, rows = Federation(method, **(plain | settings)), []
    schedule_of(federation).method.check(federation, True)
    grid = InlineGrid(client_app(load_holdings), 2)
    try:
        Rounds(federation, load_holdings).start(grid, sorted(grid.get_node_ids()), lambda _, more: rows.extend(more))
    except FederationError as error:
        return str(error), rows
    return "", rows


def may(name: str) -> str:
    """A spec under which the method may run on images."""
    return {"miniplm": "miniplm(score='all')", "reffakd": "reffakd(epochs=1)"}.get(name, cornered(name))


@pytest.mark.parametrize("name", METHODS.names)
class TestEveryMethod:
    def test_a_step_too_large_ends_it_and_names_client_round_and_quantity(self, name: str) -> None:
        why, rows = ends(may(name), train=Training(**HIGH))
        assert all(math.isfinite(value) for *_, value in rows)
        assert "client" in why
        assert "in round 1" in why
        assert "not finite" in why

    def test_so_does_pre_training_and_nothing_of_it_is_kept(self, name: str, own_cache: Path) -> None:
        before = set((own_cache / "pretrained").glob("*.safetensors"))
        why, rows = ends(may(name), seed=1, pretrain=Pretraining(epochs=2, **HIGH))
        assert rows == []
        assert "client 0: in pre-training, " in why
        assert "at the start" in why
        assert "not finite" in why
        assert set((own_cache / "pretrained").glob("*.safetensors")) == before


class TestOtherWays:
    def test_frozen_teachers_which_report_once(self) -> None:
        why, _ = ends("kd(refresh='once')", train=Training(lr=1e4, weight_decay=1.0), rounds=2)
        assert "not finite" in why

    def test_a_consolidated_start(self) -> None:
        why, _ = ends("local", start="kd", train=Training(**HIGH))
        assert "client" in why
        assert "not finite" in why

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_one_weight_or_running_statistic_is_enough(self, value: float) -> None:
        network = model()
        check_weights(network)
        with torch.no_grad():
            network.head.bias[-1] = value
        with pytest.raises(DivergedError, match="weights"):
            check_weights(network)
        normalised = torch.nn.BatchNorm1d(3)
        assert normalised.running_var is not None
        normalised.running_var[1] = value
        with pytest.raises(DivergedError, match="weights"):
            check_weights(normalised)

    def test_large_weights_that_are_finite_are_no_failure(self) -> None:
        network = model()
        with torch.no_grad():
            network.head.bias.fill_(3e38)
        check_weights(network)

    @pytest.mark.parametrize(("client", "who"), [(3, "client 3"), (-1, "the server")])
    def test_a_measurement_that_is_not_finite_is_no_result(self, client: int, who: str) -> None:
        check_results([(client, "test", "loss", 1.0)], "in round 2")
        with pytest.raises(FederationError, match=f"{who}: test loss is not finite in round 2"):
            check_results([(client, "test", "loss", math.nan)], "in round 2")

    def test_a_cell_that_diverges_is_a_bad_cell_and_no_failure(self) -> None:
        why, rows = ends("tuned(method='kd', grid={'lr': [0.05, 1e30]})", rounds=1)
        assert why == ""
        assert {metric for _, _, metric, value in rows if metric.startswith("tuning_chosen")} != set()
        assert all(math.isfinite(value) for *_, value in rows)


RECIPE = f"""
method = ["local", "kd"]
models = "{MODEL}"
clients = 2
rounds = 2
train.lr = 1e30
train.weight_decay = 1.0
pretrain.epochs = 1
"""


def test_the_command_says_so_in_one_line_and_exits_with_1(call: Call, tmp_path: Path) -> None:
    ended = call("run", written(tmp_path / "study.toml", RECIPE), "--engine", "inline", "--out", tmp_path / "out")
    assert ended.code == 1
    (line,) = [line for line in ended.err.splitlines() if line.strip()]
    assert line.startswith("failed: 2 of 2 federations failed")
    assert "client 0: its training loss is not finite at lr = 1e+30" in line
    for journal in (tmp_path / "out" / "journal").glob("*.jsonl"):
        assert [json.loads(text)["round"] for text in journal.read_text().splitlines()[1:]] == [0]

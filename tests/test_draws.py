"""Networks that draw while they compute draw the same in every run, thread and process."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd.base.errors import UserError
from fedkd.models import ARCHITECTURES, Model, build_model
from fedkd.models.trial import try_network
from fedkd.node.node import Node
from fedkd.tensors.compute import CPU
from fedkd.tensors.draws import Sources, seeded, sources_of
from fedkd.tensors.losses import cross_entropy
from fedkd.training.batch import Fit
from fedkd.training.fit import fit
from simulations.recipe import read
from simulations.study import Study
from tests.conftest import assert_same_numbers, written
from tests.small import CLASSES, SHAPE, model, node, same_weights, weights
from tests.small import own_cache as own_cache

OWN = """
import random

import numpy as np
import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import nn

from fedkd.models import Architecture, Model
from fedkd import STRICT


class Noisy(nn.Module):
    def __init__(self, wide, noise):
        super().__init__()
        self.lines = nn.Linear(wide, 8)
        self.noise = noise

    def forward(self, x):
        x = self.lines(x.flatten(1)).relu()
        return {noises} if self.training else x


@dataclass(frozen=True, config=STRICT)
class Dropping(Architecture):
    \"\"\"A network that drops.\"\"\"

    def build(self, shape, classes):
        return Model(Noisy(shape[0] * shape[1] * shape[2], {kept}), 8, classes)
"""
KINDS = {
    "torch": "F.dropout(x, 0.5)",
    "numpy": "x * float(np.random.rand())",
    "python": "x * random.random()",
}


def dropping(folder: Path, noises: str, kept: str = "None") -> str:
    """The spec of a user's own architecture that draws in training."""
    written(folder / "nets.py", OWN.replace("{noises}", noises).replace("{kept}", kept))
    return f"{folder}/nets.py:Dropping"


def trained(of: Model, client: Node | None = None, *, disturbed: bool = True) -> tuple[dict[str, Tensor], list[float]]:
    """Weights, and the loss at each of six steps; if `disturbed`, others have drawn from the global streams before."""
    if disturbed:
        random.seed()
        np.random.seed(random.randrange(2**32))  # noqa: NPY002
        torch.seed()
    losses: list[float] = []
    client = client or node()
    client.models["student"] = of

    def loss(batch: Any) -> Tensor:
        value = cross_entropy(batch.labelled, batch.labels)
        losses.append(float(value.detach()))
        return value

    for client.round in (1, 2):
        fit(client, Fit(loss, labels="private", steps=3))
    return weights(of), losses


class TestOneNetwork:
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_it_draws_is_the_same_in_every_run(self, kind: str, tmp_path: Path) -> None:
        spec = dropping(tmp_path, KINDS[kind])
        (one, losses), (other, again) = (trained(build_model(spec, SHAPE, CLASSES, 0, "x")) for _ in range(2))
        assert losses == again
        assert same_weights(one, other)

    def test_it_is_other_at_each_step_and_client(self) -> None:
        masks = []

        class Watching(nn.Dropout):
            def forward(self, x: Tensor) -> Tensor:
                kept = super().forward(torch.ones(64))
                masks.append(kept.ne(0).tolist())
                return x

        for client in (0, 1):
            of = model()
            of.body = nn.Sequential(of.body, Watching())
            trained(of, node(client))
        assert len(masks) == 12 == len(set(map(tuple, masks)))

    def test_the_streams_of_others_go_on_where_they_were(self, tmp_path: Path) -> None:
        spec, found = dropping(tmp_path, " * ".join(KINDS.values())), []
        for training in (True, False):
            random.seed(1)
            np.random.seed(1)  # noqa: NPY002
            torch.manual_seed(1)
            if training:
                trained(build_model(spec, SHAPE, CLASSES, 0, "x"), disturbed=False)
            found.append([random.random(), np.random.rand(), float(torch.rand(()))])  # noqa: NPY002
        assert found[0] == found[1]

    def test_evaluation_draws_nothing(self, tmp_path: Path) -> None:
        client = node()
        client.models["student"] = build_model(dropping(tmp_path, "F.dropout(x, 0.5)"), SHAPE, CLASSES, 0, "x").train()
        before = torch.get_rng_state()
        assert torch.equal(client.predict(client.private.x), client.predict(client.private.x))
        assert torch.equal(torch.get_rng_state(), before)

    def test_threads_do_not_draw_from_each_others_streams(self) -> None:
        found: dict[int, list[float]] = {}

        def draw(seed: int) -> None:
            values = []
            for step in range(50):
                with seeded(Sources(torch=True, others=True), 1000 * seed + step):
                    values += [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: NPY002
            found[seed] = values

        threads = [threading.Thread(target=draw, args=(seed,)) for seed in (1, 2, 1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        side_by_side = dict(found)
        for seed in (1, 2):
            draw(seed)
        assert side_by_side == found


class TestWhatDraws:
    def test_no_architecture_of_ours_draws(self) -> None:
        for spec in ("cnn", "mlp", "resnet20", "wrn(depth=10)", "mobilenet_v2", "cnn(norm='batch')"):
            if spec.partition("(")[0] in ARCHITECTURES.names:
                try:
                    built = build_model(spec, (3, 32, 32), CLASSES, 0, "x")
                except UserError:
                    continue
                assert not sources_of(built), spec

    @pytest.mark.parametrize(
        "module",
        [
            nn.Dropout(0.1),
            nn.Dropout2d(0.1),
            nn.AlphaDropout(0.1),
            nn.RReLU(),
            nn.GRU(2, 2, 2, dropout=0.1),
            nn.MultiheadAttention(2, 1, dropout=0.1),
            nn.TransformerEncoderLayer(2, 1, 2),
            nn.FractionalMaxPool2d(2, output_size=1),
        ],
    )
    def test_torchs_own_modules_that_draw_are_known(self, module: nn.Module) -> None:
        assert sources_of(nn.Sequential(nn.Linear(2, 2), module)).torch

    def test_what_drops_nothing_draws_nothing(self) -> None:
        quiet = nn.Sequential(nn.Dropout(0.0), nn.GRU(2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.LayerNorm(2))
        assert not sources_of(quiet)

    def test_a_module_that_nobody_knows_may_draw_from_anything(self) -> None:
        class Mine(nn.Module):
            pass

        assert sources_of(nn.Sequential(Mine())) == Sources(torch=True, others=True)


class TestTrial:
    """A user's own network is tried before anything runs."""

    def test_a_network_that_draws_from_the_global_streams_is_fine(self, tmp_path: Path) -> None:
        for kind, noises in KINDS.items():
            (tmp_path / kind).mkdir()
            try_network(dropping(tmp_path / kind, noises), SHAPE, CLASSES)

    def test_a_stream_that_cannot_be_seeded_is_refused(self, tmp_path: Path) -> None:
        spec = dropping(tmp_path, "x * float(self.noise.random())", "np.random.default_rng()")
        with pytest.raises(UserError, match=r"nets\.py:Dropping.*draws.*torch"):
            try_network(spec, SHAPE, CLASSES)

    def test_drawing_in_evaluation_is_refused(self, tmp_path: Path) -> None:
        spec, file = dropping(tmp_path, KINDS["torch"]), tmp_path / "nets.py"
        file.write_text(file.read_text().replace(" if self.training else x\n", "\n"))
        with pytest.raises(UserError, match=r"evaluation.*self\.training"):
            try_network(spec, SHAPE, CLASSES)


RECIPE = """
method = ["local", "kd", "fedavg"]
models = "{models}"
clients = 2
rounds = 2
[pretrain]
epochs = 2
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dropping")
    spec = dropping(folder, "F.dropout(x, 0.5) * (0.5 + np.random.rand())")
    return written(folder / "study.toml", RECIPE.replace("{models}", spec))


@pytest.fixture(scope="module")
def reference(recipe: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDKD_CACHE", str(recipe.parent / "cache"))
        patch.setattr("fedkd.protocol.client.best_device", lambda: CPU)
        Study(read(str(recipe)), recipe.parent / "reference").run("inline", lanes=1)
    return recipe.parent / "reference"


class TestStudies:
    """On Ray, such a network is among those of `test_engines`."""

    def test_a_second_run_with_two_lanes_gives_the_same_tables(
        self, recipe: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
        torch.seed()
        Study(read(str(recipe)), tmp_path / "out").run("inline", lanes=2)
        assert_same_numbers(tmp_path / "out", reference)

"""One study, one table: engine, lanes and interruptions change no digit of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import analysis
from fedkd.settings.federation import Federation
from fedkd.tensors.compute import CPU
from simulations.recipe import Recipe, expand, read
from simulations.study import Interrupted, Study
from simulations.watcher import Watcher
from tests.conftest import Ended, Process, assert_same_numbers, numbers, written
from tests.test_draws import dropping

RECIPE = """
dataset = "digits"
method = ["local", "kd", "dml", "dp_kd", "tuned_kd(temperatures=[1.0, 2.0], weights=[0.5], rounds=1)"]
partition = ["iid", "dirichlet(alpha=0.5)"]
models = "cnn(width=4, hidden=8)|{dropping}"
clients = 3
rounds = 2
seed = 0
[pretrain]
epochs = 2
"""
LANES = (1, 2, 4)


@pytest.fixture(scope="module", autouse=True)
def no_gpu() -> Iterator[None]:
    """Numbers are compared to the last digit: those of one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedkd.protocol.client.best_device", lambda: CPU)
        yield


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten federations of mixed models, one of which drops by chance in training."""
    folder = tmp_path_factory.mktemp("recipe")
    spec = dropping(folder, "F.dropout(x, 0.5) * (0.5 + np.random.rand())")
    return written(folder / "study.toml", RECIPE.replace("{dropping}", spec))


@pytest.fixture(scope="module")
def reference(recipe: Path) -> Path:
    """Its results, one federation after the other, in this process."""
    out = recipe.parent / "reference"
    Study(read(str(recipe)), out).run("inline", lanes=1)
    return out


ON_RAY = """
import sys
from pathlib import Path

from fedkd.apps import client_app
from simulations import engine
from simulations.data import load_holdings
from simulations.recipe import read
from simulations.study import Study

recipe, out, widths = read(sys.argv[1]), Path(sys.argv[2]), list(map(int, sys.argv[3:]))
shared = engine.chosen("ray", client_app(load_holdings), recipe.ray)
shared.begin(lambda: None)
end, shared.begin, shared.close = shared.close, lambda *_: None, lambda: None
engine.chosen = lambda *_: shared
for width in widths:
    Study(recipe, out / str(width)).run("ray", lanes=width)
Study(read(sys.argv[1], {SELDOM}), out / "seldom").run("ray", lanes=2)
Study(read(sys.argv[1], {STACKED}), out / "stacked").run("ray", lanes=2)
end()
"""
"""Several studies on one Ray: starting it takes longer than all of them together."""
SELDOM = ["evaluate.every=2", "evaluate.samples=60", 'method=["kd", "dml"]']
"""What makes a study that is evaluated seldom, and in part."""
STACKED = ["train.stack=2", "clients=5", 'models="cnn(width=4, hidden=8)|1: mlp(hidden=[8])"', 'partition="iid"']
"""What makes one whose clients train in lockstep; one of them is the only one of its model."""


@pytest.fixture(scope="module")
def on_ray(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the study on Ray, in a folder for each number of lanes; nothing was cached before."""
    folder = tmp_path_factory.mktemp("ray")
    own = {"FEDKD_CACHE": str(folder / "cache")}
    ended = Process(
        sys.executable,
        "-c",
        ON_RAY.replace("{SELDOM}", repr(SELDOM)).replace("{STACKED}", repr(STACKED)),
        recipe,
        folder,
        *LANES,
        cwd=folder,
        environment=own,
    ).ended()
    assert ended == Ended(0, "", "")
    return folder


class TestEngines:
    @pytest.mark.parametrize("lanes", LANES[1:])
    def test_lanes_inline_change_no_number(self, lanes: int, recipe: Path, reference: Path, tmp_path: Path) -> None:
        Study(read(str(recipe)), tmp_path).run("inline", lanes=lanes)
        assert_same_numbers(tmp_path, reference)

    @pytest.mark.parametrize("lanes", LANES)
    def test_ray_changes_no_number(self, lanes: int, on_ray: Path, reference: Path) -> None:
        assert_same_numbers(on_ray / str(lanes), reference)

    def test_so_it_is_where_only_some_rounds_and_samples_are_evaluated(
        self, recipe: Path, on_ray: Path, reference: Path, tmp_path: Path
    ) -> None:
        Study(read(str(recipe), SELDOM), tmp_path).run("inline")
        assert_same_numbers(on_ray / "seldom", tmp_path)
        seldom, always = (table.drop(columns="federation") for table in map(numbers, (tmp_path, reference)))
        always = always[always["method"].isin(["kd", "dml"]) & always["round"].isin([0, 2])]
        ends = seldom[seldom["round"].isin([0, 2])]
        pd.testing.assert_frame_equal(ends.reset_index(drop=True), always.reset_index(drop=True), check_exact=True)

    def test_so_it_is_where_clients_train_in_lockstep(self, recipe: Path, on_ray: Path, tmp_path: Path) -> None:
        Study(read(str(recipe), STACKED), tmp_path).run("inline")
        assert_same_numbers(on_ray / "stacked", tmp_path)

    def test_nothing_but_results_is_left(self, on_ray: Path, reference: Path) -> None:
        for folder in (reference, *(on_ray / str(lanes) for lanes in LANES)):
            assert sorted(path.name for path in folder.iterdir()) == ["journal", "rounds.parquet", "study.json"]
            assert len(list((folder / "journal").iterdir())) == 10

    def test_every_federation_is_complete(self, reference: Path) -> None:
        table = analysis.load(reference)
        assert table.groupby(["partition", "method"])["round"].unique().map(list).tolist() == [[0, 1, 2]] * 10

    def test_mixed_models_are_given_out_in_turn(self, reference: Path) -> None:
        table = numbers(reference)
        sizes = table[(table["metric"] == "parameters") & (table["method"] == "kd")]
        counts = sizes.groupby("client")["value"].unique().map(list)
        assert counts[0] == counts[2] != counts[1]


class Watched(Watcher):
    """Keeps what it is told, and stops the study at one round."""

    def __init__(self, study: Study | None = None, stop_at: int = -1) -> None:
        self.pending = (-1, -1)
        self.rounds: list[int] = []
        self._study, self._stop_at = study, stop_at

    def begins(self, federations: int, rounds: int) -> None:
        self.pending = federations, rounds

    def round(self, federation: Federation, number: int) -> None:
        del federation
        self.rounds.append(number)
        if self._study is not None and number == self._stop_at:
            self._study.stop.set()


def small(**content: object) -> Recipe:
    """Two federations in which the method varies."""
    plain = {
        "method": ["kd", "dml"], "models": "mlp(hidden=[8])", "clients": 3, "rounds": 2, "pretrain": {"epochs": 1}
    }  # fmt: skip
    return expand("small", plain | content)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestResuming:
    def test_a_second_run_skips_everything_and_changes_nothing(self, reference: Path, recipe: Path) -> None:
        before, watcher = contents(reference), Watched()
        Study(read(str(recipe)), reference).run("inline", watcher=watcher)
        assert watcher.pending == (0, 0)
        assert watcher.rounds == []
        assert contents(reference) == before

    def test_a_study_that_was_stopped_goes_on_within_its_federations(self, tmp_path: Path) -> None:
        study = Study(small(), tmp_path / "stopped")
        with pytest.raises(Interrupted):
            study.run("inline", lanes=1, watcher=Watched(study, stop_at=1))
        kept = contents(tmp_path / "stopped" / "journal")
        assert sorted(len(text.splitlines()) for text in kept.values()) == [1, 3]
        watcher = Watched()
        Study(small(), tmp_path / "stopped").run("inline", lanes=1, watcher=watcher)
        assert watcher.pending == (2, 4)
        assert watcher.rounds == [2, 0, 1, 2]
        after = contents(tmp_path / "stopped" / "journal")
        assert all(after[name].startswith(text) for name, text in kept.items())
        Study(small(), tmp_path / "whole").run("inline")
        assert_same_numbers(tmp_path / "stopped", tmp_path / "whole")

    def test_a_torn_journal_goes_on_where_it_was_whole(self, tmp_path: Path) -> None:
        study = Study(small(method="kd"), tmp_path / "torn")
        with pytest.raises(Interrupted):
            study.run("inline", watcher=Watched(study, stop_at=1))
        (journal,) = (tmp_path / "torn" / "journal").iterdir()
        whole = journal.read_bytes()
        journal.write_bytes(whole + b'{"round":2,"rows":[[0,"test","accu')
        watcher = Watched()
        Study(small(method="kd"), tmp_path / "torn").run("inline", watcher=watcher)
        assert watcher.rounds == [2]
        assert journal.read_bytes().startswith(whole)
        Study(small(method="kd"), tmp_path / "whole").run("inline")
        assert_same_numbers(tmp_path / "torn", tmp_path / "whole")

    def test_a_federation_whose_state_is_gone_begins_anew(self, tmp_path: Path) -> None:
        Study(small(), tmp_path / "whole").run("inline")
        Study(small(), tmp_path / "cut").run("inline")
        for journal in (tmp_path / "cut" / "journal").iterdir():
            journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
        watcher = Watched()
        Study(small(), tmp_path / "cut").run("inline", lanes=1, watcher=watcher)
        assert watcher.rounds == [0, 1, 2] * 2
        assert_same_numbers(tmp_path / "cut", tmp_path / "whole")

    def test_a_recipe_that_has_grown_runs_what_is_new(self, tmp_path: Path) -> None:
        Study(small(), tmp_path / "grown").run("inline")
        watcher = Watched()
        Study(small(method=["kd", "dml", "local"], seed=[0, 1]), tmp_path / "grown").run("inline", watcher=watcher)
        assert watcher.pending == (4, 12)
        Study(small(method=["kd", "dml", "local"], seed=[0, 1]), tmp_path / "whole").run("inline")
        assert_same_numbers(tmp_path / "grown", tmp_path / "whole")

    def test_results_do_not_depend_on_what_the_cache_holds(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Study(small(), tmp_path / "warm").run("inline")
        monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
        Study(small(), tmp_path / "cold").run("inline")
        assert_same_numbers(tmp_path / "cold", tmp_path / "warm")

    def test_two_runs_do_not_share_a_folder(self, tmp_path: Path) -> None:
        study = Study(small(), tmp_path / "shared")
        refusals: list[str] = []

        class Second(Watcher):
            def round(self, federation: Federation, number: int) -> None:
                del federation, number
                with pytest.raises(ValueError, match="another run is writing there") as caught:
                    Study(small(), tmp_path / "shared").run("inline")
                refusals.append(type(caught.value).__name__)

        study.run("inline", lanes=1, watcher=Second())
        assert refusals == ["UserError"] * 6
        assert len(analysis.finished(analysis.load(tmp_path / "shared"))["federation"].unique()) == 2


class TestSizes:
    def test_federations_of_several_sizes_run_in_one_study(self, tmp_path: Path) -> None:
        Study(small(method="kd", clients=[2, 4], seed=[0, 1]), tmp_path).run("inline")
        table = analysis.load(tmp_path)
        clients = table[table["client"] >= 0].groupby(["clients", "seed"])["client"].nunique()
        assert clients.tolist() == [2, 2, 4, 4]

    def test_a_study_without_rounds_measures_the_start(self, tmp_path: Path) -> None:
        Study(small(rounds=0), tmp_path).run("inline")
        assert set(analysis.load(tmp_path)["round"]) == {0}
        watcher = Watched()
        Study(small(rounds=0), tmp_path).run("inline", watcher=watcher)
        assert watcher.pending == (0, 0)

"""Results cannot be stale: a federation is named by the content of every file that its numbers depend on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

import analysis
from analysis.results.table import others
from fedkd.base.errors import UserError
from fedkd.base.files import content_hash, located, look_beside, python_files
from fedkd.models import build_model
from simulations.identity import identify
from simulations.recipe import expand, read
from simulations.study import Study
from simulations.watcher import Watcher
from tests.conftest import assert_same_numbers, fedkd, numbers, written

METHOD = """
from pydantic.dataclasses import dataclass
from torch import Tensor
from fedkd import STRICT, Batch
from fedkd.methods.local import Local
from helper import FACTOR

@dataclass(frozen=True, config=STRICT)
class Scaled(Local):
    "Local training on a scaled loss."

    def loss(self, batch: Batch) -> Tensor:
        return FACTOR * super().loss(batch)
"""
SETTINGS = {"models": "mlp(hidden=[4])", "clients": 2, "rounds": 1, "pretrain.epochs": 1, "dataset": "digits"}


class Told(Watcher):
    """Notes what is run and what is set aside."""

    def __init__(self) -> None:
        self.run: int = -1
        self.aside: list[tuple[int, str]] = []

    def begins(self, federations: int, rounds: int) -> None:
        del rounds
        self.run = federations

    def superseded(self, federations: int, why: str, folder: Path) -> None:
        assert folder.name == "superseded"
        self.aside.append((federations, why))


def run(out: Path, recipe: Path | None = None, **settings: Any) -> Told:
    """Run a small study inline."""
    told = Told()
    chosen = {key.replace("__", "."): value for key, value in settings.items()}
    study = read(str(recipe)) if recipe else expand("small", SETTINGS | chosen)
    Study(study, out).run("inline", lanes=1, watcher=told)
    return told


def archive(path: Path, seed: int) -> Path:
    """Sixty small pictures whose labels depend on the seed."""
    rng = np.random.default_rng(seed)
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    np.savez(path, images=images, labels=rng.permutation(np.arange(60) % 2), writer=np.arange(60) % 4)
    return path


def weights(path: Path, seed: int) -> Path:
    """A checkpoint whose weights depend on the seed; its size does not."""
    model = build_model("mlp(hidden=[4])", (1, 8, 8), 10, seed, "init")
    save_file(dict(model.state_dict()), path)
    return path


def as_before(path: Path, change: Callable[[Path], object]) -> None:
    """Change a file, and give it the time that it had."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    change(path)
    os.utime(path, ns=times)


class TestIdentity:
    """What changes a federation's name."""

    def test_other_weights_behind_the_same_path(self, tmp_path: Path) -> None:
        file = weights(tmp_path / "a.safetensors", 0)
        model = f'checkpoint:{file}(model="mlp(hidden=[4])")'
        first = run(tmp_path / "out", models=model, method="local")
        assert (first.run, first.aside) == (1, [])
        as_before(file, lambda path: weights(path, 1))
        second = run(tmp_path / "out", models=model, method="local")
        assert second.run == 1
        assert second.aside == [(1, f"{file} changed")]
        start = analysis.load(tmp_path / "out").query("round == 0 and metric == 'loss' and split == 'test'")["value"]
        before = analysis.load(tmp_path / "out" / "superseded").query(
            "round == 0 and metric == 'loss' and split == 'test'"
        )["value"]
        assert not np.array_equal(start, before)

    def test_other_labels_behind_the_same_path(self, tmp_path: Path) -> None:
        data = archive(tmp_path / "own.npz", 0)
        run(tmp_path / "out", dataset=f"npz:{data}", method="local")
        assert run(tmp_path / "out", dataset=f"npz:{data}", method="local").run == 0
        as_before(data, lambda path: archive(path, 1))
        again = run(tmp_path / "out", dataset=f"npz:{data}", method="local")
        assert (again.run, again.aside) == (1, [(1, f"npz:{data} changed")])

    def test_another_column_behind_the_same_path(self, tmp_path: Path) -> None:
        data = archive(tmp_path / "own.npz", 0)
        federation = expand("c", SETTINGS | {"dataset": f"npz:{data}", "method": "local"}).federations[0]
        before = identify(federation)
        with np.load(data) as arrays:
            changed = {**arrays, "writer": arrays["writer"][::-1]}
        as_before(data, lambda path: np.savez(path, **changed))
        assert identify(federation) != before

    def test_an_edited_module_that_ones_own_method_imports(self, tmp_path: Path) -> None:
        helper = written(tmp_path / "helper.py", "FACTOR = 1.0\n")
        method = f"{written(tmp_path / 'scaled.py', METHOD)}:scaled"
        run(tmp_path / "out", method=method)
        before = numbers(tmp_path / "out")
        helper.write_text("FACTOR = 0.0\n")
        again = run(tmp_path / "out", method=method)
        assert (again.run, again.aside) == (1, [(1, f"{tmp_path / 'scaled.py'} changed")])
        accuracy = analysis.load(tmp_path / "out").query("split == 'test' and metric == 'loss' and client >= 0")
        assert accuracy.groupby("client")["value"].nunique().eq(1).all(), "a loss times 0 teaches nothing"
        helper.write_text("FACTOR = 1.0\n")
        back = run(tmp_path / "out", method=method)
        assert (back.run, back.aside) == (0, [(1, f"{tmp_path / 'scaled.py'} changed")]), "the first results come back"
        pd.testing.assert_frame_equal(numbers(tmp_path / "out"), before)

    def test_fedkds_own_numbers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run(tmp_path / "out", method="local")
        for module in ("folder", "identity", "superseding"):
            monkeypatch.setattr(f"simulations.{module}.NUMERICS", 99)
        again = run(tmp_path / "out", method="local")
        assert again.run == 1
        assert [(count, why.split(" (")[0]) for count, why in again.aside] == [
            (1, "made with numbers of version 2, now 99")
        ]

    def test_a_checkpoint_inside_a_method(self, tmp_path: Path) -> None:
        file = weights(tmp_path / "teacher.safetensors", 0)
        teacher = f"checkpoint:{file}(model={'mlp(hidden=[4])'!r})"
        inner = f"miniplm(teacher={teacher!r})"
        text = f"tuned(method={inner!r})"
        federation = expand("c", SETTINGS | {"method": "local"}).federations[0]
        object.__setattr__(federation, "method", text)
        before = identify(federation)
        weights(file, 1)
        assert identify(federation) != before

    def test_the_folder_does_not_matter_but_the_content_does(self, tmp_path: Path) -> None:
        file = archive(tmp_path / "a.npz", 0)
        before = content_hash(file)
        assert content_hash(Path(shutil.copy(file, tmp_path / "b.npz"))) == before
        as_before(file, lambda path: archive(path, 1))
        assert content_hash(file) != before


class TestOnesOwnCode:
    """Which files a Python file is made of."""

    def test_imports_beside_it_are_followed_and_others_are_not(self, tmp_path: Path) -> None:
        main = written(tmp_path / "main.py", "import torch, a\nfrom p.q import x\ndef f():\n    import late\n")
        written(tmp_path / "a.py", "import b\n")
        written(tmp_path / "b.py", "import a\n")
        written(tmp_path / "late.py", "")
        written(tmp_path / "unused.py", "")
        (tmp_path / "p").mkdir()
        written(tmp_path / "p" / "__init__.py", "")
        written(tmp_path / "p" / "q.py", "")
        names = [str(file.relative_to(tmp_path)) for file in python_files(main)]
        assert names == ["a.py", "b.py", "late.py", "main.py", "p/__init__.py", "p/q.py"]

    def test_fedkd_itself_is_no_part_of_a_file_in_its_checkout(self, tmp_path: Path) -> None:
        (tmp_path / "fedkd").mkdir()
        written(tmp_path / "fedkd" / "__init__.py", "")
        file = written(tmp_path / "mine.py", "from fedkd import Node\n")
        assert python_files(file) == (file,)

    def test_broken_code_is_named(self, tmp_path: Path) -> None:
        file = written(tmp_path / "broken.py", "def\n")
        with pytest.raises(UserError, match=r"broken\.py.*line 1"):
            expand("x", SETTINGS | {"method": f"{file}:broken"})


class TestOneFolder:
    """Several studies in one folder."""

    def test_more_rounds_replace_fewer_and_are_never_mixed(self, tmp_path: Path) -> None:
        run(tmp_path / "out", method=["local", "kd"], rounds=1)
        more = run(tmp_path / "out", method=["local", "kd"], rounds=2)
        assert (more.run, more.aside) == (2, [(2, "rounds = 2 now, 1 before")])
        table = analysis.load(tmp_path / "out")
        assert table.groupby("federation")["round"].max().tolist() == [2, 2]
        assert "rounds" not in table.columns
        alone = run(tmp_path / "alone", method=["local", "kd"], rounds=2)
        assert alone.run == 2
        assert_same_numbers(tmp_path / "out", tmp_path / "alone")

    def test_rounds_that_a_recipe_sweeps_stay_side_by_side(self, tmp_path: Path) -> None:
        swept = run(tmp_path / "out", method="local", rounds=[1, 2])
        assert (swept.run, swept.aside) == (2, [])
        assert run(tmp_path / "out", method="local", rounds=[1, 2]).run == 0
        assert sorted(analysis.load(tmp_path / "out")["rounds"].unique()) == [1, 2]

    def test_whether_models_are_kept_replaces_too(self, tmp_path: Path) -> None:
        run(tmp_path / "out", method="local", save="last")
        again = run(tmp_path / "out", method="local")
        assert (again.run, len(again.aside)) == (1, 1)
        assert len(list((tmp_path / "out" / "superseded" / "models").glob("*/*.safetensors"))) == 2
        analysis.load(tmp_path / "out")

    def test_the_table_is_of_the_recipe_that_was_run_last(self, tmp_path: Path) -> None:
        run(tmp_path / "out", method="local", train__lr=0.1)
        first = numbers(tmp_path / "out")
        run(tmp_path / "out", method=["local", "kd"], train__lr=0.2)
        table = analysis.load(tmp_path / "out")
        assert set(table["method"]) == {"local", "kd"}
        assert not set(table["federation"]) & set(first["federation"])
        assert others(tmp_path / "out") == 1
        both = analysis.load(tmp_path / "out", everything=True)
        assert sorted(both["train.lr"].unique()) == [0.1, 0.2]
        assert both["federation"].nunique() == 3
        run(tmp_path / "out", method="local", train__lr=0.1)
        pd.testing.assert_frame_equal(numbers(tmp_path / "out"), first)

    def test_the_command_says_so_and_reports_all_on_demand(self, tmp_path: Path) -> None:
        recipe = written(
            tmp_path / "study.toml",
            'dataset = "digits"\nmethod = "scaled.py:scaled"\nclients = 2\nrounds = 1\nmodels = "mlp(hidden=[4])"\n'
            "[pretrain]\nepochs = 1\n",
        )
        written(tmp_path / "helper.py", "FACTOR = 1.0\n")
        written(tmp_path / "scaled.py", METHOD)
        line = ("run", recipe, "--engine", "inline", "--out", tmp_path / "out")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        written(elsewhere / "scaled.py", "raise SystemExit('the wrong file')\n")
        assert fedkd(*line, cwd=elsewhere).code == 0, "files are looked for beside the recipe first"
        written(tmp_path / "helper.py", "FACTOR = 2.0\n")
        ended = fedkd(*line, cwd=elsewhere)
        assert ended.code == 0
        assert "scaled.py changed: 1 federation set aside in" in ended.out
        assert "1/1" in ended.out
        ended = fedkd(*line, "--set", "train.lr=0.5", cwd=elsewhere)
        assert "1 federations of other recipes lie in the folder too" in ended.out
        ended = fedkd("report", tmp_path / "out", "--all", cwd=elsewhere)
        assert ended.code == 0
        assert "train.lr = 0.5" in ended.out
        assert "train.lr = 0.05" in ended.out


class TestWhereFilesAre:
    """The order in which a file is looked for."""

    def test_beside_the_recipe_then_here_then_in_the_mirror(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe, here, mirror = (tmp_path / name for name in ("recipe", "here", "mirror"))
        for folder in (recipe, here, mirror):
            folder.mkdir()
            written(folder / "a.npz", folder.name)
        monkeypatch.chdir(here)
        monkeypatch.setenv("FEDKD_DATA", str(mirror))
        look_beside([recipe])
        try:
            for folder in (recipe, here, mirror):
                assert located("a.npz").read_text() == folder.name
                (folder / "a.npz").unlink()
            assert located("a.npz") == Path("a.npz")
        finally:
            look_beside([])

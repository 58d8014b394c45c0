"""The wheel, outside of the checkout: it is whole, it is nothing more, and it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import analysis
from tests.conftest import ROOT, Ended, Process

ROOMS = ("fedkd", "partitions", "analysis", "simulations")


def done(*command: object, cwd: Path) -> None:
    """Run a command that must not fail."""
    ended = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout with what is installed already."""
    out = tmp_path_factory.mktemp("wheel")
    done(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, without its dependencies: those come from where the tests run."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    done(*pip, "install", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def installed(site: Path, *command: object, cwd: Path) -> Ended:
    """Run a command in which the wheel's packages go before those of the checkout."""
    return Process(*command, cwd=cwd, environment={"PYTHONPATH": str(site)}).ended()


def test_it_holds_the_four_rooms_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {Path(name) for name in archive.namelist()}
    info = {path for path in held if path.parts[0].endswith(".dist-info")}
    wanted = {
        path.relative_to(ROOT)
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held - info == wanted
    assert {path.name for path in info} >= {"METADATA", "entry_points.txt", "LICENSE"}


def test_it_brings_its_types_and_its_recipes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "fedkd/py.typed" in names
    recipes = {path.name for path in (ROOT / "simulations" / "recipes").glob("*.toml")}
    assert recipes == {Path(name).name for name in names if name.startswith("simulations/recipes/")}
    assert "quickstart.toml" in recipes


def test_its_packages_are_those_that_are_imported(site: Path, tmp_path: Path) -> None:
    script = f"import {', '.join(ROOMS)}; print(*(room.__file__ for room in ({', '.join(ROOMS)})), sep='\\n')"
    ended = installed(site, sys.executable, "-c", script, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out.split() == [str(site / room / "__init__.py") for room in ROOMS]


def test_it_runs_a_recipe_that_it_brings(site: Path, tmp_path: Path) -> None:
    settings = ["rounds=1", "seed=0", "partition=iid", "method=local", "pretrain.epochs=1"]
    named = [word for setting in settings for word in ("--set", setting)]
    ended = installed(site, site / "bin" / "fedkd", "run", "quickstart", "--engine", "inline", *named, cwd=tmp_path)
    assert ended.code == 0, ended.said
    table = analysis.load(tmp_path / "results" / "quickstart")
    assert set(table["round"]) == {0, 1}
    assert set(table["method"]) == {"local"}


def test_it_lists_what_it_brings(site: Path, tmp_path: Path) -> None:
    ended = installed(site, site / "bin" / "fedkd", "list", cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert {"local", "kd", "dml", "dp_kd", "tuned_kd", "iid", "cnn", "digits"} <= set(ended.out.split())


def test_nothing_is_built_into_the_checkout(wheel: Path) -> None:
    assert wheel.is_file()
    assert not os.path.lexists(ROOT / "dist" / wheel.name)

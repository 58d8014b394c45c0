"""The command line: what each command prints and writes, and the code it ends with."""

from __future__ import annotations

import json
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from fedkd.base.catalogue import Catalogue, parameters, summary
from fedkd.base.spec import parse
from fedkd.data import SOURCES, load
from fedkd.method import METHODS
from fedkd.models import ARCHITECTURES, build_model
from partitions.split import Split
from simulations.recipe import SHIPPED, known_keys, read
from simulations.shipped import check_data, shipped
from simulations.splits import PARTITIONS
from tests.conftest import FEDKD, TINY, Call, Process, assert_same_numbers, numbers, written

CATALOGUES: dict[str, Any] = {"methods": METHODS, "partitions": PARTITIONS, "models": ARCHITECTURES}
STUDY = f'method = ["local", "kd"]\n{TINY}'

OWN = """
import os, signal, time
from pathlib import Path

from pydantic.dataclasses import dataclass

from fedkd import STRICT
from fedkd.methods.kd import KD


@dataclass(frozen=True, config=STRICT)
class Interrupting(KD):
    "Presses Ctrl-C in round 1, once."
    folder: str = ""

    def learn(self, client, knowledge):
        if client.round == 1 and client.id == 1 and not Path(self.folder, "pressed").exists():
            Path(self.folder, "pressed").touch()
            os.kill(os.getpid(), signal.SIGINT)
        KD.learn(self, client, knowledge)


@dataclass(frozen=True, config=STRICT)
class Hanging(KD):
    "Never comes back from round 1."

    def learn(self, client, knowledge):
        if client.round == 1:
            time.sleep(600)
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A recipe of two federations."""
    return written(tmp_path / "study.toml", STUDY)


class TestRun:
    def test_runs_every_federation_and_prints_the_comparison(self, study: Path, call: Call, tmp_path: Path) -> None:
        ended = call("run", study, "--engine", "inline", "--out", "here")
        assert (ended.code, ended.err) == (0, "")
        lines = ended.out.splitlines()
        assert lines[0] == f"fedkd: {study} → here (engine inline)"
        assert "2 federations, sweeping method" in ended.out
        assert "2 to run, 6 rounds in all" in ended.out
        assert "2/2" in ended.out
        assert "digits · iid" in ended.out
        assert "fedkd report here" in lines[-1]
        assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
            "journal",
            "rounds.parquet",
            "study.json",
        ]

    def test_writes_to_a_folder_of_the_recipes_name_by_default(self, study: Path, call: Call, tmp_path: Path) -> None:
        assert call("run", study, "--engine", "inline", "--set", "method=local").code == 0
        assert set(analysis.load(tmp_path / "results" / "study")["method"]) == {"local"}

    def test_makes_the_report_too_when_asked(self, study: Path, call: Call, tmp_path: Path) -> None:
        ended = call("run", study, "--engine", "inline", "--out", "here", "--report")
        assert ended.code == 0
        assert "figures: here/figures" in ended.out
        assert (tmp_path / "here" / "report.html").is_file()

    def test_applies_overrides(self, study: Path, call: Call, tmp_path: Path) -> None:
        ended = call(
            "run", study, "--engine", "inline", "--out", "here",
            "--set", "rounds=1", "--set", 'method=["dml", "kd(temperature=2.0)"]', "--set", "train.lr=0.1",
        )  # fmt: skip
        assert ended.code == 0
        table = analysis.load(tmp_path / "here")
        assert set(table["method"]) == {"dml", "kd(temperature=2.0)"}
        assert set(table["round"]) == {0, 1}

    def test_names_of_arms_are_shown_and_renaming_runs_nothing_again(
        self, study: Path, call: Call, tmp_path: Path
    ) -> None:
        run = ("run", study, "--engine", "inline", "--out", "here")
        first = call(*run, "--set", "rounds=1", "--set", 'method={alone="local", warm="kd(temperature=2.0)"}')
        assert (first.code, first.err) == (0, "")
        assert "vs alone" in " ".join(first.out.split())
        assert "warm: method = kd(temperature=2.0)" in first.out
        journals = {path: path.read_bytes() for path in (tmp_path / "here" / "journal").iterdir()}
        assert set(analysis.load(tmp_path / "here")["method"]) == {"local", "kd(temperature=2.0)"}
        again = call(*run, "--set", "rounds=1", "--set", 'method={alone="local", hot="kd(temperature=2.0)"}')
        assert "all federations are complete already" in again.out
        assert {path: path.read_bytes() for path in (tmp_path / "here" / "journal").iterdir()} == journals
        described = json.loads((tmp_path / "here" / "study.json").read_text())
        assert described["names"] == {"method": {"local": "alone", "kd(temperature=2.0)": "hot"}}

    def test_says_so_when_nothing_is_left_to_run(self, study: Path, call: Call, tmp_path: Path) -> None:
        call("run", study, "--engine", "inline", "--out", "here")
        before = (tmp_path / "here" / "rounds.parquet").read_bytes()
        ended = call("run", study, "--engine", "inline", "--out", "here")
        assert ended.code == 0
        assert "all federations are complete already" in ended.out
        assert (tmp_path / "here" / "rounds.parquet").read_bytes() == before

    def test_describes_the_study_beside_its_results(self, study: Path, call: Call, tmp_path: Path) -> None:
        call("run", study, "--engine", "inline", "--out", "here")
        described = json.loads((tmp_path / "here" / "study.json").read_text())
        assert set(described) >= {"recipe", "federations", "swept", "versions", "hardware", "commit", "partitions"}
        assert described["swept"] == ["method"]
        assert {settings["method"] for settings in described["federations"].values()} == {"local", "kd"}
        assert set(described["federations"]) == set(analysis.load(tmp_path / "here")["federation"])
        assert {"python", "torch", "flwr", "ray", "numpy"} <= set(described["versions"])

    def test_prints_something_within_three_seconds(self, study: Path, tmp_path: Path) -> None:
        began = time.monotonic()
        process = Process(FEDKD, "run", study, "--engine", "inline", cwd=tmp_path)
        first = process.first_line()
        took = time.monotonic() - began
        assert process.ended().code == 0
        assert first.startswith("fedkd: ")
        assert took < 3


class TestCtrlC:
    def test_once_ends_after_the_exchange_in_flight_and_the_same_command_goes_on(
        self, call: Call, tmp_path: Path
    ) -> None:
        own = written(tmp_path / "own.py", OWN)
        method = f"method = \"{own}:interrupting(folder='{tmp_path}')\"\n{TINY}"
        written(tmp_path / "study.toml", method)
        command = ["run", "study.toml", "--engine", "inline", "--out"]
        ended = call(*command, "here")
        assert ended.code == 130
        assert "stopping after the exchanges in flight" in ended.err
        assert "the same command goes on from there" in ended.err
        (journal,) = (tmp_path / "here" / "journal").iterdir()
        kept = journal.read_bytes()
        assert len(kept.splitlines()) == 3, "header, start and the round that was in flight"
        assert call(*command, "here").code == 0
        assert journal.read_bytes().startswith(kept)
        assert call(*command, "undisturbed").code == 0
        assert_same_numbers(tmp_path / "here", tmp_path / "undisturbed")

    def test_twice_ends_at_once(self, tmp_path: Path) -> None:
        own = written(tmp_path / "own.py", OWN)
        written(tmp_path / "study.toml", f'method = "{own}:hanging"\n{TINY}')
        process = Process(FEDKD, "run", "study.toml", "--engine", "inline", "--out", "here", cwd=tmp_path)
        process.wait_until(
            lambda: any(len(path.read_bytes().splitlines()) == 2 for path in journals(tmp_path / "here"))
        )
        process.interrupt()
        assert "once more stops at once" in process.first_line(of_errors=True)
        process.interrupt()
        assert process.ended(timeout=20).code == 130


def journals(folder: Path) -> list[Path]:
    """The journals of a results folder."""
    return sorted((folder / "journal").glob("*.jsonl"))


class TestReport:
    def test_writes_figures_twice_and_one_page(self, study: Path, call: Call, tmp_path: Path) -> None:
        call("run", study, "--engine", "inline", "--out", "here")
        ended = call("report", "here")
        assert (ended.code, ended.err) == (0, "")
        figures = tmp_path / "here" / "figures"
        names = sorted(path.stem for path in figures.glob("*.svg"))
        assert names
        assert names == sorted(path.stem for path in figures.glob("*.png"))
        assert f"({len(names)}, each as .svg and .png)" in ended.out
        page = (tmp_path / "here" / "report.html").read_text(encoding="utf-8")
        assert page.lstrip().lower().startswith("<!doctype html>")
        assert "digits · iid" in ended.out

    def test_leaves_the_results_as_they_are(self, study: Path, call: Call, tmp_path: Path) -> None:
        call("run", study, "--engine", "inline", "--out", "here")
        before = numbers(tmp_path / "here")
        call("report", "here", "--target", "0.3")
        assert numbers(tmp_path / "here").equals(before)


class TestList:
    @pytest.mark.parametrize("kind", CATALOGUES)
    def test_shows_every_entry_with_its_parameters(self, kind: str, call: Call) -> None:
        ended = call("list", kind)
        assert (ended.code, ended.err) == (0, "")
        catalogue: Catalogue[object] = CATALOGUES[kind]
        for name in catalogue.names:
            entry = catalogue.find(parse(name))
            assert f"  {getattr(entry, 'usage', name)}  {summary(entry)}" in ended.out
            for parameter in parameters(entry):
                if parameter.name == "argument":
                    continue  # the usage says what it is
                assert f"      {parameter.name}: {parameter.type} = {parameter.default}" in ended.out
                assert parameter.help, f"{name}: {parameter.name} has no help"
                assert f"          {parameter.help}" in ended.out

    def test_every_parameter_stands_under_its_own_entry(self, call: Call) -> None:
        blocks: dict[str, list[str]] = {}
        for line in call("list", "methods").out.splitlines()[1:]:
            if line.startswith("  ") and not line.startswith("   "):
                name = line.split()[0]
            else:
                blocks.setdefault(name, []).append(line.strip())
        assert len([line for line in blocks["kd"] if line.startswith("temperature: float")]) == 1
        assert not [line for line in blocks["local"] if line.startswith("temperature")]

    def test_shows_every_source_of_data(self, call: Call) -> None:
        ended = call("list", "datasets")
        assert {"digits", "images", "npz"} <= set(SOURCES.names)
        for name in SOURCES.names:
            kind = SOURCES.find(parse(name))
            assert f"  {kind.usage}  {summary(kind)}" in ended.out

    def test_shows_everything_when_nothing_is_asked_for(self, call: Call) -> None:
        whole = call("list").out
        for kind in (*CATALOGUES, "datasets"):
            assert call("list", kind).out in whole

    def test_shows_every_key_of_a_recipe(self, call: Call) -> None:
        ended = call("list", "keys")
        _, how, *lines = ended.out.splitlines()
        assert "A list where one value would do sweeps" in how
        assert [line.split(":")[0].strip() for line in lines[::2]] == list(known_keys())
        assert "  train.lr: float > 0 = 0.05" in lines
        assert "  pretrain.epochs: 'auto' | 'converged' | 'early_stopping' | int ≥ 0 = 'auto'" in lines
        assert all(line.strip() for line in lines[1::2]), "every key has a help"
        assert "| `train.lr` | float > 0 | `0.05` | learning rate, which `warmup`" in call("list", "--markdown").out

    def test_shows_what_each_recipe_asks_how_long_and_on_which_data(self, call: Call) -> None:
        printed = call("list", "recipes").out
        for file in SHIPPED.glob("*.toml"):
            assert f"  {file.stem}  " in printed
        for each in shipped():
            assert each.asks.split("?")[0].count(".") == 0, f"{each.name}: its question comes first"
            assert re.fullmatch(r"Takes about \d+ minutes on two cores", each.time), each.name
            assert "always there" in each.data or "--set dataset=digits needs no file" in each.data, each.name
            assert each.asks in printed

    def test_shows_one_entry_of_any_kind_whole(self, call: Call) -> None:
        ended = call("list", "kd")
        assert ended.out.startswith("methods: kd\n  Knowledge distillation")
        assert "arXiv 1503.02531" in ended.out
        assert "      temperature: float ≥ 0.01" in ended.out
        assert call("list", "dirichlet").out.startswith("partitions: dirichlet\n")
        assert call("list", "torchvision").out.startswith("models: torchvision:NAME\n")
        wrong = call("list", "kdd")
        assert wrong.code == 2
        assert "list 'kdd' is unknown: did you mean 'kd'?" in wrong.err


def test_the_version_is_that_of_the_package(call: Call) -> None:
    ended = call("--version")
    assert (ended.code, ended.out) == (0, f"fedkd {version('fedkd')}\n")


BOTH = """'dataset=["mnist(limit=2000)", "cifar10(limit=2000)"]'"""


class TestShippedRecipes:
    """They name files that not everybody has: what to do without them is said, and works."""

    @pytest.mark.parametrize(
        ("recipe", "files", "instead"),
        [
            (
                "tuning",
                "mnist.npz and cifar10-jpeg.tar.xz are",
                """'dataset=["mnist(limit=2000)", "cifar10(limit=2000)"]'""",
            ),
            ("heterogeneous_mnist", "mnist.npz is", "'dataset=mnist(limit=3000)'"),
            ("heterogeneous_cifar", "cifar10-jpeg.tar.xz is", "'dataset=cifar10(limit=4000)'"),
        ],
    )
    def test_a_missing_file_is_named_with_what_replaces_it(
        self, recipe: str, files: str, instead: str, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("FEDKD_DATA", raising=False)
        ended = call("run", recipe, "--engine", "inline")
        assert ended.code == 2
        assert f"recipe {recipe}: {files} neither in {tmp_path} nor in the folder FEDKD_DATA names; put " in ended.err
        assert f"--set {instead} downloads them instead; --set dataset=digits takes" in ended.err
        assert list(tmp_path.iterdir()) == []

    def test_every_recipe_of_images_can_be_run_on_digits(self) -> None:
        for each in shipped():
            if "--set dataset=digits" in each.data:
                recipe = read(each.name, ["dataset=digits"])
                check_data(recipe)
                for model in {model for federation in recipe.federations for model in federation.client_models}:
                    assert build_model(model, (1, 8, 8), 10, 0, "").head.out_features == 10


class TestPartition:
    def test_writes_a_manifest_with_the_promised_keys(self, call: Call, tmp_path: Path) -> None:
        ended = call("partition", "dirichlet( alpha=0.5 )", "--clients", "5", "--seed", "3", "--out", "split.json")
        assert (ended.code, ended.err) == (0, "")
        content = json.loads((tmp_path / "split.json").read_text())
        promised = {"strategy", "dataset", "seed", "sha256", "clients", "transfer", "val"}
        assert set(content) == promised | {"dropped", "local_test", "transfer_dataset", "measures"}
        assert content["strategy"] == "dirichlet(alpha=0.5)"
        assert (content["dataset"], content["seed"]) == ("digits", 3)
        assert content["sha256"][:16] in ended.out

    def test_deals_every_training_sample_once(self, call: Call, tmp_path: Path) -> None:
        call("partition", "pathological(classes=2)", "--clients", "5", "--out", "split.json")
        split = Split.load(tmp_path / "split.json")
        assert len(split.clients) == len(split.val) == 5
        parts = [*split.clients, *split.val, split.transfer, split.dropped]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(load("digits").train)))

    def test_is_the_partition_that_a_study_uses(self, study: Path, call: Call, tmp_path: Path) -> None:
        call("run", study, "--engine", "inline", "--out", "here", "--set", "partition=dirichlet(alpha=0.5)")
        call("partition", "dirichlet(alpha=0.5)", "--clients", "3", "--out", "split.json")
        (used,) = json.loads((tmp_path / "here" / "study.json").read_text())["partitions"]
        assert used["sha256"] == Split.load(tmp_path / "split.json").sha256

    def test_another_seed_is_another_deal(self, call: Call, tmp_path: Path) -> None:
        for seed in (0, 1):
            call("partition", "iid", "--seed", seed, "--out", f"{seed}.json")
        assert Split.load(tmp_path / "0.json").sha256 != Split.load(tmp_path / "1.json").sha256

    def test_prints_what_every_client_holds(self, call: Call, tmp_path: Path) -> None:
        ended = call("partition", "iid", "--clients", "3", "--out", "split.json")
        rows = [line.split() for line in ended.out.splitlines()]
        for client, shard in enumerate(Split.load(tmp_path / "split.json").clients):
            (row,) = [row for row in rows if str(len(shard)) in row and f"{client}" in row[:2]]
            source = load("digits")
            counts = np.bincount(source.labels[source.train].numpy()[shard], minlength=10)
            assert list(map(str, counts)) == [cell for cell in row if cell != "│"][-10:]

    @pytest.mark.parametrize(("ending", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG\r\n"), ("pdf", b"%PDF-")])
    def test_draws_a_picture(self, ending: str, magic: bytes, call: Call, tmp_path: Path) -> None:
        ended = call("partition", "iid", "--clients", "3", "--plot", f"split.{ending}")
        assert (ended.code, ended.err) == (0, "")
        assert (tmp_path / f"split.{ending}").read_bytes().startswith(magic)
        assert [path.name for path in tmp_path.iterdir()] == [f"split.{ending}"]

    def test_shows_without_writing_anything(self, call: Call, tmp_path: Path) -> None:
        ended = call("partition", "iid", "--clients", "3")
        assert ended.code == 0
        assert "client" in ended.out
        assert not list(tmp_path.iterdir())


class TestHelp:
    @pytest.mark.parametrize("command", ["run", "report", "list", "partition"])
    def test_every_command_explains_itself(self, command: str, call: Call) -> None:
        ended = call(command, "--help")
        assert ended.code == 0
        assert "Usage: " in ended.out
        assert f"fedkd {command}" in ended.out

    def test_no_command_at_all_shows_the_commands(self, call: Call) -> None:
        ended = call()
        assert ended.code == 2
        assert {"run", "report", "list", "partition"} <= set(ended.said.split())

"""Results stay those of their federation when a later fedkd adds a setting: names and headers are as before."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Gt
from pydantic.dataclasses import dataclass

import analysis
from fedkd.base.added import ADDED, added_defaults, identity
from fedkd.base.catalogue import STRICT, parameters
from fedkd.settings.federation import Federation
from fedkd.settings.training import Training
from simulations.identity import identify, with_defaults
from simulations.recipe import expand, known_keys
from simulations.study import Study
from tests.test_contents import SETTINGS, Told

HEADERS: dict[str, dict[str, Any]] = {
    name: {
        "federation": name,
        "rounds": 1,
        "settings": {
            "method": method,
            "models": "mlp(hidden=[4])",
            "clients": 2,
            "students": [],
            "teachers": [],
            "rounds": 1,
            "seed": 0,
            "dataset": "digits",
            "partition": "iid",
            "transfer": "public(fraction=0.2)",
            "val": "local",
            "init": "common",
            "start": "pretrained",
            "save": "none",
            "pretrain.optimizer": "sgd",
            "pretrain.lr": 0.05,
            "pretrain.momentum": 0.0,
            "pretrain.weight_decay": 0.0,
            "pretrain.batch_size": 32,
            "pretrain.augment": "",
            "pretrain.epochs": 1,
            "pretrain.patience": 10,
            "pretrain.target": 0.0,
            "train.optimizer": "sgd",
            "train.lr": 0.05,
            "train.momentum": 0.0,
            "train.weight_decay": 0.0,
            "train.batch_size": 32,
            "train.augment": "",
            "train.epochs": 1,
            "train.steps": 0,
        },
        "models": ["mlp(hidden=[4])", "mlp(hidden=[4])"],
        "contents": {"digits": "8130e7f967b994a7"},
        "numerics": 2,
    }
    for name, method in (("kd-3c6332b6c588", "kd"), ("local-244e906d6676", "local"))
}
"""As the last commit before any setting was added wrote them, with numbers of version 2."""


@dataclass(frozen=True, config=STRICT)
class LaterTraining(Training):
    """The [train] table of a fedkd to come."""

    echo: Annotated[str, ADDED] = "none"
    """sounds again"""


@dataclass(frozen=True, config=STRICT)
class Later(Federation):
    """A federation of a fedkd to come."""

    share: Annotated[float, Gt(0), ADDED] = 1.0
    """how much"""
    train: LaterTraining = LaterTraining()
    """the [train] table"""


def study(folder: Path, **settings: Any) -> Study:
    """The study of two methods that the headers are of."""
    return Study(expand("small", SETTINGS | {"method": ["local", "kd"]} | settings), folder)


def write_journals(folder: Path, headers: dict[str, dict[str, Any]]) -> None:
    """Finished journals of these headers."""
    (folder / "journal").mkdir(parents=True)
    lines = [json.dumps({"round": number, "rows": [[0, "test", "accuracy", 0.5]]}) for number in (0, 1)]
    for name, header in headers.items():
        (folder / "journal" / f"{name}.jsonl").write_text("\n".join([json.dumps(header), *lines, ""]))


class TestASettingThatIsAdded:
    def test_names_nothing_while_it_has_its_default(self) -> None:
        assert identity(Later(method="kd")) == identity(Federation(method="kd"))
        assert set(asdict(Later(method="kd"))) - set(identity(Later(method="kd"))) >= {"share"}

    def test_names_what_uses_it(self) -> None:
        used = Later(method="kd", share=0.5, train=LaterTraining(echo="wide"))
        assert identity(used)["share"] == 0.5
        assert identity(used)["train"]["echo"] == "wide"

    def test_is_listed_under_its_flat_key(self) -> None:
        assert {"share": 1.0, "train.echo": "none"}.items() <= added_defaults(Later).items()

    def test_is_checked_and_described_like_any_other(self) -> None:
        described = {parameter.name: parameter for parameter in parameters(Later)}["share"]
        assert (described.type, described.default, described.help) == ("float > 0", "1.0", "how much")
        with pytest.raises(ValueError, match="greater than 0"):
            Later(method="kd", share=0.0)

    def test_the_ones_that_exist_are_keys_of_a_recipe(self) -> None:
        assert set(added_defaults(Federation)) <= set(known_keys())


class TestAnEarlierFolder:
    """What an earlier fedkd has written is complete for this one."""

    def run(self, folder: Path, **settings: Any) -> Told:
        told = Told()
        study(folder, **settings).run("inline", lanes=1, watcher=told)
        return told

    def test_names_are_those_of_the_commit_before(self, tmp_path: Path) -> None:
        of = study(tmp_path).recipe.federations
        assert sorted(map(identify, of)) == sorted(HEADERS)

    def test_nothing_runs_again(self, tmp_path: Path) -> None:
        assert "participation" in with_defaults(HEADERS["kd-3c6332b6c588"]["settings"])
        write_journals(tmp_path, HEADERS)
        told = self.run(tmp_path)
        assert (told.run, told.aside) == (0, [])

    def test_more_rounds_replace_the_same_arm(self, tmp_path: Path) -> None:
        write_journals(tmp_path, HEADERS)
        told = self.run(tmp_path, rounds=2)
        assert (told.run, told.aside) == (2, [(2, "rounds = 2 now, 1 before")])

    def test_a_sweep_takes_the_default_for_what_a_journal_lacks(self, tmp_path: Path) -> None:
        write_journals(tmp_path, {"local-244e906d6676": HEADERS["local-244e906d6676"]})
        assert self.run(tmp_path, method="local", participation=[1.0, 0.5]).run == 1
        assert set(analysis.load(tmp_path)["participation"]) == {1.0, 0.5}

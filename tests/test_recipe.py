"""A recipe: what one line of TOML means, in which order it runs, and what it is called."""

from __future__ import annotations

import itertools
import json
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fedkd.base.errors import UserError
from fedkd.settings.federation import Federation
from simulations.folder import varying
from simulations.identity import identify
from simulations.recipe import SHIPPED, Recipe, expand, known_keys, read, settings_of
from tests.conftest import written

SWEEP: dict[str, Any] = {
    "method": ["local", "kd", "dml"],
    "models": ["cnn", "mlp"],
    "partition": ["iid", "dirichlet(alpha=0.5)"],
    "seed": [3, 1],
    "train": {"lr": [0.1, 0.2]},
}


def start(federation: Federation) -> dict[str, Any]:
    """The settings that the pre-trained start of a federation depends on."""
    return {
        key: value
        for key, value in settings_of(federation).items()
        if key not in ("method", "rounds") and not key.startswith("train.")
    }


def one(**content: Any) -> Federation:
    """The federation of a recipe that sweeps nothing."""
    (federation,) = expand("one", {"method": "kd"} | content).federations
    return federation


class TestSweeps:
    def test_every_combination_is_there_once(self) -> None:
        recipe = expand("sweep", SWEEP)
        found = {(f.method, f.models, f.partition, f.seed, f.train.lr) for f in recipe.federations}
        lists = (SWEEP["method"], SWEEP["models"], SWEEP["partition"], SWEEP["seed"], SWEEP["train"]["lr"])
        assert found == set(itertools.product(*lists))
        assert len(recipe.federations) == len(found) == 48

    def test_the_method_varies_fastest(self) -> None:
        methods = [federation.method for federation in expand("sweep", SWEEP).federations]
        assert methods == SWEEP["method"] * 16

    def test_partition_and_seed_vary_slowest_in_the_order_written(self) -> None:
        outer = [(federation.partition, federation.seed) for federation in expand("sweep", SWEEP).federations]
        wanted = list(itertools.product(SWEEP["partition"], SWEEP["seed"]))
        assert [key for key, _ in itertools.groupby(outer)] == wanted

    def test_federations_that_share_a_start_are_neighbours(self) -> None:
        starts = [str(start(federation)) for federation in expand("sweep", SWEEP).federations]
        runs = [key for key, _ in itertools.groupby(starts)]
        assert len(runs) == len(set(starts)) == 8

    def test_they_are_so_in_whatever_order_the_file_names_its_keys(self) -> None:
        content = SWEEP | {"rounds": [1, 2], "pretrain": {"lr": [0.1, 0.2]}}
        for order in (content, dict(reversed(content.items()))):
            federations = expand("sweep", order).federations
            starts = [key for key, _ in itertools.groupby(str(start(federation)) for federation in federations)]
            assert len(starts) == len(set(starts)) == 16
            assert [federation.method for federation in federations] == SWEEP["method"] * 64

    def test_the_same_recipe_expands_to_the_same_list(self) -> None:
        assert expand("sweep", SWEEP) == expand("sweep", SWEEP)

    def test_values_told_twice_run_once(self) -> None:
        recipe = expand("twice", {"method": ["kd", "kd( )", "local"], "seed": [1, 1]})
        assert [(f.method, f.seed) for f in recipe.federations] == [("kd", 1), ("local", 1)]

    def test_starts_that_sweep_share_one_bound(self) -> None:
        starts = ["random", "average", "best_client", "kd"]
        content = {"method": ["fedavg", "pooled"], "start": starts}
        recipe = expand("bound", content)
        assert [f.start for f in recipe.federations if f.method == "fedavg"] == starts
        assert [f.start for f in recipe.federations if f.method == "pooled"] == ["pretrained"]
        assert [f.start for f in expand("alone", content | {"start": "random"}).federations] == ["random", "random"]

    def test_swept_keys_are_those_with_several_values(self) -> None:
        recipe = expand("some", SWEEP | {"rounds": [2], "clients": 4, "pretrain": {"epochs": [1, 1]}})
        assert set(recipe.swept) == {"method", "models", "partition", "seed", "train.lr"}

    def test_a_value_told_twice_sweeps_nothing(self) -> None:
        assert expand("twice", {"method": ["kd(temperature=2.0)", "kd( temperature = 2.0 )"]}).swept == ()

    def test_a_list_within_a_spec_is_one_value(self) -> None:
        federation = one(method="tuned_kd(temperatures=[1.0, 2.0])", models="mlp(hidden=[8, 4])")
        assert (federation.method, federation.models) == ("tuned_kd(temperatures=[1.0, 2.0])", "mlp(hidden=[8, 4])")


class TestKeys:
    def test_tables_and_dotted_keys_mean_the_same(self) -> None:
        assert one(train={"lr": 0.3}) == one(**{"train.lr": 0.3})
        assert one(train={"lr": 0.3}).train.lr == 0.3

    def test_keys_of_a_table_that_are_not_written_have_their_defaults(self) -> None:
        assert one(pretrain={"epochs": 3}).pretrain.lr == Federation("kd").pretrain.lr

    def test_what_is_not_written_has_the_default_of_the_library(self) -> None:
        assert one() == Federation("kd")

    def test_ray_is_told_apart_from_what_changes_results(self) -> None:
        recipe = expand("ray", {"method": "kd", "ray": {"num_cpus": 0.5, "num_gpus": 0.25}})
        assert (recipe.ray.num_cpus, recipe.ray.num_gpus) == (0.5, 0.25)
        assert recipe.federations == expand("plain", {"method": "kd"}).federations
        assert recipe.swept == ()

    def test_a_whole_number_will_do_where_a_real_one_is_asked_for(self) -> None:
        assert one(train={"lr": 1}) == one(train={"lr": 1.0})

    def test_pretraining_takes_a_number_or_a_word(self) -> None:
        assert one(pretrain={"epochs": 0}).pretrain.epochs == 0
        assert one(pretrain={"epochs": "converged"}).pretrain.epochs == "converged"

    def test_every_key_has_a_help_text(self) -> None:
        assert all(known_keys().values())


class TestLabels:
    @pytest.mark.parametrize(
        ("key", "loose", "canonical"),
        [
            ("method", " kd( temperature = 4.0 ,weight=0.25) ", "kd(temperature=4.0, weight=0.25)"),
            ("method", "local()", "local"),
            ("method", 'dp_kd(teachers="others")', "dp_kd(teachers='others')"),
            ("method", "tuned_kd(weights=[0.5,1.0])", "tuned_kd(weights=[0.5, 1.0])"),
            ("partition", "dirichlet( alpha=0.5 )", "dirichlet(alpha=0.5)"),
            ("transfer", "public(labelled=True, fraction=0.2)", "public(labelled=true, fraction=0.2)"),
        ],
    )
    def test_specs_are_spelt_canonically(self, key: str, loose: str, canonical: str) -> None:
        federation = one(**{key: loose})
        assert getattr(federation, key) == canonical
        assert one(**{key: canonical}) == federation

    def test_equal_settings_have_one_name(self) -> None:
        assert identify(one(method="kd( temperature=2.0 )")) == identify(one(method="kd(temperature=2.0)"))

    def test_different_settings_have_different_names(self) -> None:
        recipe = expand("sweep", SWEEP)
        names = {identify(federation) for federation in recipe.federations}
        assert len(names) == len(recipe.federations)
        assert all(name.startswith(("local-", "kd-", "dml-")) for name in names)

    def test_a_changed_file_of_ones_own_is_another_federation(self, tmp_path: Path) -> None:
        text = """
from pydantic.dataclasses import dataclass
from fedkd.methods.kd import KD
from fedkd import STRICT

@dataclass(frozen=True, config=STRICT)
class Mine(KD):
    "Mine."
"""
        file = written(tmp_path / "mine.py", text)
        federation = one(method=f"{file}:mine(temperature=2.0)")
        before = identify(federation)
        assert before.startswith("mine-")
        assert identify(federation) == before
        file.write_text(text + "# changed\n")
        assert identify(federation) != before


class TestSettings:
    def test_all_settings_come_back_under_flat_keys(self) -> None:
        for federation in expand("sweep", SWEEP).federations:
            settings = settings_of(federation)
            assert expand("again", settings).federations == (federation,)
            assert all(isinstance(value, (str, int, float, tuple)) for value in settings.values())

    def test_they_are_all_keys_of_a_recipe_but_ray(self) -> None:
        settings = settings_of(one())
        assert set(settings) == {key for key in known_keys() if not key.startswith("ray.")}


class TestOverrides:
    def federations(self, *overrides: str) -> Recipe:
        return expand("overridden", {"method": ["local", "kd"], "rounds": 3, "train": {"lr": 0.1}}, overrides)

    def test_a_value_is_replaced(self) -> None:
        recipe = self.federations("rounds=7", "train.lr=0.5")
        assert {(f.rounds, f.train.lr) for f in recipe.federations} == {(7, 0.5)}

    def test_a_list_sweeps(self) -> None:
        recipe = self.federations('method=["dml", "kd(temperature=2.0)"]', "seed=[0, 1]")
        wanted = [(seed, method) for seed in (0, 1) for method in ("dml", "kd(temperature=2.0)")]
        assert [(f.seed, f.method) for f in recipe.federations] == wanted
        assert set(recipe.swept) == {"method", "seed"}

    def test_a_bare_word_is_text(self) -> None:
        recipe = self.federations("method=dp_kd", "partition=dirichlet(alpha=0.5)", "models = cnn|mlp")
        assert [(f.method, f.partition, f.models) for f in recipe.federations] == [
            ("dp_kd", "dirichlet(alpha=0.5)", "cnn|mlp")
        ]

    def test_a_quoted_word_is_the_same_text(self) -> None:
        assert self.federations('method="dp_kd"') == self.federations("method=dp_kd")

    def test_one_value_in_place_of_a_list_sweeps_no_more(self) -> None:
        recipe = self.federations("method=kd")
        assert [f.method for f in recipe.federations] == ["kd"]
        assert recipe.swept == ()

    def test_the_last_of_several_holds(self) -> None:
        assert {f.rounds for f in self.federations("rounds=7", "rounds=8").federations} == {8}

    def test_a_value_with_an_equals_sign_is_whole(self) -> None:
        assert self.federations("method=kd(temperature=4.0)").federations[0].method == "kd(temperature=4.0)"

    def test_the_recipe_as_run_is_kept(self) -> None:
        assert self.federations("rounds=7").source == {"method": ["local", "kd"], "rounds": 7, "train.lr": 0.1}


def test_what_an_earlier_run_wrote_does_not_vary_from_what_this_one_knows() -> None:
    now = settings_of(one())
    written_before = json.loads(json.dumps(now)) | {"seed": 9}
    assert written_before["students"] == []
    assert varying([now, written_before]) == ["seed"]


class TestFiles:
    def test_a_file_is_read(self, tmp_path: Path) -> None:
        file = written(tmp_path / "mine.toml", 'method = ["kd", "local"]\nseed = [0, 1]\n[train]\nlr = 0.3\n')
        recipe = read(str(file), ["rounds=2"])
        assert recipe.name == "mine"
        assert len(recipe.federations) == 4
        assert {(f.rounds, f.train.lr) for f in recipe.federations} == {(2, 0.3)}

    def test_shipped_recipes_go_by_their_bare_name(self) -> None:
        recipe = read("quickstart")
        assert recipe.name == "quickstart"
        assert len(recipe.federations) == 75
        assert set(recipe.swept) == {"method", "partition", "seed"}

    def test_a_file_of_that_name_goes_before_a_shipped_recipe(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        written(tmp_path / "quickstart", 'method = "local"\n')
        assert [f.method for f in read("quickstart").federations] == ["local"]

    @pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.toml")), ids=lambda file: file.stem)
    def test_every_shipped_recipe_parses(self, file: Path) -> None:
        recipe = read(file.stem)
        assert recipe.federations
        assert len({federation.to_json() for federation in recipe.federations}) == len(recipe.federations)
        first = file.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# "), "its first line says what it is for"

    @pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.toml")), ids=lambda file: file.stem)
    def test_every_key_of_a_shipped_recipe_matters(self, file: Path) -> None:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        flat = {
            f"{key}.{inner}" if isinstance(value, dict) else key
            for key, value in content.items()
            for inner in (value if isinstance(value, dict) else [key])
        }
        assert flat == set(read(file.stem).source)
        assert flat <= set(known_keys())

    def test_what_is_wrong_is_found_before_anything_runs(self) -> None:
        with pytest.raises(UserError, match="temprature"):
            expand("late", {"method": ["local", "kd", "dml", "kd(temprature=2.0)"], "seed": [0, 1, 2]})


class TestNames:
    ARMS: ClassVar = {"tuned": "kd(temperature=2.0)", "plain": "kd()"}

    def test_a_table_sweeps_as_a_list_does_and_names_no_federation(self) -> None:
        named = expand("r", {"method": self.ARMS, "partition": {"even": "iid"}})
        listed = expand("r", {"method": ["kd(temperature=2.0)", "kd"], "partition": "iid"})
        assert named.federations == listed.federations
        assert list(map(identify, named.federations)) == list(map(identify, listed.federations))
        assert (named.swept, listed.names) == (listed.swept, {})
        assert named.names == {
            "method": {"kd(temperature=2.0)": "tuned", "kd": "plain"},
            "partition": {"iid": "even"},
        }

    def test_an_override_takes_names_too(self) -> None:
        recipe = expand("r", {"method": "local"}, ['method={tuned = "kd(temperature=2.0)", plain = "kd"}'])
        assert recipe.names["method"] == {"kd(temperature=2.0)": "tuned", "kd": "plain"}
        assert not expand("r", {"method": self.ARMS}, ["method=local"]).names

    @pytest.mark.parametrize(
        ("arms", "message"),
        [
            ({"a": "kd", "b": "kd()"}, r"'method': the arms 'a' and 'b' are one, kd"),
            ({"kd": "local", "b": "kd"}, r"'method': the arm 'kd' is called what the arm 'b' is"),
            ({"a": ["kd"]}, r"'method': the arm 'a' should be one spec string.*found \['kd'\]"),
            ({" ": "kd"}, r"'method': ' ' is no name for 'kd'"),
            ({}, r"'method' is an empty table"),
        ],
    )
    def test_what_cannot_be_names_says_so(self, arms: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            expand("r", {"method": arms})

    def test_two_arms_of_one_name_are_no_table(self) -> None:
        with pytest.raises(UserError, match=r"--set .*not a table of names \(.*'?a'?"):
            expand("r", {"method": "kd"}, ['method={a="kd", a="local"}'])

    def test_a_key_without_specs_takes_no_names(self) -> None:
        with pytest.raises(UserError, match=r"recipe table \[seed\] is unknown"):
            expand("r", {"method": "kd", "seed": {"first": 1}})


def test_a_short_name_of_a_precision_is_the_same_federation() -> None:
    short, full = (
        expand("study", {"method": "kd", "train.precision": name}).federations for name in ("bf16", "bfloat16")
    )
    assert short == full

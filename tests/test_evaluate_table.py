"""The [evaluate] table: when models are evaluated, on what and on how many samples. It changes no training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import analysis
from analysis.measures.compare import compare
from analysis.report import make_report
from analysis.results.evaluated import Evaluated
from fedkd.base.added import identity
from fedkd.base.errors import UserError
from fedkd.data import load
from fedkd.node.holdings import Holdings
from fedkd.node.node import SERVER
from fedkd.settings.evaluation import Evaluation
from fedkd.settings.federation import Federation
from simulations import data
from simulations.data import load_holdings
from simulations.recipe import expand
from simulations.study import Study
from tests.conftest import Call
from tests.small import own_cache
from tests.test_participation import CLIENTS, Numbers, run, shown

__all__ = ["own_cache"]

METHODS = ("local", "kd", 'kd(refresh="every round")', "dml", "dp_kd", "fedavg", "ensemble")
EVALUATIONS = ("accuracy", "loss", "gained", "lost", "ece", "agreement", "teacher_accuracy", "teacher_loss")
ROUNDS = 7
KEPT = (0, 3, 6, 7)
"""The rounds that are evaluated with every = 3: the start, multiples, and the last."""


def is_evaluation(key: tuple[int, int, str, str]) -> bool:
    return key[2] != "" and key[3].partition("/")[0] in EVALUATIONS


class TestEvery:
    @pytest.mark.parametrize("participation", [1.0, 0.4])
    @pytest.mark.parametrize("method", METHODS)
    def test_evaluated_rounds_have_the_same_rows_and_others_only_costs(self, method: str, participation: float) -> None:
        given: dict[str, Any] = {"rounds": ROUNDS, "participation": participation}
        always, seldom = (shown(run(method, evaluate=Evaluation(every=n), **given), **given) for n in (1, 3))
        for number in range(ROUNDS + 1):
            one, other = (of_round(numbers, number) for numbers in (always, seldom))
            if number in KEPT:
                # Who is not to come again is evaluated by class, which is shown when it is known.
                by_class = {key for key in other if key[3].startswith("accuracy/") and number < ROUNDS}
                assert {key: value for key, value in other.items() if key not in by_class} == {
                    key: value for key, value in one.items() if not key[3].startswith("accuracy/") or number == ROUNDS
                }
            else:
                costs = {key: value for key, value in one.items() if not is_evaluation(key)}
                assert other == {key: value for key, value in costs.items() if key[3] != "rounds_absent"}

    @pytest.mark.parametrize("start", ["average", "best_client", 'consolidate(method="kd", order="sequential")'])
    def test_a_common_start_is_always_evaluated(self, start: str) -> None:
        always, seldom = (run("kd", participation=1.0, start=start, evaluate=Evaluation(every=n)) for n in (1, 50))
        begun = max(key[0] for key in always) - 6
        shown = {key[0] for key in seldom if is_evaluation(key)}
        assert shown == {0, begun, begun + 6}
        assert {key: value for key, value in always.items() if key[0] in shown} == {
            key: value for key, value in seldom.items() if key[0] in shown
        }

    def test_nothing_is_computed_for_rounds_between(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[int] = []
        plain = Holdings.evaluate

        def counted(self: Holdings, *given: Any, **more: Any) -> Any:
            seen.append(1)
            return plain(self, *given, **more)

        monkeypatch.setattr(Holdings, "evaluate", counted)
        run("local", rounds=ROUNDS, participation=1.0, evaluate=Evaluation(every=3))
        assert len(seen) == CLIENTS * len(KEPT)

    @pytest.mark.parametrize("stop", [2, 4])
    def test_left_after_a_round_without_evaluation_and_taken_up_it_is_the_same(self, stop: int, tmp_path: Path) -> None:
        given: dict[str, Any] = {"rounds": ROUNDS, "evaluate": Evaluation(every=3)}
        assert run("fedavg", tmp_path, stop, **given) == run("fedavg", **given)


def of_round(numbers: Numbers, number: int) -> Numbers:
    return {key: value for key, value in numbers.items() if key[0] == number}


class TestNames:
    def test_a_federation_that_uses_no_key_of_it_is_named_as_before(self) -> None:
        assert "evaluate" not in identity(Federation("kd"))

    def test_a_key_that_is_used_is_part_of_the_name(self) -> None:
        assert identity(Federation("kd", evaluate=Evaluation(every=2)))["evaluate"] == {"every": 2}

    def test_splits_are_named_in_any_order(self) -> None:
        assert Evaluation(on=("val", "test")) == Evaluation(on=("test", "val"))
        assert Evaluation(on=("val", "local_test")).main == "local_test"


class TestWrong:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"on": []}, r"'evaluate\.on': it should name at least one of 'test', 'local_test', 'val'"),
            ({"on": ["tset"]}, r"'evaluate\.on': input should be 'test', 'local_test' or 'val'.*found \('tset',\)"),
            ({"every": 0}, r"'evaluate\.every': input should be greater than or equal to 1.*found 0"),
            ({"every": [1, 2]}, r"'evaluate\.every' cannot be swept: all federations of a study are measured alike"),
            ({"on": [["test"], ["val"]]}, r"'evaluate\.on' cannot be swept"),
            ({"sample": 3}, r"'evaluate\.sample' is unknown; .*evaluate\.samples"),
        ],
    )
    def test_it_is_one_message(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            expand("r", {"method": "kd", "evaluate": given})
        assert "\n" not in str(caught.value)

    def test_the_best_model_needs_validation(self) -> None:
        with pytest.raises(UserError, match=r"save.*validation accuracy.*add \"val\""):
            expand("r", {"method": "kd", "save": "best", "evaluate": {"on": "test"}})

    def test_the_command_line_ends_with_2(self, call: Call) -> None:
        ended = call("run", "quickstart", "--set", "evaluate.on=[]")
        assert ended.code == 2
        assert "evaluate.on" in ended.err


class TestOn:
    def test_the_common_test_set_is_never_read_where_it_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(dataset: str) -> object:
            raise AssertionError(f"the common test set of {dataset} was read")

        monkeypatch.setattr(data, "_test", refused)
        for method in ("kd", "fedavg", "pooled"):
            for client in (SERVER, 0):
                federation = Federation(method, clients=3, evaluate=Evaluation(on=("local_test",)))
                held = load_holdings(federation, client)
                assert held.main == "local_test"
                assert not {"test", "val"} & set(held.evaluation)
        with pytest.raises(AssertionError, match="was read"):
            load_holdings(Federation("kd", clients=3), 0)

    def test_a_model_of_the_server_is_evaluated_on_what_all_clients_hold(self) -> None:
        federation = Federation("fedavg", clients=3, evaluate=Evaluation(on=("local_test",)))
        each = [len(load_holdings(federation, client).evaluation["local_test"]) for client in range(3)]
        assert len(load_holdings(federation, SERVER).evaluation["local_test"]) == sum(each) > 0


class TestSamples:
    def held(self, client: int, method: str = "kd", seed: int = 0) -> Any:
        evaluate = Evaluation(samples=60)
        return load_holdings(Federation(method, clients=3, seed=seed, evaluate=evaluate), client)

    def test_they_are_of_all_classes_and_the_same_for_everybody(self) -> None:
        some, whole = self.held(0).some, self.held(0).evaluation["test"]
        assert len(some.data) == 60
        assert torch.equal(some.data.x, whole.x[some.rows])
        counts = torch.bincount(some.data.y)
        exact = torch.bincount(whole.y) * (60 / len(whole))
        assert float((counts - exact).abs().max()) < 1
        for other in (self.held(2), self.held(SERVER, "fedavg"), self.held(1, "dml")):
            assert torch.equal(other.some.rows, some.rows)
        assert not torch.equal(self.held(0, seed=1).some.rows, some.rows)

    def test_all_samples_are_no_choice(self) -> None:
        held = load_holdings(Federation("kd", clients=3, evaluate=Evaluation(samples=10**6)), 0)
        assert held.some is None

    def test_the_sampling_error_is_that_of_a_share(self) -> None:
        index = pd.MultiIndex.from_tuples([("a", n) for n in range(4)], names=["federation", "round"])
        known = Evaluated.of(pd.Series([0.5, 0.9, 0.8, 0.5], index=index), "test", 100)
        assert known.error == pytest.approx(1.96 * (0.8 * 0.2 / 100) ** 0.5)
        assert "± 7.8 points" in known.curves
        assert known.apart == 1
        assert known.gaps == ""


SETTINGS: dict[str, tuple[str, ...]] = {
    "seldom": ("evaluate.every=3", "evaluate.samples=60", "seed=[0, 1]"),
    "local_test": ("evaluate.on=local_test",),
    "val": ("evaluate.on=val", "val=common"),
}


@pytest.fixture(scope="module", params=SETTINGS)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A small study with one of the settings, run in this process."""
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name)
    recipe = {
        "method": ["local", "fedavg", "pooled"],
        "clients": 3,
        "rounds": 5,
        "pretrain.epochs": 1,
        "partition": "dirichlet(alpha=0.5)",
    }
    Study(expand(name, recipe, SETTINGS[name]), folder).run("inline")
    make_report(folder)
    return name, folder


def test_results_and_report_say_what_was_measured(study: tuple[str, Path]) -> None:
    name, folder = study
    seldom, split = name == "seldom", "test" if name == "seldom" else name
    table = analysis.load(folder)
    accuracy = table[(table["metric"] == "accuracy") & (table["split"] != "transfer")]
    assert set(accuracy["split"]) == ({"test", "local_test", "val"} if seldom else {split})
    assert set(accuracy["round"]) == ({0, 3, 5} if seldom else set(range(6)))
    assert set(table["round"]) == set(range(6))
    summary = compare(table, study=analysis.read_study(folder))
    assert summary.rows["accuracy"].notna().all()
    assert "disagree" not in " ".join(summary.warnings)
    page = re.sub(r"<[^>]+>", " ", (folder / "report.html").read_text(encoding="utf-8"))
    assert f"Mean {split} accuracy over clients" in page
    for text in ("up to 3 rounds apart", "up to 2 late", "60 samples of the test set"):
        assert (text in page) == seldom
    if split != "test":
        assert not re.search(r"\btest accuracy", page)
        assert f"{split}:" in page


def test_samples_stand_for_all_between_the_start_and_the_end(study: tuple[str, Path]) -> None:
    name, folder = study
    if name == "seldom":
        table = analysis.load(folder)
        values = table[(table["metric"] == "accuracy") & (table["split"] == "test")]
        everything = len(load("digits").test)
        for number, size in {0: everything, 3: 60, 5: everything}.items():
            right = values.loc[values["round"] == number, "value"] * size
            assert (right - right.round()).abs().max() < 1e-9


def test_every_journal_says_how_it_was_evaluated(study: tuple[str, Path]) -> None:
    name, folder = study
    for path in (folder / "journal").glob("*.jsonl"):
        header = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
        assert header["settings"]["evaluate.every"] == (3 if name == "seldom" else 1)

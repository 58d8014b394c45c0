"""`[evaluate] of`: whose models are evaluated. It changes no training."""

from __future__ import annotations

from pathlib import Path

import pytest

import analysis
from analysis.report import make_report
from fedkd.base.errors import UserError
from fedkd.node.node import SERVER
from fedkd.settings.evaluation import Evaluation
from fedkd.settings.federation import Federation
from simulations.data import load_holdings
from simulations.recipe import expand
from tests.conftest import TINY, Call, written
from tests.small import own_cache
from tests.test_evaluate_table import is_evaluation
from tests.test_participation import run
from tests.test_weights import judging

__all__ = ["own_cache"]


@pytest.mark.parametrize("participation", [1.0, 0.4])
@pytest.mark.parametrize("method", ["fedavg", "ensemble"])
@pytest.mark.parametrize("of", [("clients",), ("server",)])
def test_the_rows_of_the_others_are_left_out_and_nothing_else(
    method: str, participation: float, of: tuple[str]
) -> None:
    both = run(method, load=judging, participation=participation)
    some = run(method, load=judging, participation=participation, evaluate=Evaluation(of=of))  # type: ignore[arg-type]

    def wanted(key: tuple[int, int, str, str]) -> bool:
        return not is_evaluation(key) or ("server" if key[1] == SERVER else "clients") in of

    assert some == {key: value for key, value in both.items() if wanted(key)}
    assert any(is_evaluation(key) for key in some)


def test_resumed_it_gives_the_same_rows(tmp_path: Path) -> None:
    evaluate = Evaluation(of=("server",))
    whole = run("fedavg", load=judging, evaluate=evaluate)
    assert run("fedavg", load=judging, store=tmp_path, stop=2, evaluate=evaluate) == whole


def test_a_server_that_is_not_evaluated_loads_no_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.data._test", lambda _: pytest.fail("the test set was loaded"))
    held = load_holdings(Federation("fedavg", clients=3, evaluate=Evaluation(of=("clients",))), SERVER)
    assert set(held.evaluation) == {"transfer"}


@pytest.mark.parametrize("of", ["clients", "server"])
def test_a_study_and_its_report(of: str, tmp_path: Path, call: Call) -> None:
    study = written(tmp_path / "study.toml", f'method = ["fedavg", "fedprox"]\nseed = [0, 1]\n{TINY[:-1]}\n')
    study.write_text(study.read_text().replace("seed = 0\n", "") + f'[evaluate]\nof = ["{of}"]\n')
    ended = call("run", study, "--engine", "inline", "--out", "here")
    assert ended.code == 0, ended.out
    table = analysis.load(tmp_path / "here")
    judged = table[table["metric"].eq("accuracy") & table["split"].eq("test")]
    assert (judged["client"].eq(SERVER)).all() == (of == "server")
    assert set(judged["round"]) == {0, 1, 2}
    assert make_report(tmp_path / "here").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "kd", "evaluate.of": ["server"]}, "in method kd the server has no model"),
        ({"method": "fedavg", "evaluate.of": []}, "it should name 'clients' or 'server', or both"),
        ({"method": "fedavg", "evaluate.of": ["peers"]}, "evaluate.of"),
        ({"method": "fedavg", "evaluate.of": ["server"], "save": "best"}, "validation accuracy of the clients"),
    ],
)
def test_wrong_values(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand("study", settings)

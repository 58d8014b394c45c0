"""`fedkd run --profile`: where the time of each round went, as a table, a figure and a line in words."""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from analysis.drawing.times import COLORS, stacked_times
from analysis.results.times import read_times
from fedkd.flower.timing import PARTS
from fedkd.settings.federation import Federation
from simulations.profile import ADVICE, STARTING, Profile
from tests.conftest import TINY, Call, written


def profile(*rounds: dict[str, float], startup: float = 0.0) -> Profile:
    made = Profile(began=time.perf_counter() - 100.0, startup=startup)
    for number, seconds in enumerate(rounds):
        made.add(Federation("kd"), number, seconds)
    return made


class TestWords:
    def test_the_largest_part_is_named_with_what_to_change(self) -> None:
        line = profile({"training": 1.0, "evaluation": 9.0}).line()
        assert line.startswith("where the time went: evaluation 90%, training 10%. Largest is evaluation:")
        assert "[evaluate]" in line

    def test_start_up_counts(self) -> None:
        shares = profile({"training": 4.0, "server": 4.0}, startup=60.0).shares()
        assert shares[STARTING] == pytest.approx(0.6, abs=0.01)
        assert shares["training"] == pytest.approx(0.2, abs=0.01)
        assert sum(shares.values()) == pytest.approx(1.0)

    def test_waiting_for_the_work_of_others_is_not_counted_twice(self) -> None:
        # Two federations share one worker: each trains for 5 s and waits for the other for 5 s.
        shares = profile({"training": 5.0, "waiting": 5.0}, {"training": 5.0, "waiting": 5.0}).shares()
        assert shares["training"] == pytest.approx(1.0)

    def test_nothing_ran(self) -> None:
        assert profile().line() == ""
        assert profile({}).line() == ""

    def test_there_is_advice_for_every_part(self) -> None:
        assert set(ADVICE) == {STARTING, *PARTS} - {"waiting"}


class TestTable:
    def test_a_line_a_round_and_one_for_the_start_up(self, tmp_path: Path) -> None:
        profile({"training": 1.5, "server": 0.5}, {"evaluation": 2.0}, startup=3.0).write(tmp_path)
        times = read_times(tmp_path)
        assert times["round"].dropna().tolist() == [0, 1]
        assert list(times["seconds"]) == [3.0, 2.0, 2.0]
        assert times.loc[1:, "round"].to_list() == [0, 1]
        assert times.loc[0, STARTING] == 3.0

    def test_no_profile(self, tmp_path: Path) -> None:
        assert read_times(tmp_path).empty


class TestFigure:
    def test_bars_end_at_the_mean_of_all_rounds(self) -> None:
        rows = pd.DataFrame({"method": ["kd", "kd", "local"], "training": [1.0, 3.0, 1.0], "server": [1.0, 1.0, 0.5]})
        ax = stacked_times(rows, plt.figure().subplots())
        ends = {
            round(float(patch.get_corners()[:, 0].max()), 6) for patch in ax.patches if isinstance(patch, Rectangle)
        }
        assert {3.0, 1.5} <= ends
        assert ax.get_legend_handles_labels()[1] == ["training", "server"]

    def test_every_part_has_a_colour(self) -> None:
        assert set(COLORS) == {STARTING, *PARTS}
        assert len(set(COLORS.values())) == len(COLORS)


def test_the_command_line(tmp_path: Path, call: Call) -> None:
    study = written(tmp_path / "study.toml", f'method = ["local", "kd"]\n{TINY}')
    ended = call("run", study, "--engine", "inline", "--profile", "--out", "here")
    assert ended.code == 0, ended.out
    assert "where the time went: " in ended.out
    times = read_times(tmp_path / "here")
    rounds = times[times["round"].notna()]
    assert set(rounds["method"]) == {"local", "kd"}
    assert (times[list(PARTS)].sum(axis=1) + times[STARTING]).tolist() == pytest.approx(
        times["seconds"].tolist(), abs=1e-5
    )
    assert rounds.loc[rounds["round"] > 0, "training"].gt(0).all()
    assert (tmp_path / "here" / "figures" / "profile.svg").is_file()

"""The few sentences on top of a report say who wins after correction, what it cost, and how many seeds are missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis import load
from analysis.measures.compare import compare
from analysis.page.short import Short, in_short
from analysis.results.units import points, size
from analysis.statistics.power import seeds_to_decide
from tests.test_analysis_synthetic import PARTITIONS, Planted

FIVE = (0, 1, 2, 3, 4)
BOTH: dict[str, Any] = {"partitions": PARTITIONS[:1], "rounds": 4, "clients": 3}


def short(folder: Path, **planted: Any) -> dict[str, dict[str, str]]:
    """What is said of each method, by the head of the sentence."""
    (found,) = in_short(compare(load(Planted(**{**BOTH, **planted}).write(folder))))
    assert isinstance(found, Short)
    return {sentence.head: dict(sentence.methods) for sentence in found.sentences}


def test_winners_are_told_with_their_lead_bytes_and_rounds(tmp_path: Path) -> None:
    gain = {"local": 0.0, "kd": 0.06, "dml": 0.0, "pooled": 0.1}
    planted: dict[str, Any] = {"methods": tuple(gain), "gain": gain, "noise": 0.004, "seeds": FIVE}
    said = short(tmp_path, **planted)
    rows = compare(load(tmp_path)).rows.set_index("method")
    text = said["Beats its start and local"]["kd"]
    for part in (
        f"{points(rows['delta']['kd'])} ± ",
        f"{points(rows['difference']['kd'])} ± ",
        size(rows["bytes"]["kd"]),
        f"{rows['rounds_to_target']['kd']} rounds to ",
    ):
        assert part in text
    assert "seeds would decide" in said["Undecided"]["dml"]
    # A bound is above all, and no winner.
    assert "pooled" not in str(said)


def test_where_nobody_wins_it_is_said_and_who_lost(tmp_path: Path) -> None:
    gain = {"local": -0.12, "kd": -0.05, "dml": -0.2}
    said = short(tmp_path, methods=tuple(gain), gain=gain, noise=0.002, seeds=FIVE)
    assert "No method is shown to beat its start and local" in said
    fallen = said["Ends below its start"]
    assert list(fallen) == ["kd", "local", "dml"]
    assert fallen["kd"].endswith("loses less than local")
    assert fallen["dml"].endswith("worse than local")


def test_few_seeds_decide_nothing_and_say_how_many_would(tmp_path: Path) -> None:
    said = short(tmp_path, methods=("local", "kd"), gain={"local": 0.0, "kd": 0.06})
    assert "3 seeds decide nothing; 5 are the fewest" in said
    assert "about 5 seeds would decide" in said["Undecided"]["kd"]
    assert not [head for head in said if head.startswith("Beats")]


def test_one_seed_cannot_say_how_many_are_missing(tmp_path: Path) -> None:
    said = short(tmp_path, methods=("local", "kd"), seeds=(3,))
    assert "1 seed decides nothing; 5 are the fewest" in said
    assert "too few seeds to say" in said["Undecided"]["kd"]


def test_so_many_seeds_have_the_power_that_is_claimed() -> None:
    """By simulation: of studies with that many seeds, four in five decide, and of those with half as many far fewer."""
    gaps = np.array([0.0, 0.01, 0.02, 0.03, 0.015])
    for family in (1, 4):
        needed = seeds_to_decide(gaps, family=family)
        rng = np.random.default_rng(0)
        for seeds, low, high in ((int(needed), 0.77, 0.9), (int(needed) // 2, 0.0, 0.6)):
            drawn = rng.normal(gaps.mean(), gaps.std(ddof=1), (4000, seeds))
            p = np.asarray(stats.ttest_1samp(drawn, 0.0, axis=1).pvalue)
            assert low <= (p <= 0.05 / family).mean() <= high
    assert seeds_to_decide(gaps, family=4) > seeds_to_decide(gaps)


@pytest.mark.parametrize(
    ("gaps", "seeds"),
    [
        ([0.01, 0.02], np.nan),
        ([0.0, 0.0, 0.0], np.inf),
        ([-0.1, 0.1, 0.0001], np.inf),
        ([0.1, 0.1, 0.1], 5),
        ([0.100, 0.101, 0.102], 5),
    ],
)
def test_the_number_of_seeds_at_its_limits(gaps: list[float], seeds: float) -> None:
    assert seeds_to_decide(np.array(gaps)) == pytest.approx(seeds, nan_ok=True)

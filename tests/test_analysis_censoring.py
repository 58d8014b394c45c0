"""Times to a target, with runs that never arrive, against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics.censoring import (
    Reach,
    arrival_curve,
    first_reach,
    log_rank,
    median_reach,
    restricted_difference,
    restricted_mean,
)


def there(*places: float) -> list[Reach]:
    return [Reach(place, True) for place in places]


def never(*places: float) -> list[Reach]:
    return [Reach(place, False) for place in places]


def test_first_reach() -> None:
    assert first_reach([0, 1, 2, 3], [0.1, 0.5, 0.4, 0.6], 0.5) == (1, True)
    assert first_reach([0, 1, 2, 3], [0.7, 0.5, 0.4, 0.6], 0.5) == (0, True)
    lost = first_reach([0, 1, 2, 10], [0.1, np.nan, 0.2, 0.3], 0.5)
    assert (lost.value, lost.reached) == (10, False)
    assert (str(lost), str(Reach(4.0, True))) == (">10", "4")
    # 0.1 + 0.2 is a shade over 0.3: a mean that is off by rounding still arrives.
    assert first_reach([0], [0.3], 0.1 + 0.2).reached
    with pytest.raises(ValueError, match="at least one"):
        first_reach([], [], 0.5)
    with pytest.raises(ValueError, match="found NaN"):
        first_reach([0], [0.3], float("nan"))


def test_censored_seeds_count_as_not_yet_arrived() -> None:
    lost = Reach(10, False)
    assert median_reach(there(3, 5, 7)) == (5, True)
    # Dropping the two censored ones would leave a median of 4.
    assert median_reach([*there(3, 8, 4), lost, lost]) == (8, True)
    assert median_reach([*there(3), lost, lost]) == (10, False)
    assert median_reach([lost, lost]) == (10, False)
    assert median_reach([*there(3), lost]) == (3, True)
    with pytest.raises(ValueError, match="at least one"):
        median_reach([])


def test_kaplan_meier_by_hand() -> None:
    # Six runs: 1 arrives; at 2 one arrives of five and one is lost; of three left one arrives at 4, one is lost at 5.
    curve = arrival_curve([*there(1, 2, 4), *never(2, 5, 9)])
    survival = [5 / 6, 5 / 6 * 4 / 5, 5 / 6 * 4 / 5 * 2 / 3, 5 / 6 * 4 / 5 * 2 / 3, 5 / 6 * 4 / 5 * 2 / 3]
    assert curve["position"].tolist() == [1, 2, 4, 5, 9]
    assert (1 - curve["arrived"]).tolist() == pytest.approx(survival)
    assert curve["censored"].tolist() == [0, 1, 0, 1, 1]
    everybody = arrival_curve(there(2, 2, 3))
    assert everybody["arrived"].tolist() == pytest.approx([2 / 3, 1])
    nobody = arrival_curve(never(4, 4, 6))
    assert (nobody["arrived"].tolist(), nobody["censored"].tolist()) == ([0, 0], [2, 1])


def test_restricted_means_by_hand() -> None:
    assert restricted_mean(there(2, 4)) == (3.0, 4.0)
    assert restricted_mean([*there(2, 4), *never(10)], 5) == pytest.approx(((2 + 4 + 5) / 3, 5))
    # Lost at 3, before the last arrival: 1 until 2, 3/4 until 4, then 3/4 · 1/2 until 10.
    assert restricted_mean([*there(2, 4), *never(3, 10)]).mean == pytest.approx(2 + 0.75 * 2 + 0.375 * 6)
    assert restricted_mean(there(2, 4), 100).mean == 3.0
    assert restricted_mean(there(0, 0), 7).mean == 0.0
    with pytest.raises(ValueError, match=r"between 0 and 10.*found 11"):
        restricted_mean(never(10, 5), 11)


def test_restricted_differences_are_paired_and_lose_no_run() -> None:
    ours = pd.Series([*there(2, 3, 4), *never(10)], index=[0, 1, 2, 3])
    theirs = pd.Series([*there(5, 7), *never(10, 10)], index=[0, 1, 2, 3])
    found, horizon = restricted_difference(ours, theirs)
    assert horizon == 10
    assert found.mean == pytest.approx(np.mean([2 - 5, 3 - 7, 4 - 10, 0]))
    assert (found.n, found.verdict) == (4, "")
    sooner, at = restricted_difference(ours.drop(3), theirs, horizon=8)
    assert at == 8
    assert sooner.high < 0
    assert sooner.mean == pytest.approx(np.mean([-3, -4, -4]))
    with pytest.raises(ValueError, match=r"lost from sight at 10.*found 12"):
        restricted_difference(ours, theirs, horizon=12)


def test_the_log_rank_test_by_hand_and_only_from_eight_runs() -> None:
    early, late = there(1, 1, 2, 2, 3, 3, 4, 4), [*there(6, 7, 8), *never(10, 10, 10, 10, 10)]
    p = log_rank(early, late)
    values = np.array([reach.value for reach in [*early, *late]])
    arrived, first = np.array([reach.reached for reach in [*early, *late]]), np.arange(16) < 8
    excess = variance = 0.0
    for place in np.unique(values[arrived]):
        n, n1 = (values >= place).sum(), ((values >= place) & first).sum()
        d, d1 = (arrived & (values == place)).sum(), (arrived & (values == place) & first).sum()
        excess += d1 - d * n1 / n
        variance += d * n1 / n * (1 - n1 / n) * (n - d) / (n - 1) if n > 1 else 0.0
    assert p == pytest.approx(stats.chi2.sf(excess**2 / variance, 1))
    assert p < 0.001
    assert log_rank(early, early) == pytest.approx(1.0)
    assert np.isnan(log_rank(early[:7], late))
    assert log_rank(never(*[5] * 8), never(*[5] * 8)) == 1.0
    # Met at the start is a time like any other.
    assert log_rank(there(*[0] * 8), there(*[3] * 8)) < 0.001


def test_the_log_rank_test_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        pair = []
        for _ in range(2):
            times = np.ceil(rng.exponential(6, 10))
            pair.append([Reach(min(time, 10), bool(time <= 10)) for time in times])
        found += log_rank(*pair) <= 0.05
    assert found / 200 < 0.05 + 3.3 * (0.05 * 0.95 / 200) ** 0.5

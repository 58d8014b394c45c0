"""Intervals and pairs against numbers worked out by hand, and against simulations whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics.intervals import RATE, interval, intervals, p_value, paired_difference, verdict

# Quantiles of Student's t at 0.975, from a printed table.
T2, T4 = 4.302652729911275, 2.7764451051977987


def test_the_interval_by_hand() -> None:
    # 1, 2, 3: mean 2, standard deviation 1, standard error 1/√3.
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - T2 / 3**0.5, 2.0 + T2 / 3**0.5, 3))


def test_the_interval_against_the_formula() -> None:
    values = np.array([0.81, 0.79, 0.84, 0.80, 0.77])
    half = T4 * np.sqrt(((values - values.mean()) ** 2).sum() / 4) / np.sqrt(5)
    assert interval(values) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half, 5))


def test_wider_levels_give_wider_intervals() -> None:
    assert interval([1, 2, 4], 0.99).low < interval([1, 2, 4], 0.9).low


def test_edges_of_the_interval() -> None:
    one = interval([0.7])
    assert (one.mean, one.n) == (0.7, 1)
    assert np.isnan([one.low, one.high]).all()
    none = interval([np.nan])
    assert none.n == 0
    assert np.isnan(none.mean)
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 3)
    assert interval([1.0, np.nan, 3.0]).n == 2
    assert np.isnan(interval([1.0, 2.0, np.inf]).low)


def test_two_values_have_no_interval() -> None:
    # Student's t of two seeds that lie 34 points apart would be 49.4 ± 217.7 %.
    two = interval([0.323, 0.666])
    assert two.n == 2
    assert np.isnan([two.low, two.high]).all()
    assert np.isnan(p_value(np.array([0.323, 0.666])))
    assert intervals(pd.DataFrame({"group": "a", "value": [0.1, 0.2]}), ["group"])["low"].isna().all()


def test_the_interval_of_a_rate_ends_at_0_and_100() -> None:
    high = interval([0.99, 1.0, 0.98, 1.0], within=RATE)
    assert interval([0.99, 1.0, 0.98, 1.0]).high > 1.0
    assert high.high == 1.0
    assert high.low == interval([0.99, 1.0, 0.98, 1.0]).low
    assert interval([0.0, 0.01, 0.02], within=RATE).low == 0.0
    table = pd.DataFrame({"group": "a", "value": [0.99, 1.0, 0.98, 1.0]})
    assert intervals(table, ["group"], within=RATE)["high"].iloc[0] == 1.0


def test_grouped_intervals_agree_with_single_ones() -> None:
    rng = np.random.default_rng(0)
    sizes = {"a": 5, "b": 3, "c": 1, "d": 2, "e": 12, "f": 10, "g": 12, "h": 11}
    table = pd.DataFrame({"group": np.repeat(list(sizes), list(sizes.values())), "value": rng.normal(size=56)})
    table = table.sample(frac=1, random_state=1)
    table.loc[table["group"].isin(["d", "h"]), "value"] = 2.0
    table.loc[table.index[table["group"] == "g"][0], "value"] = np.nan
    together = intervals(table, ["group"])
    for group, rows in table.groupby("group"):
        assert list(together.loc[str(group)]) == pytest.approx(list(interval(rows["value"])), nan_ok=True)


@pytest.mark.parametrize("n", [3, 10, 20, 30])
def test_the_interval_covers_what_it_claims(n: int) -> None:
    """Student's t at every n: a bias-corrected bootstrap of ten normal values covers 0.90, and of twenty 0.92."""
    rng = np.random.default_rng(n)
    table = pd.DataFrame({"group": np.repeat(np.arange(4000), n), "value": rng.normal(size=4000 * n)})
    found = intervals(table, ["group"])
    covered = ((found["low"] <= 0) & (found["high"] >= 0)).mean()
    assert abs(covered - 0.95) < 3.3 * (0.05 * 0.95 / 4000) ** 0.5


def test_pairing_finds_what_separate_intervals_hide() -> None:
    # Seeds differ by 10 points, methods by 1 ± 0.1: means overlap by far, pairs do not.
    base = pd.Series([0.5, 0.6, 0.7, 0.8, 0.9])
    ours = base.add([0.010, 0.011, 0.009, 0.011, 0.009])
    assert interval(ours).low < interval(base).mean
    difference = paired_difference(ours, base)
    assert difference.verdict == "better"
    assert difference.mean == pytest.approx(0.01)
    assert difference.n == 5
    assert difference.high - difference.mean == pytest.approx(T4 * 0.001 / 5**0.5)
    assert paired_difference(base, ours).verdict == "worse"
    assert paired_difference(ours, base, higher_is_better=False).verdict == "worse"


def test_no_difference_is_undecided() -> None:
    base = pd.Series([0.5, 0.6, 0.7, 0.8, 0.9])
    assert paired_difference(base.add([0.01, -0.01, 0.002, 0.0, 0.0]), base).verdict == "undecided"
    assert paired_difference(base, base).verdict == "undecided"
    assert paired_difference(base + 1e-12, base).verdict == "undecided"


def test_pairs_are_the_seeds_that_both_have() -> None:
    ours = pd.Series([0.9, 0.8, 0.7], index=[2, 1, 5])
    base = pd.Series([0.1, 0.79, 0.89], index=[0, 1, 2])
    difference = paired_difference(ours, base)
    assert difference.mean == pytest.approx(0.01)
    assert difference.n == 2
    one = paired_difference(ours.loc[[1]], base)
    assert (one.n, one.verdict) == (1, "")
    assert paired_difference(ours.loc[[5]], base).n == 0


def test_fewer_than_five_pairs_decide_nothing() -> None:
    base = pd.Series([0.5, 0.6, 0.7, 0.8, 0.9])
    ours = base.add([0.100, 0.101, 0.099, 0.101, 0.099])
    assert paired_difference(ours, base).verdict == "better"
    four = paired_difference(ours.iloc[:4], base)
    assert four.p < 0.001
    assert four.verdict == ""


def test_pairs_may_be_partitions_and_seeds() -> None:
    index = pd.MultiIndex.from_product([["iid", "skew"], [0, 1, 2]])
    base = pd.Series([0.8, 0.71, 0.6, 0.4, 0.29, 0.3], index=index)
    ours = base.add([0.10, 0.09, 0.1, 0.1, 0.11, 0.1])
    found = paired_difference(ours, base)
    assert (found.n, found.verdict) == (6, "better")
    with pytest.raises(ValueError, match="one value for each seed"):
        paired_difference(ours.droplevel(1), base.droplevel(1))


@pytest.mark.parametrize(
    ("mean", "n", "p", "expected"),
    [
        (0.1, 5, 0.01, "better"),
        (-0.1, 5, 0.01, "worse"),
        (0.1, 5, 0.06, "undecided"),
        (0.1, 4, 0.001, ""),
        (0.1, 5, np.nan, ""),
        (0.0, 5, 0.0, "undecided"),
    ],
)
def test_verdicts(mean: float, n: int, p: float, expected: str) -> None:
    assert verdict(mean, n, p) == expected
    mirrored = {"better": "worse", "worse": "better"}.get(expected, expected)
    assert verdict(mean, n, p, higher_is_better=False) == mirrored


def test_p_values_at_their_limits_and_against_the_formula() -> None:
    gaps = np.array([0.01, 0.03, -0.01, 0.02])
    t = gaps.mean() / (gaps.std(ddof=1) / 2)
    assert p_value(gaps) == pytest.approx(2 * stats.t.sf(t, 3))
    assert p_value(np.full(5, 0.02)) == 0.0
    assert p_value(np.zeros(5)) == 1.0
    assert np.isnan(p_value(np.array([0.3, 0.4])))


def test_a_planted_difference_is_found_and_none_is_not() -> None:
    """600 studies of five seeds: seeds differ by five points, methods by their noise of one."""
    rng = np.random.default_rng(11)
    decided = {0.0: 0, 0.03: 0}
    for gap in decided:
        for _ in range(600):
            seeds = rng.normal(0.8, 0.05, 5)
            ours, base = (pd.Series(seeds + shift + rng.normal(0, 0.01, 5)) for shift in (gap, 0.0))
            found = paired_difference(ours, base)
            # The interval and the p-value are one test.
            assert (found.p < 0.05) == (found.verdict != "undecided") == (found.low > 0 or found.high < 0)
            decided[gap] += found.verdict != "undecided"
    # 3.3 standard errors around 5 %; the power of a t-test at an effect of 2.1 standard deviations is 0.94.
    assert 12 <= decided[0.0] <= 48
    assert decided[0.03] > 540

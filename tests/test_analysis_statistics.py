"""Intervals and pairs against numbers worked out by hand, and against simulations whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import (
    Interval,
    interval,
    intervals,
    p_value,
    paired_difference,
    t_interval,
    verdict,
)

# Quantiles of Student's t at 0.975, from a printed table.
T2, T4 = 4.302652729911275, 2.7764451051977987


def test_t_interval_by_hand() -> None:
    # 1, 2, 3: mean 2, standard deviation 1, standard error 1/√3.
    assert t_interval([1.0, 2.0, 3.0])[:4] == pytest.approx((2.0, 2.0 - T2 / 3**0.5, 2.0 + T2 / 3**0.5, 3))
    assert interval([1.0, 2.0, 3.0]) == t_interval([1.0, 2.0, 3.0])


def test_t_interval_against_the_formula() -> None:
    values = np.array([0.81, 0.79, 0.84, 0.80, 0.77])
    half = T4 * np.sqrt(((values - values.mean()) ** 2).sum() / 4) / np.sqrt(5)
    assert t_interval(values)[:4] == pytest.approx((values.mean(), values.mean() - half, values.mean() + half, 5))


def test_wider_levels_give_wider_intervals() -> None:
    assert t_interval([1, 2, 4], 0.99).low < t_interval([1, 2, 4], 0.9).low


def test_edges_of_the_interval() -> None:
    one = t_interval([0.7])
    assert (one.mean, one.n) == (0.7, 1)
    assert np.isnan([one.low, one.high]).all()
    none = t_interval([np.nan])
    assert none.n == 0
    assert np.isnan(none.mean)
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 3, "t")
    assert t_interval([1.0, np.nan, 3.0]).n == 2
    assert np.isnan(t_interval([1.0, np.inf]).low)


def test_grouped_intervals_agree_with_single_ones() -> None:
    rng = np.random.default_rng(0)
    sizes = {"a": 5, "b": 3, "c": 1, "d": 2, "e": 12, "f": 10, "g": 12, "h": 11}
    table = pd.DataFrame({"group": np.repeat(list(sizes), list(sizes.values())), "value": rng.normal(size=56)})
    table = table.sample(frac=1, random_state=1)
    table.loc[table["group"].isin(["d", "h"]), "value"] = 2.0
    table.loc[table.index[table["group"] == "g"][0], "value"] = np.nan
    together = intervals(table, ["group"])
    for group, rows in table.groupby("group"):
        alone = interval(rows["value"])
        assert list(together.loc[str(group)])[:4] == pytest.approx(list(alone[:4]), nan_ok=True)
        assert together.loc[str(group), "kind"] == alone.kind
    assert together["kind"].tolist() == ["t", "t", "none", "t", "bootstrap", "bootstrap", "bootstrap", "degenerate"]


def test_from_ten_values_on_the_interval_is_a_bootstrap() -> None:
    values = np.random.default_rng(3).exponential(size=10)
    found = interval(values)
    assert (found.kind, interval(values[:9]).kind) == ("bootstrap", "t")
    assert found == interval(values)
    assert found.mean == pytest.approx(values.mean())
    # Skewed data: further up than down, which Student's t cannot say.
    assert found.high - found.mean > found.mean - found.low
    # An own plain bootstrap of the mean is near it; BCa shifts both ends towards the long tail.
    drawn = np.random.default_rng(8).choice(values, (20_000, 10)).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert low <= found.low == pytest.approx(low, abs=0.15)
    assert high <= found.high == pytest.approx(high, abs=0.35)


def test_a_degenerate_bootstrap_says_so_and_gives_student() -> None:
    same = interval(np.full(12, 0.7))
    assert same[:3] == pytest.approx((0.7, 0.7, 0.7))
    assert (same.n, same.kind) == (12, "degenerate")
    assert interval(np.full(12, 0.7) + 1e-13 * np.arange(12)).kind == "degenerate"
    assert interval([np.inf, *range(10)]).kind == "none"


@pytest.mark.parametrize("n", [10, 20])
def test_a_bootstrap_covers_about_what_it_claims(n: int) -> None:
    # 1,000 groups of one call share their resamples, so this is quick; the truth is 0.
    rng = np.random.default_rng(n)
    table = pd.DataFrame({"group": np.repeat(np.arange(1000), n), "value": rng.normal(size=1000 * n)})
    found = intervals(table, ["group"])
    covered = ((found["low"] <= 0) & (found["high"] >= 0)).mean()
    # BCa of ten normal values falls a few points short of 0.95, of twenty hardly.
    assert {10: 0.88, 20: 0.91}[n] < covered < 0.97


def test_pairing_finds_what_separate_intervals_hide() -> None:
    # Seeds differ by 10 points, methods by 1 ± 0.1: means overlap by far, pairs do not.
    base = pd.Series([0.6, 0.7, 0.8], index=[0, 1, 2])
    ours = base.add([0.010, 0.011, 0.009])
    assert t_interval(ours).low < t_interval(base).mean
    difference = paired_difference(ours, base)
    assert difference.verdict == "better"
    assert difference.mean == pytest.approx(0.01)
    assert difference.n == 3
    assert difference.high - difference.mean == pytest.approx(T2 * 0.001 / 3**0.5)
    assert paired_difference(base, ours).verdict == "worse"
    assert paired_difference(ours, base, higher_is_better=False).verdict == "worse"


def test_no_difference_is_undecided() -> None:
    base = pd.Series([0.6, 0.7, 0.8], index=[0, 1, 2])
    assert paired_difference(base.add([0.01, -0.01, 0.002]), base).verdict == "undecided"
    assert paired_difference(base, base).verdict == "undecided"
    assert paired_difference(base + 1e-12, base).verdict == "undecided"


def test_pairs_are_the_seeds_that_both_have() -> None:
    ours = pd.Series([0.9, 0.8, 0.7], index=[2, 1, 5])
    base = pd.Series([0.1, 0.79, 0.89], index=[0, 1, 2])
    difference = paired_difference(ours, base)
    assert difference.mean == pytest.approx(0.01)
    assert difference.n == 2
    one = paired_difference(ours.loc[[1]], base)
    assert (one.n, one.verdict) == (1, "undecided")
    assert paired_difference(ours.loc[[5]], base).n == 0


def test_pairs_may_be_partitions_and_seeds() -> None:
    index = pd.MultiIndex.from_product([["iid", "skew"], [0, 1]])
    ours, base = pd.Series([0.9, 0.8, 0.5, 0.4], index=index), pd.Series([0.8, 0.71, 0.4, 0.29], index=index)
    found = paired_difference(ours, base)
    assert (found.n, found.verdict) == (4, "better")
    with pytest.raises(ValueError, match="one value for each seed"):
        paired_difference(ours.droplevel(1), base.droplevel(1))


@pytest.mark.parametrize(
    ("low", "high", "n", "expected"),
    [(0.1, 0.2, 3, "better"), (-0.2, -0.1, 3, "worse"), (-0.1, 0.2, 3, "undecided"), (0.1, 0.2, 1, "undecided")],
)
def test_verdicts(low: float, high: float, n: int, expected: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, n)) == expected
    mirrored = {"better": "worse", "worse": "better"}.get(expected, expected)
    assert verdict(Interval((low + high) / 2, low, high, n), higher_is_better=False) == mirrored


def test_p_values_at_their_limits_and_against_the_formula() -> None:
    gaps = np.array([0.01, 0.03, -0.01, 0.02])
    t = gaps.mean() / (gaps.std(ddof=1) / 2)
    assert p_value(gaps) == pytest.approx(2 * stats.t.sf(t, 3))
    assert p_value(np.full(5, 0.02)) == 0.0
    assert p_value(np.zeros(5)) == 1.0
    assert np.isnan(p_value(np.array([0.3])))


def test_a_planted_difference_is_found_and_none_is_not() -> None:
    """600 studies of five seeds: seeds differ by five points, methods by their noise of one."""
    rng = np.random.default_rng(11)
    decided = {0.0: 0, 0.03: 0}
    for gap in decided:
        for _ in range(600):
            seeds = rng.normal(0.8, 0.05, 5)
            ours, base = (pd.Series(seeds + shift + rng.normal(0, 0.01, 5)) for shift in (gap, 0.0))
            found = paired_difference(ours, base)
            # The interval and the p-value are one test below ten pairs.
            assert (found.p < 0.05) == (found.verdict != "undecided")
            decided[gap] += found.verdict != "undecided"
    # 3.3 standard errors around 5 %; the power of a t-test at an effect of 2.1 standard deviations is 0.94.
    assert 12 <= decided[0.0] <= 48
    assert decided[0.03] > 540

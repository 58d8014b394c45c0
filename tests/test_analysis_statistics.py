"""Intervals, pairs and censoring against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis.statistics import (
    Interval,
    Reach,
    first_reach,
    median_reach,
    paired_difference,
    t_interval,
    t_intervals,
    verdict,
)

# Quantiles of Student's t at 0.975, from a printed table.
T2, T4 = 4.302652729911275, 2.7764451051977987


def test_t_interval_by_hand() -> None:
    # 1, 2, 3: mean 2, standard deviation 1, standard error 1/√3.
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval == pytest.approx((2.0, 2.0 - T2 / 3**0.5, 2.0 + T2 / 3**0.5, 3))


def test_t_interval_against_the_formula() -> None:
    values = np.array([0.81, 0.79, 0.84, 0.80, 0.77])
    half = T4 * np.sqrt(((values - values.mean()) ** 2).sum() / 4) / np.sqrt(5)
    assert t_interval(values) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half, 5))


def test_wider_levels_give_wider_intervals() -> None:
    assert t_interval([1, 2, 4], 0.99).low < t_interval([1, 2, 4], 0.9).low


def test_edges_of_the_interval() -> None:
    one = t_interval([0.7])
    assert (one.mean, one.n) == (0.7, 1)
    assert np.isnan([one.low, one.high]).all()
    none = t_interval([np.nan])
    assert none.n == 0
    assert np.isnan(none.mean)
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 3)
    assert t_interval([1.0, np.nan, 3.0]).n == 2
    assert np.isnan(t_interval([1.0, np.inf]).low)


def test_grouped_intervals_agree_with_single_ones() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"group": np.repeat(["a", "b", "c", "d"], [5, 3, 1, 2]), "value": rng.normal(size=11)})
    table.loc[table["group"] == "d", "value"] = 2.0
    together = t_intervals(table, ["group"])
    for group, rows in table.groupby("group"):
        assert list(together.loc[str(group)]) == pytest.approx(list(t_interval(rows["value"])), nan_ok=True)


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
    assert paired_difference(ours, base)[3:] == (4, "better")
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


def test_first_reach() -> None:
    assert first_reach([0, 1, 2, 3], [0.1, 0.5, 0.4, 0.6], 0.5) == (1, True)
    assert first_reach([0, 1, 2, 3], [0.7, 0.5, 0.4, 0.6], 0.5) == (0, True)
    never = first_reach([0, 1, 2, 10], [0.1, np.nan, 0.2, 0.3], 0.5)
    assert (never.value, never.reached) == (10, False)
    assert (str(never), str(Reach(4.0, True))) == (">10", "4")
    # 0.1 + 0.2 is a shade over 0.3: a mean that is off by rounding still arrives.
    assert first_reach([0], [0.3], 0.1 + 0.2).reached
    with pytest.raises(ValueError, match="at least one"):
        first_reach([], [], 0.5)


def test_censored_seeds_count_as_not_yet_arrived() -> None:
    reached, never = [Reach(3, True), Reach(5, True), Reach(7, True)], Reach(10, False)
    assert median_reach(reached) == (5, True)
    # Dropping the two censored ones would leave a median of 3.
    assert median_reach([Reach(3, True), Reach(8, True), Reach(4, True), never, never]) == (8, True)
    assert median_reach([Reach(3, True), never, never]) == (10, False)
    assert median_reach([never, never]) == (10, False)
    assert median_reach([Reach(3, True), never]) == (3, True)
    with pytest.raises(ValueError, match="at least one"):
        median_reach([])

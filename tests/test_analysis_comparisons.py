"""Many methods at once: corrections, ranks, ratios and claims, by hand and in studies whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics.claims import decide
from analysis.statistics.comparisons import (
    compare_with_baseline,
    family_verdicts,
    holm,
    is_bound,
    paired_values,
    wilcoxon_p,
)
from analysis.statistics.intervals import Floats, Interval
from analysis.statistics.ranks import rank_methods
from analysis.statistics.ratios import Ratio, ratio_of_means


def study(rng: np.random.Generator, gains: list[float], seeds: int = 5, noise: float = 0.01) -> pd.DataFrame:
    """Accuracies of `local` and of methods whose true gain over it is known, on common seeds."""
    common = rng.normal(0.8, 0.05, (seeds, 1))
    values = common + np.array([0.0, *gains]) + rng.normal(0, noise, (seeds, 1 + len(gains)))
    return pd.DataFrame(values, columns=["local", *(f"m{place}" for place in range(len(gains)))])


def test_holm_by_hand() -> None:
    # Sorted: 0.01·4, 0.02·3, 0.03·2, 0.5·1, never falling; NaN is no comparison.
    assert holm([0.03, 0.01, np.nan, 0.5, 0.02]) == pytest.approx([0.06, 0.04, np.nan, 0.5, 0.06], nan_ok=True)
    assert np.isnan(holm([np.nan])).all()


def test_the_family_is_all_methods_against_the_baseline() -> None:
    values = study(np.random.default_rng(0), [0.0, 0.05, -0.05], seeds=9)
    values["alone"] = np.nan
    values.loc[0, "alone"] = 0.9
    found = compare_with_baseline(values, "local")
    assert list(found.index) == ["m0", "m1", "m2", "alone"]
    assert set(found["family"]) == {3}
    assert found["verdict"].tolist() == ["undecided", "better", "worse", ""]
    assert found["pairs"].tolist() == [9, 9, 9, 1]
    gaps = values["m0"] - values["local"]
    assert found["p"].loc["m0"] == pytest.approx(stats.ttest_rel(values["m0"], values["local"]).pvalue)
    assert found["wilcoxon_p"].loc["m0"] == pytest.approx(stats.wilcoxon(gaps).pvalue)
    assert found["adjusted_p"].loc["m0"] >= found["p"].loc["m0"]
    with pytest.raises(ValueError, match="the baseline fedavg has no values; there are local"):
        compare_with_baseline(values, "fedavg")


def test_no_rank_test_below_eight_pairs() -> None:
    gaps = np.arange(1.0, 9.0)
    assert np.isnan(wilcoxon_p(gaps[:7]))
    # Eight of one sign: 2 of the 2⁸ sign patterns are as extreme.
    assert wilcoxon_p(gaps) == pytest.approx(2 / 2**8)
    assert wilcoxon_p(np.zeros(8)) == 1.0


def test_there_is_one_verdict_and_it_is_the_corrected_one() -> None:
    # Of four comparisons the second has p = 0.02 to itself, and 0.06 as one of the three that are left.
    gaps = {name: _gaps(p) for name, p in {"a": 0.001, "b": 0.02, "c": 0.4, "d": 0.7}.items()}
    found = family_verdicts(gaps)
    assert found["p"].tolist() == pytest.approx([0.001, 0.02, 0.4, 0.7])
    assert found["low"].loc["b"] > 0
    assert found["adjusted_p"].tolist() == pytest.approx([0.004, 0.06, 0.8, 0.8])
    assert found["verdict"].tolist() == ["better", "undecided", "undecided", "undecided"]
    assert family_verdicts({"b": gaps["b"]})["verdict"].tolist() == ["better"]


def _gaps(p: float) -> Floats:
    """Five differences whose t-test gives p."""
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    return np.asarray(x + stats.t.isf(p / 2, 4) * stats.sem(x))


def test_bounds_are_compared_and_not_judged() -> None:
    rng = np.random.default_rng(1)
    values = study(rng, [0.05, 0.0])
    values["pooled"] = values["local"] + 0.2 + rng.normal(0, 0.001, 5)
    found = compare_with_baseline(values, "local", bounds=["pooled"])
    assert found["verdict"].loc["pooled"] == "bound"
    assert found["difference"].loc["pooled"] == pytest.approx(0.2, abs=0.01)
    assert np.isnan(found["adjusted_p"].loc["pooled"])
    without = compare_with_baseline(values.drop(columns="pooled"), "local")
    pd.testing.assert_frame_equal(found.drop(index="pooled"), without)
    assert is_bound("pooled")
    assert is_bound("ensemble()")
    assert not is_bound("pooled_kd")


def test_holm_controls_the_error_of_the_family() -> None:
    """1,000 studies of five methods like `local`: uncorrected, far more than one in twenty decides something."""
    rng = np.random.default_rng(5)
    values = rng.normal(0, 0.01, (1000, 5, 6))
    p = np.asarray(stats.ttest_1samp(values[..., 1:] - values[..., :1], 0.0, axis=1).pvalue)
    # The smallest of five times 5 is what Holm makes of it; statsmodels collects garbage at each call, so a few of
    # the studies stand for all that it does the same.
    corrected = np.minimum(5 * p.min(axis=1), 1.0)
    assert (p.min(axis=1) <= 0.05).mean() > 0.12
    assert (corrected <= 0.05).mean() < 0.05 + 3.3 * (0.05 * 0.95 / 1000) ** 0.5
    few = [compare_with_baseline(pd.DataFrame(each, columns=list("abcdef")), "a") for each in values[:5]]
    assert [found["adjusted_p"].min() for found in few] == pytest.approx(corrected[:5])


def test_a_real_difference_survives_the_correction() -> None:
    rng = np.random.default_rng(7)
    found = [compare_with_baseline(study(rng, [0.04, 0.0, 0.0]), "local")["verdict"] for _ in range(12)]
    assert sum(each["m0"] == "better" for each in found) >= 9
    assert sum("better" in each[["m1", "m2"]].tolist() for each in found) <= 2


def test_values_are_paired_by_what_methods_share() -> None:
    rows = [("iid", "kd", 0, 0.9), ("iid", "dml", 0, 0.8), ("skew", "kd", 0, 0.5), ("skew", "dml", 1, 0.4)]
    scores = pd.DataFrame(rows, columns=["partition", "method", "seed", "accuracy"])
    found = paired_values(scores, pair=("partition", "seed"))
    assert found["kd"].dropna().to_dict() == {("iid", 0): 0.9, ("skew", 0): 0.5}
    assert found["dml"].dropna().to_dict() == {("iid", 0): 0.8, ("skew", 1): 0.4}
    with pytest.raises(ValueError, match="one federation for each seed, method"):
        paired_values(scores)


def test_ranks_by_hand() -> None:
    values = pd.DataFrame(
        {"a": [0.9, 0.8, 0.7, np.nan], "b": [0.9, 0.9, 0.8, 0.1], "c": [0.1, 0.7, 0.9, 0.1]}, index=range(4)
    )
    found = rank_methods(values)
    # a: 1.5, 2, 3; b: 1.5, 1, 2; c: 3, 3, 1. The block without a is left out.
    assert found.table["rank"].to_dict() == pytest.approx({"b": 4.5 / 3, "a": 6.5 / 3, "c": 7 / 3})
    assert found.table["wins"].to_dict() == {"b": 2, "a": 1, "c": 1}
    assert (found.blocks, found.left_out) == (3, 1)
    assert np.isnan([found.friedman_p, found.critical]).all()
    assert found.alike() == []
    assert rank_methods(values, higher_is_better=False).table.index[0] == "c"
    assert rank_methods(pd.DataFrame({"a": [0.3], "b": [0.1 + 0.2]})).table["rank"].tolist() == [1.5, 1.5]
    with pytest.raises(ValueError, match="at least one method"):
        rank_methods(pd.DataFrame(index=[0, 1]))


def test_the_critical_difference_is_the_published_one() -> None:
    # Demšar (2006), table 5: q at 0.05 is 2.569 for four methods; n = 14 blocks give 1.25.
    rng = np.random.default_rng(1)
    values = pd.DataFrame(rng.normal(size=(14, 4)) + np.array([0, 0, 0, 9]), columns=list("abcd"))
    found = rank_methods(values)
    assert found.critical == pytest.approx(2.569 * (4 * 5 / (6 * 14)) ** 0.5, rel=1e-3)
    # Friedman's statistic by its formula, 12n / k(k+1) · (Σ R² − k(k+1)²/4).
    statistic = 12 * 14 / 20 * ((found.table["rank"] ** 2).sum() - 4 * 25 / 4)
    assert found.friedman_p == pytest.approx(stats.chi2.sf(statistic, 3))
    assert found.table.index[0] == "d"
    assert [set(group) for group in found.alike()] == [{"a", "b", "c"}]
    assert np.isnan(rank_methods(values.iloc[:7]).critical)
    assert np.isnan(rank_methods(values[["a", "b"]]).friedman_p)
    assert rank_methods(pd.DataFrame(0.5, index=range(9), columns=list("abc"))).friedman_p == 1.0


def test_groups_that_are_not_told_apart_may_overlap() -> None:
    found = rank_methods(pd.DataFrame({name: -np.full(8, place) for place, name in enumerate("abcde")}, dtype=float))
    # Ranks 1 to 5 and a critical difference of 2.728·√(30/48) = 2.16.
    assert found.alike() == [("a", "b", "c"), ("b", "c", "d"), ("c", "d", "e")]


def test_the_friedman_test_keeps_its_level() -> None:
    rng = np.random.default_rng(4)
    found = [rank_methods(pd.DataFrame(rng.normal(size=(10, 4)))).friedman_p <= 0.05 for _ in range(250)]
    assert np.mean(found) < 0.05 + 3.3 * (0.05 * 0.95 / 250) ** 0.5


def test_a_ratio_is_fiellers() -> None:
    ours, theirs = pd.Series([0.05, 0.07, 0.06, 0.05]), pd.Series([0.02, 0.03, 0.025, 0.02])
    found = ratio_of_means(ours, theirs)
    assert found.value == pytest.approx(0.23 / 0.095)
    # Its ends are the ratios r at which the t-test of ours − r·theirs is just at the level.
    for end in (found.low, found.high):
        assert stats.ttest_1samp(ours - end * theirs, 0.0).pvalue == pytest.approx(0.05)
    assert str(found).startswith("2.42 [")
    # A ratio of ten times the gain is ten times the ratio.
    assert ratio_of_means(10 * ours, theirs)[:3] == pytest.approx([10 * value for value in found[:3]])


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        ([0.02, -0.01, 0.01, 0.0], "touches 0"),
        ([-0.02, -0.03, -0.02, -0.03], "is a loss"),
        ([0.0, 0.0, 0.0, 0.0], "touches 0"),
        ([0.02, np.nan, np.nan, np.nan], "1 pairs"),
    ],
)
def test_a_ratio_to_next_to_nothing_is_undefined(theirs: list[float], reason: str) -> None:
    found = ratio_of_means(pd.Series([0.05, 0.07, 0.06, 0.05]), pd.Series(theirs))
    assert not found.defined
    assert reason in found.reason
    assert np.isnan(found[:3]).all()
    assert str(found).startswith("undefined: ")


def test_a_ratio_covers_what_it_claims() -> None:
    rng, covered = np.random.default_rng(6), 0
    for _ in range(600):
        common = rng.normal(0, 0.004, 5)
        ours, theirs = (pd.Series(mean + common + rng.normal(0, 0.004, 5)) for mean in (0.06, 0.04))
        found = ratio_of_means(ours, theirs)
        covered += found.low <= 1.5 <= found.high
    assert abs(covered / 600 - 0.95) < 3.3 * (0.05 * 0.95 / 600) ** 0.5


@pytest.mark.parametrize(
    ("low", "high", "side", "bound", "expected"),
    [
        (0.01, 0.03, "above", 0.0, "held"),
        (-0.03, -0.01, "above", 0.0, "not held"),
        (-0.01, 0.03, "above", 0.0, "undecided"),
        (0.0, 0.03, "above", 0.0, "undecided"),
        (-0.03, -0.01, "below", 0.0, "held"),
        (0.01, 0.03, "below", 0.0, "not held"),
        (1.1, 1.4, "above", 1.0, "held"),
        (0.9, 1.4, "above", 1.0, "undecided"),
    ],
)
def test_claims_follow_the_rule(low: float, high: float, side: str, bound: float, expected: str) -> None:
    for found in (Interval((low + high) / 2, low, high, 5), Ratio((low + high) / 2, low, high, 5)):
        claim = decide("a claim", found, side=side, bound=bound)  # type: ignore[arg-type]
        assert (claim.verdict, claim.reason, claim.n) == (expected, "", 5)


def test_claims_without_enough_to_go_by_are_undecided() -> None:
    few = decide("a claim", Interval(0.02, 0.01, 0.03, 4))
    assert (few.verdict, few.reason) == ("undecided", "4 pairs, a claim takes at least 5")
    assert decide("a claim", Interval(0.02, 0.01, 0.03, 4), fewest=3).verdict == "held"
    nothing = decide("a claim", Ratio(np.nan, np.nan, np.nan, 5, "the denominator's interval touches 0"), bound=1.0)
    assert (nothing.verdict, nothing.reason) == ("undecided", "the denominator's interval touches 0")
    with pytest.raises(ValueError, match="'above' or 'below', found 'over'"):
        decide("a claim", Interval(0.02, 0.01, 0.03, 5), side="over")  # type: ignore[arg-type]

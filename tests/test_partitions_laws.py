"""Strategies that deal have the distributions that they claim."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from partitions.by_column import ByColumn
from partitions.composition import composed
from partitions.contract import PartitionError, Samples, Strategy, apply, check
from partitions.dirichlet import Dirichlet
from partitions.disjoint import Disjoint
from partitions.iid import IID
from partitions.inner_dirichlet import InnerDirichlet
from partitions.long_tail import LongTail
from partitions.noise import Noise
from partitions.overlap import Overlap
from partitions.pathological import Pathological
from partitions.quantity import Quantity
from partitions.rounding import largest_remainder
from partitions.shards import Shards
from partitions.sizes import Sizes
from tests.test_partitions import make, tables


def sizes_of(strategy: Strategy, n: int, clients: int, seed: int = 0) -> NDArray[np.int64]:
    """(clients,) sizes of one partition of `n` samples of 10 classes."""
    return np.array([len(own) for own in apply(strategy, make(n, 10), clients, seed).clients])


def assert_labels_are_iid(strategy: Strategy, clients: int) -> None:
    """Every client's class shares are near those of all, as far as its size lets one say."""
    samples = Samples(np.sort(make(10_007, 10).labels))
    table = tables(apply(strategy, samples, clients, seed=0), samples.labels)
    sizes = table.sum(axis=1, keepdims=True)
    # Hypergeometric: without the finite-size correction the standard deviation is only overstated.
    assert (np.abs(table / sizes - 0.1) < 4.5 * np.sqrt(0.09 / sizes)).all()


def test_iid_sizes_and_shares() -> None:
    assert np.ptp(sizes_of(IID(), 10_007, 10)) == 1
    assert_labels_are_iid(IID(), 10)


def assert_exchangeable(strategy: Strategy, samples: Samples, clients: int, runs: int) -> None:
    """Over many seeds, no client's size or number of classes differs from the others' by its number."""
    found = [tables(apply(strategy, samples, clients, seed), samples.labels) for seed in range(runs)]
    for values in (np.sum(found, axis=2), (np.array(found) > 0).sum(axis=2)):
        error = values.std() / np.sqrt(runs)
        # Exchangeable numbers with a constant sum, or hardly correlated ones: at most a little beyond this deviation.
        assert np.abs(values.mean(axis=0) - values.mean()).max() < 4.5 * max(error, 1e-9)


CIFAR100_LIKE, DIGITS_LIKE = Samples(np.arange(1800) % 100), Samples(np.arange(1437) % 10)


@pytest.mark.parametrize("samples", [CIFAR100_LIKE, DIGITS_LIKE], ids=["100 classes", "10 classes"])
@pytest.mark.parametrize(
    "strategy",
    [
        IID(),
        Dirichlet(0.1, 1),
        Dirichlet(0.1, 1, True),
        Dirichlet(10.0, 1),
        Disjoint(),
        InnerDirichlet(alpha=0.1),
        LongTail(),
        Pathological(5),
        Pathological(5, "random"),
        Shards(),
        Quantity("lognormal"),
        Quantity("dirichlet", alpha=0.5),
    ],
    ids=repr,
)
def test_clients_are_exchangeable(strategy: Strategy, samples: Samples) -> None:
    assert_exchangeable(strategy, samples, clients=10, runs=80)


def test_classes_that_all_share_are_cut_without_regard_to_the_number_of_a_client() -> None:
    # 18 samples among 8: two get a third one of each class, and over 92 of them the same two would get 92 more.
    assert_exchangeable(Overlap(1, 92), CIFAR100_LIKE, clients=8, runs=40)


def test_local_tests_are_dealt_without_regard_to_the_number_of_a_client() -> None:
    # Equal clients: what a class has too few samples for, to give one to each, goes to some of them by chance.
    samples, test = Samples(np.arange(2000) % 10), Samples(np.arange(360) % 10)
    partition = apply(Pathological(10), samples, 10, seed=0)
    found = [
        tables(IID().local_test(partition, samples, test, np.random.default_rng(seed)), test.labels)
        for seed in range(80)
    ]
    counts = np.array(found)
    assert np.abs(counts.mean(axis=0) - 3.6).max() < 4.5 * np.sqrt(0.24 / 80)


@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(lambda shares: sum(shares) > 0),
    total=st.integers(0, 10_000),
)
def test_largest_remainder_rounds_each_share_up_or_down_and_loses_nothing(shares: list[float], total: int) -> None:
    exact = np.array(shares) / np.sum(shares) * total
    whole = largest_remainder(np.array(shares), total)
    assert whole.sum() == total
    assert np.abs(whole - exact).max() < 1 + 1e-9
    up, down = (exact - np.floor(exact))[whole > exact], (exact - np.floor(exact))[whole < exact]
    assert up.min(initial=1) >= down.max(initial=0) - 1e-9


class TestDirichlet:
    @pytest.mark.parametrize("alpha", [0.2, 1.0, 10.0])
    @pytest.mark.parametrize("thinned", [False, True])
    def test_shares_have_the_moments_of_their_beta(self, alpha: float, thinned: bool) -> None:
        clients, classes, per_class, runs = 5, 20, 400, 8
        samples = make(classes * per_class, classes)
        strategy: Strategy = Dirichlet(alpha, 0)
        counts = np.full(classes, per_class)
        if thinned:
            strategy = composed([Noise(), LongTail(2.0), strategy], ["noise", "long_tail", "dirichlet"])
            counts = np.rint(per_class * 2.0 ** -(np.arange(classes) / (classes - 1))).astype(np.int64)
        draws = []
        for seed in range(runs):
            table = tables(apply(strategy, samples, clients, seed), samples.labels)
            assert (table.sum(axis=0) == counts).all()
            draws.append(table.T / counts[:, None])
        shares = np.concatenate(draws)
        # The share of a class on one of N clients is Beta(alpha, (N-1)·alpha).
        mean, variance = 1 / clients, (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
        assert shares.shape == (runs * classes, clients)
        assert np.abs(shares.mean(axis=0) - mean).max() < 4 * np.sqrt(variance / len(shares))
        assert shares.var() == pytest.approx(variance, rel=0.2)

    def test_the_minimum_size_is_kept_without_a_warning(self) -> None:
        # About one draw in 200 has 60 samples everywhere: far beyond the partitioner's own eleven tries.
        assert sizes_of(Dirichlet(0.1, 60), 2000, 10).min() >= 60

    def test_balancing_evens_sizes_out_and_caps_them(self) -> None:
        even, free = (
            np.array([sizes_of(Dirichlet(0.3, 0, balanced), 2000, 10, seed) for seed in range(12)])
            for balanced in (True, False)
        )
        assert even.std(axis=1).mean() < 0.75 * free.std(axis=1).mean()
        # Nobody above the mean gets another class: at most the mean and one class.
        assert even.max() <= 200 + 200
        assert free.max() > 410

    def test_balancing_is_blind_to_the_number_of_a_class(self) -> None:
        # In the order of their numbers the last class would be left to the few clients not yet full: half of it to one.
        samples = make(2000, 10)
        runs = (apply(Dirichlet(0.5, 0, True), samples, 10, seed) for seed in range(60))
        largest = np.mean([tables(run, samples.labels).max(axis=0) / 200 for run in runs], axis=0)
        # A largest share has standard deviation 0.14.
        assert abs(largest[-1] - largest[:-1].mean()) < 4.5 * 0.14 / np.sqrt(60)

    def test_balancing_survives_shares_of_zero(self) -> None:
        # In two draws of three, all shares of the clients not yet full underflow.
        samples = make(2000, 40)
        for seed in range(8):
            assert not len(apply(Dirichlet(0.001, 0, True), samples, 10, seed).dropped)


class TestPathological:
    @pytest.mark.parametrize("mode", ["balanced", "random", "cyclic", "first"])
    @pytest.mark.parametrize(
        ("clients", "classes", "present"), [(10, 2, 10), (5, 2, 10), (7, 3, 10), (1, 10, 10), (13, 1, 4), (30, 9, 10)]
    )
    def test_exactly_so_many_classes_cut_equally(self, mode: str, clients: int, classes: int, present: int) -> None:
        samples = make(600, present)
        strategy = Pathological(classes, mode)  # type: ignore[arg-type]
        partition = apply(strategy, samples, clients, seed=3)
        table = tables(partition, samples.labels)
        holders = (table > 0).sum(axis=0)
        assert ((table > 0).sum(axis=1) == classes).all()
        assert set(np.unique(samples.labels[partition.dropped])) == set(np.flatnonzero(holders == 0))
        assert (table.sum(axis=0)[holders > 0] == 600 // present).all()
        for column in table.T[holders > 0]:
            assert np.ptp(column[column > 0]) <= 1
        if mode == "balanced":
            assert holders.min() >= 1
            assert holders.max() - holders.min() <= 1
        turns = np.arange(clients) % present
        if mode == "cyclic":
            assert all(table[i, (i + k) % present] for i in range(clients) for k in range(classes))
        if mode == "first":
            assert table[np.arange(clients), turns].all()

    def test_drawn_classes_are_uniform_and_independent(self) -> None:
        samples = make(30_000, 6)
        modes: tuple[Literal["random", "first"], ...] = ("random", "first")
        for mode in modes:
            held = tables(apply(Pathological(2, mode), samples, 3000, seed=0), samples.labels) > 0
            if mode == "first":
                held[np.arange(3000), np.arange(3000) % 6] = False
            # Each class with the odds of its share: binomial, at most 1/3 of 3000 with standard deviation 26.
            expected = held.sum() / 6
            assert np.abs(held.sum(axis=0) - expected).max() < 4.5 * np.sqrt(expected)

    def test_classes_that_nobody_can_hold_are_reported(self) -> None:
        samples = make(100, 10)
        partition = apply(Pathological(2), samples, 3, seed=0)
        assert len(partition.dropped) == 40
        assert len(np.unique(samples.labels[partition.dropped])) == 4

    @pytest.mark.parametrize("mode", ["balanced", "cyclic"])
    def test_cuts_as_flower_does_where_flower_uses_every_class(self, mode: str) -> None:
        datasets = pytest.importorskip("datasets")
        partitioner = pytest.importorskip("flwr_datasets.partitioner").PathologicalPartitioner(
            20, "label", num_classes_per_partition=3, class_assignment_mode="deterministic"
        )
        labels = make(1000, 10).labels
        partitioner.dataset = datasets.Dataset.from_dict({"label": labels})
        theirs = np.stack([np.bincount(partitioner.load_partition(i)["label"], minlength=10) for i in range(20)])
        ours = tables(apply(Pathological(3, mode), Samples(labels), 20, seed=0), labels)  # type: ignore[arg-type]
        assert np.array_equal(np.sort(theirs, axis=0), np.sort(ours, axis=0))
        # Which holders of a class get one sample more is drawn here; there it is always the first.
        assert mode == "balanced" or np.array_equal(theirs > 0, ours > 0)


class TestShards:
    def test_the_setting_of_the_paper(self) -> None:
        samples = make(60_000, 10)
        partition = apply(Shards(), samples, 100, seed=0)
        table = tables(partition, samples.labels)
        assert (table.sum(axis=1) == 600).all()
        assert not len(partition.dropped)
        # 6,000 of each class are 20 whole shards: every client has one class or two, in shards of 300.
        assert set(np.unique(table)) == {0, 300, 600}
        assert 1 <= (table > 0).sum(axis=1).min() < (table > 0).sum(axis=1).max() == 2

    def test_what_fills_no_shard_is_drawn_from_all_classes(self) -> None:
        samples = make(1039, 10)
        lost = np.zeros(10, np.int64)
        for seed in range(40):
            partition = apply(Shards(), samples, 10, seed)
            assert {len(own) for own in partition.clients} == {2 * 51}
            lost += np.bincount(samples.labels[partition.dropped], minlength=10)
        # 19 of 1039 each time, Poisson per class: mean 76 and standard deviation below 9.
        assert lost.sum() == 40 * 19
        assert np.abs(lost - 76).max() < 4.5 * 9

    def test_a_size_that_is_given_leaves_whole_shards_over(self) -> None:
        samples = make(1000, 10)
        partition = apply(Shards(3, 25), samples, 10, seed=0)
        table = tables(partition, samples.labels)
        assert (table.sum(axis=1) == 75).all()
        assert set(np.unique(table)) <= {0, 25, 50, 75}
        assert len(partition.dropped) == 250
        assert (np.bincount(samples.labels[partition.dropped]) % 25 == 0).all()

    def test_sizes_are_flower_s(self) -> None:
        datasets = pytest.importorskip("datasets")
        partitioner = pytest.importorskip("flwr_datasets.partitioner").ShardPartitioner(
            7, "label", num_shards_per_partition=3
        )
        labels = make(1000, 10).labels
        partitioner.dataset = datasets.Dataset.from_dict({"label": labels})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            theirs = [len(partitioner.load_partition(i)) for i in range(7)]
        assert theirs == sizes_of(Shards(3), 1000, 7).tolist()


class TestClassesOfTheirOwn:
    @pytest.mark.parametrize(("clients", "own", "shared"), [(4, 2, 2), (3, 3, 1), (10, 1, 0), (1, 9, 1), (2, 1, 3)])
    def test_overlap(self, clients: int, own: int, shared: int) -> None:
        samples = make(1005, 10)
        partition = apply(Overlap(own, shared), samples, clients, seed=1)
        table = tables(partition, samples.labels)
        holders = (table > 0).sum(axis=0)
        assert ((table > 0).sum(axis=1) == own + shared).all()
        if clients > 1:
            assert (holders == clients).sum() == shared
            assert (holders == 1).sum() == clients * own
        assert (holders == 0).sum() == 10 - clients * own - shared
        assert set(np.unique(samples.labels[partition.dropped])) == set(np.flatnonzero(holders == 0))
        for column in table.T[holders == clients]:
            assert np.ptp(column) <= 1

    @pytest.mark.parametrize(("clients", "classes"), [(4, 10), (10, 10), (1, 3), (3, 7)])
    def test_disjoint(self, clients: int, classes: int) -> None:
        samples = make(500, classes)
        partition = apply(Disjoint(), samples, clients, seed=0)
        table = tables(partition, samples.labels)
        assert ((table > 0).sum(axis=0) == 1).all()
        assert np.ptp((table > 0).sum(axis=1)) <= 1
        assert not len(partition.dropped)

    def test_which_client_has_one_class_more_is_drawn(self) -> None:
        samples = make(500, 10)
        more = [(tables(apply(Disjoint(), samples, 3, s), samples.labels) > 0).sum(axis=1).argmax() for s in range(30)]
        assert set(more) == {0, 1, 2}


class TestLongTail:
    @pytest.mark.parametrize("imbalance", [1.0, 10.0, 100.0])
    def test_class_sizes_fall_exponentially(self, imbalance: float) -> None:
        samples = make(5000, 10)
        table = tables(partition := apply(LongTail(imbalance), samples, 4, seed=0), samples.labels)
        expected = [round(500 * imbalance ** (-rank / 9)) for rank in range(10)]
        assert table.sum(axis=0).tolist() == expected
        assert len(partition.dropped) == 5000 - sum(expected)
        # The rest is dealt IID: a share of a client is hypergeometric, sizes are even.
        assert np.ptp(table.sum(axis=1)) <= 1
        assert (np.abs(table - table.sum(axis=0) / 4) < 4.5 * np.sqrt(table.sum(axis=0) * 3 / 16)).all()

    def test_the_profile_is_exact_on_uneven_classes(self) -> None:
        labels = np.repeat(np.arange(4), [100, 1000, 80, 64])
        counts = tables(apply(LongTail(8.0), Samples(labels), 1, seed=0), labels)[0]
        # The ranks ask for 1, 1/2, 1/4, 1/8 of a head, and the first class has but 100.
        assert counts.tolist() == [100, 50, 25, 12]

    def test_a_class_never_vanishes(self) -> None:
        labels = np.repeat(np.arange(3), 10)
        assert tables(apply(LongTail(1e6), Samples(labels), 1, seed=0), labels)[0].tolist() == [10, 1, 1]
        assert sizes_of(LongTail(), 10, 1) >= 10 - 9


class TestQuantity:
    @pytest.mark.parametrize(("law", "power"), [("linear", 1), ("square", 2)])
    def test_sizes_grow_with_a_power_of_the_number(self, law: str, power: int) -> None:
        sizes = sizes_of(Quantity(law), 10_007, 10)  # type: ignore[arg-type]
        exact = 10_007 * np.arange(1, 11) ** power / sum(i**power for i in range(1, 11))
        assert np.abs(sizes - exact).max() < 1
        assert sizes.sum() == 10_007
        assert_labels_are_iid(Quantity(law), 10)  # type: ignore[arg-type]

    def test_the_last_client_gets_no_more_than_its_share(self) -> None:
        # Rounded down everywhere, about 300 samples would be left over.
        sizes = sizes_of(Quantity("linear", min_size=1), 200_000, 600)
        exact = 200_000 * np.arange(1, 601) / 180_300
        assert np.abs(sizes - exact).max() < 1

    def test_exponential_sizes_have_a_constant_ratio(self) -> None:
        sizes = sizes_of(Quantity("exponential"), 100_000, 7)
        assert sizes[1:] / sizes[:-1] == pytest.approx(np.full(6, np.e), rel=0.01)

    @pytest.mark.parametrize("sigma", [0.2, 1.0])
    def test_lognormal_logarithms_spread_by_sigma(self, sigma: float) -> None:
        logs = np.log([sizes_of(Quantity("lognormal", sigma=sigma), 60_000, 30, seed) for seed in range(30)])
        # The common factor goes with each run's mean. 870 degrees of freedom: relative error 0.024.
        assert np.sqrt(logs.var(axis=1, ddof=1).mean()) == pytest.approx(sigma, rel=0.1)
        centred = (logs - logs.mean(axis=1, keepdims=True)).ravel() / sigma
        assert abs((centred**3).mean()) < 4.5 * np.sqrt(6 / len(centred))
        assert (centred**4).mean() / (centred**2).mean() ** 2 == pytest.approx(3, abs=4.5 * np.sqrt(24 / len(centred)))

    @pytest.mark.parametrize("alpha", [1.0, 20.0])
    def test_dirichlet_shares_have_their_variance(self, alpha: float) -> None:
        shares = np.array(
            [sizes_of(Quantity("dirichlet", alpha=alpha, min_size=1), 8000, 8, seed) for seed in range(150)]
        )
        shares = shares / 8000
        # Beta(alpha, 7·alpha); no draw is rejected, or hardly one.
        assert shares.var() == pytest.approx(1 / 8 * 7 / 8 / (8 * alpha + 1), rel=0.2)
        assert shares.mean(axis=0) == pytest.approx(np.full(8, 1 / 8), abs=4.5 * np.sqrt(shares.var() / 150))

    def test_the_minimum_size_is_kept(self) -> None:
        for seed in range(5):
            assert sizes_of(Quantity("lognormal", sigma=1.0, min_size=20), 1000, 10, seed).min() >= 20
        assert_labels_are_iid(Quantity("dirichlet", alpha=2.0, min_size=20), 10)


class TestSizes:
    def test_numbers_and_shares(self) -> None:
        assert sizes_of(Sizes((500, 20, 1)), 600, 3).tolist() == [500, 20, 1]
        assert sizes_of(Sizes((0.5, 0.25, 0.125)), 1000, 3).tolist() == [500, 250, 125]
        # 3.5, 3.5 and 3: one of the halves is rounded up, so that nothing is lost or made.
        assert sizes_of(Sizes((0.35, 0.35, 0.3)), 10, 3).tolist() == [4, 3, 3]
        assert sizes_of(Sizes((1 / 3,) * 3), 100, 3).sum() == 100
        assert_labels_are_iid(Sizes((0.5, 0.3, 0.2)), 3)

    def test_the_rest_is_reported(self) -> None:
        assert len(apply(Sizes((10, 20)), make(100, 10), 2, seed=0).dropped) == 70


class TestInnerDirichlet:
    @pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
    def test_counts_have_the_moments_of_a_dirichlet_multinomial(self, alpha: float) -> None:
        # 200 of 200,000 samples: no class runs out.
        clients, classes, n = 200, 8, 200
        samples = make(400_000, classes)
        table = tables(apply(InnerDirichlet((n,) * clients, alpha), samples, clients, seed=0), samples.labels)
        variance = n / classes * (1 - 1 / classes) * (n + classes * alpha) / (1 + classes * alpha)
        assert (table.sum(axis=1) == n).all()
        assert table.mean(axis=0) == pytest.approx(np.full(classes, n / classes), abs=4.5 * np.sqrt(variance / clients))
        assert table.var() == pytest.approx(variance, rel=0.25)

    @pytest.mark.parametrize("alpha", [0.001, 0.3, 1e6])
    def test_all_samples_are_dealt_in_even_sizes_by_default(self, alpha: float) -> None:
        samples = make(1003, 10)
        partition = apply(InnerDirichlet(alpha=alpha), samples, 10, seed=0)
        assert sorted(map(len, partition.clients)) == [100] * 7 + [101] * 3
        assert not len(partition.dropped)

    def test_at_the_limits_of_alpha(self) -> None:
        samples = make(20_000, 10)
        wide, narrow = (
            tables(apply(InnerDirichlet((100,) * 20, alpha), samples, 20, seed=0), samples.labels)
            for alpha in (1e6, 1e-4)
        )
        # Multinomial: mean 10, standard deviation 3.
        assert np.abs(wide - 10).max() < 4.5 * 3
        assert ((narrow > 0).sum(axis=1) == 1).all()

    def test_a_class_that_runs_out_is_replaced(self) -> None:
        # Everybody wants the one sample of class 7; sizes hold, and it goes to one.
        samples = Samples(np.array([7] + [3] * 50 + [-2] * 49))
        partition = apply(InnerDirichlet((30, 30, 40), 1e-4), samples, 3, seed=2)
        assert [len(own) for own in partition.clients] == [30, 30, 40]
        assert np.isin(0, np.concatenate(partition.clients))

    def test_sizes_may_be_shares(self) -> None:
        assert sizes_of(InnerDirichlet((0.5, 0.1)), 1000, 2).tolist() == [500, 100]


class TestByColumn:
    @pytest.mark.parametrize("values", [np.array([5, 2, 9]), np.array(["ann", "cleo", "bo"]), np.array([True, False])])
    def test_one_value_a_client_in_order(self, values: NDArray[np.generic]) -> None:
        owner = np.random.default_rng(0).integers(0, len(values), 300)
        samples = Samples(make(300, 10).labels, {"client": values[owner], "other": np.zeros((300, 2))})
        partition = apply(ByColumn(), samples, len(values), seed=0)
        for own, value in zip(partition.clients, np.sort(values), strict=True):
            assert (samples.columns["client"][own] == value).all()

    def test_groups_are_whole_and_even(self) -> None:
        writers = np.repeat(np.arange(40), np.random.default_rng(1).integers(5, 60, 40))
        samples = Samples(np.zeros(len(writers), np.int64), {"writer": writers})
        partition = apply(ByColumn("writer"), samples, 6, seed=0)
        groups = [set(writers[own].tolist()) for own in partition.clients]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 40
        sizes = [len(own) for own in partition.clients]
        # The largest-first deal ends within the smallest value of even, once there are many values.
        assert max(sizes) - min(sizes) <= 15
        assert sum(sizes) == len(writers)

    def test_test_samples_go_to_their_own_value(self) -> None:
        writers = np.repeat(np.arange(0, 20, 2), 30)
        samples = Samples(np.zeros(300, np.int64), {"client": writers})
        asked = np.random.default_rng(0).integers(-2, 25, 400)
        test = Samples(np.zeros(400, np.int64), {"client": asked})
        for clients in (3, 10):
            partition = apply(ByColumn(), samples, clients, seed=0)
            local = ByColumn().local_test(partition, samples, test, np.random.default_rng(0))
            check(local, test, clients, Dirichlet(min_size=0))
            for own, theirs in zip(partition.clients, local.clients, strict=True):
                assert set(asked[theirs]) <= set(writers[own])
            assert set(asked[local.dropped]) == set(asked) - set(writers)


@pytest.mark.parametrize(
    ("strategy", "samples", "clients", "message"),
    [
        (Dirichlet(0.5, 30), make(100, 10), 4, "need 120 samples, there are 100; lower min_size to 25"),
        (Dirichlet(0.01, 10), make(100, 10), 9, "raise alpha, lower min_size or use fewer clients"),
        (Dirichlet(0.01, 40, True), make(500, 10), 10, "raise alpha, lower min_size or use fewer clients"),
        (Pathological(5), make(100, 4), 2, "only 4; lower classes"),
        (Pathological(2), make(12, 2), 8, "class 0 has 6 samples, fewer than the 8 clients"),
        (Shards(2, 30), make(100, 10), 2, "need 120 samples, there are 100; lower size or per_client"),
        (Shards(60), make(100, 10), 2, "shards of 1 need 120 samples, there are 100; lower per_client, or use fewer"),
        (Overlap(2, 1), make(100, 10), 5, "need 11 classes, the samples have 10; lower own to 1 or less"),
        (Overlap(1, 2), make(100, 10), 9, "need 11 classes, the samples have 10; use at most 8 clients"),
        (Overlap(1, 10), make(100, 10), 2, "need 12 classes, the samples have 10; lower shared below 10"),
        (Overlap(1, 1), make(10, 9), 8, "1 samples, fewer than the 8 clients that would share it; use fewer clients"),
        (Disjoint(), make(100, 3), 4, "the samples have 3; use at most 3 clients"),
        (Quantity("exponential"), make(1000, 10), 12, "leaves the first of 12 clients 0 of 1000 samples, min_size"),
        (Quantity("linear", min_size=30), make(1000, 10), 10, "18 of 1000 .* use fewer clients or lower min_size"),
        (Quantity("exponential"), make(2000, 10), 900, "leaves the first of 900 clients 0 of 2000"),
        (Quantity(min_size=60), make(100, 10), 2, "need 120 samples, there are 100; lower min_size to 50"),
        (Quantity("lognormal", sigma=9.0), make(100, 10), 9, "lower sigma, lower min_size or use fewer clients"),
        (Quantity("dirichlet", alpha=0.01), make(100, 10), 9, "raise alpha, lower min_size or use fewer clients"),
        (Sizes((1, 2)), make(100, 10), 3, "2 entries for 3 clients"),
        (Sizes((90, 20)), make(100, 10), 2, "110 samples, there are 100"),
        (Sizes((0.9, 0.2)), make(100, 10), 2, "shares that add up to 1.1"),
        (Sizes((0.5, 20)), make(100, 10), 2, r"mixes numbers of samples and shares: \[0.5, 20\]"),
        (Sizes((0.9, 0.001)), make(100, 10), 2, "is none for client 1; give it 0.01 or more"),
        (InnerDirichlet((1, 2)), make(100, 10), 3, "2 entries for 3 clients"),
        (ByColumn("cleint"), make(100, 10), 2, "no column name='cleint'; did you mean 'client'. columns: client"),
        (ByColumn("x"), Samples(np.zeros(5, np.int64)), 2, "no column name='x'; the data set has no columns"),
        (ByColumn(), make(100, 10), 8, "7 values for 8 clients; use at most 7"),
        (ByColumn("f"), Samples(np.zeros(5, np.int64), {"f": np.zeros(5)}), 1, "is float64 of shape"),
        (ByColumn("f"), Samples(np.zeros(5, np.int64), {"f": np.zeros((5, 2), int)}), 1, r"of shape \(5, 2\)"),
    ],
)
def test_impossible_requests_say_what_to_change(
    strategy: Strategy, samples: Samples, clients: int, message: str
) -> None:
    with pytest.raises(PartitionError, match=message):
        apply(strategy, samples, clients, seed=0)


def test_a_spread_without_its_law_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma is for law='lognormal', found law='dirichlet'"):
        Quantity("dirichlet", sigma=2.0)
    with pytest.raises(ValueError, match="alpha is for law='dirichlet', found law='linear'"):
        Quantity(alpha=2.0)

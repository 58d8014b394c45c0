"""Every strategy of `partitions/` keeps the contract; the built-in ones have the distributions they claim."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import time
from collections.abc import Iterator
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import partitions
from partitions.contract import Partition, PartitionError, Samples, Strategy, apply, check
from partitions.dirichlet import Dirichlet
from partitions.holdout import hold_out
from partitions.iid import IID
from partitions.pathological import Pathological


def strategies() -> Iterator[type[Strategy]]:
    """Every concrete strategy defined in a file of the room; a new file is found without an edit here."""
    for module in pkgutil.iter_modules(partitions.__path__, "partitions."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(cls, Strategy) and not inspect.isabstract(cls) and cls.__module__ == module.name:
                yield cls


EVERY = pytest.mark.parametrize("cls", [pytest.param(cls, id=cls.__name__.lower()) for cls in strategies()])


def make(n: int, classes: int, seed: int = 0) -> Samples:
    """`n` samples of classes as equal as can be, in random order, with one further column."""
    labels = np.random.default_rng(seed).permutation(np.arange(n) % classes)
    return Samples(labels, {"client": np.arange(n) % 7})


def settings_of(cls: type[Strategy], data: st.DataObject) -> Strategy:
    """The strategy with each parameter at its default or anywhere within its bounds."""
    hints = get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = getattr(cls, "__pydantic_fields__", {})
    values = {
        name: data.draw(st.one_of(st.just(field.default), st.from_type(hints[name])), name)
        for name, field in fields.items()
    }
    return cls(**values)


def tables(partition: Partition, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(clients, classes) counts."""
    return np.stack([np.bincount(labels[c], minlength=labels.max() + 1) for c in partition.clients])


def same(a: Partition, b: Partition) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.clients, b.clients, strict=True))


def test_the_walk_finds_the_built_in_strategies() -> None:
    assert {IID, Dirichlet, Pathological} <= set(strategies())


@EVERY
def test_parameters_have_defaults_bounds_and_help(cls: type[Strategy]) -> None:
    assert (cls.__doc__ or "").split("\n")[0].endswith("."), "the first line is the description"
    cls()
    for name, field in getattr(cls, "__pydantic_fields__", {}).items():
        assert field.description, f"{name} needs a docstring under it: it is the help text"


@EVERY
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_partition_is_whole_or_refused(cls: type[Strategy], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=120))
    samples = Samples(np.array(labels, np.int64), {"client": np.arange(len(labels)) % 3})
    clients = data.draw(st.one_of(st.just(1), st.just(len(labels)), st.integers(1, 12)))
    strategy = settings_of(cls, data)
    try:
        partition = apply(strategy, samples, clients, seed=data.draw(st.integers(0, 9)))
    except PartitionError as error:
        assert len(str(error)) > 20  # noqa: PT017  (refusing is one of the two right outcomes)
        return
    everything = np.concatenate([*partition.clients, partition.dropped])
    assert np.array_equal(np.sort(everything), np.arange(len(labels)))
    assert strategy.allow_empty or min(map(len, partition.clients)) > 0
    assert len(partition.clients) == clients


@EVERY
def test_the_seed_and_nothing_else_decides(cls: type[Strategy]) -> None:
    samples = make(600, 6)
    np.random.seed(1)  # noqa: NPY002  (global state is exactly what must not matter)
    first = apply(cls(), samples, 4, seed=0)
    np.random.seed(2)  # noqa: NPY002
    assert same(first, apply(cls(), samples, 4, seed=0))
    assert not same(first, apply(cls(), samples, 4, seed=1))


@EVERY
def test_more_clients_than_samples_are_refused(cls: type[Strategy]) -> None:
    with pytest.raises(PartitionError, match=r"11 clients cannot share 10 samples"):
        apply(cls(), make(10, 2), 11, seed=0)
    with pytest.raises(PartitionError, match="at least 1"):
        apply(cls(), make(10, 2), 0, seed=0)


class TestCheck:
    """A broken strategy is caught, whoever wrote it."""

    @pytest.mark.parametrize(
        ("clients", "dropped", "message"),
        [
            ([[0, 1], [1, 2, 3]], [], "index 1 is in client 0 and again in client 1"),
            ([[0, 1], [2, 2, 3]], [], "index 2 is in client 1 and again in client 1"),
            ([[0, 1], [2, 3]], [3], "index 3 is in client 1 and again in dropped"),
            ([[0, 1], [2, 4]], [], "client 1 holds the index 4; indices must be 0 to 3"),
            ([[0, -1], [2, 3]], [], "client 0 holds the index -1"),
            ([[0, 1], [2]], [], "accounts for 3 of 4 samples"),
            ([[0, 1, 2, 3], []], [], "client 1 without samples"),
            ([[0, 1, 2, 3]], [], "1 index arrays for 2 clients"),
        ],
    )
    def test_faults_are_named(self, clients: list[list[int]], dropped: list[int], message: str) -> None:
        partition = Partition(tuple(np.array(c, np.int64) for c in clients), np.array(dropped, np.int64))
        with pytest.raises(PartitionError, match=message):
            check(partition, make(4, 2), 2, IID())

    def test_floats_are_no_indices(self) -> None:
        partition = Partition((np.arange(4.0),))  # type: ignore[arg-type]
        with pytest.raises(PartitionError, match="must be int64"):
            check(partition, make(4, 2), 1, IID())

    def test_one_transform_a_client(self) -> None:
        partition = Partition((np.arange(2), np.arange(2, 4)), transforms=(lambda x, _: x,))
        with pytest.raises(PartitionError, match="1 transforms for 2 clients"):
            check(partition, make(4, 2), 2, IID())

    def test_samples_of_the_wrong_shape(self) -> None:
        with pytest.raises(PartitionError, match="int64"):
            Samples(np.zeros((2, 2), np.int64))
        with pytest.raises(PartitionError, match="column 'writer'"):
            Samples(np.zeros(3, np.int64), {"writer": np.zeros(2)})


def test_iid_sizes_and_shares() -> None:
    # Sorted by class: a contiguous cut would give every client one class.
    samples = Samples(np.sort(make(10_007, 10).labels))
    partition = apply(IID(), samples, 10, seed=0)
    sizes = [len(c) for c in partition.clients]
    assert max(sizes) - min(sizes) == 1
    shares = tables(partition, samples.labels) / np.array(sizes)[:, None]
    # Hypergeometric: a share of 0.1 among 1,000 drawn of 10,000 has standard deviation 0.009.
    assert np.abs(shares - 0.1).max() < 4.5 * 0.009


@pytest.mark.parametrize("alpha", [0.2, 1.0, 10.0])
def test_dirichlet_shares_have_the_moments_of_their_beta(alpha: float) -> None:
    clients, classes, per_class, runs = 5, 20, 400, 15
    samples = make(classes * per_class, classes)
    draws = np.concatenate(
        [
            tables(apply(Dirichlet(alpha, 0), samples, clients, seed), samples.labels).T / per_class
            for seed in range(runs)
        ]
    )
    # The share of a class on one of N clients is Beta(alpha, (N-1)·alpha).
    mean, variance = 1 / clients, (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert draws.shape == (runs * classes, clients)
    assert np.abs(draws.mean(axis=0) - mean).max() < 4 * np.sqrt(variance / len(draws))
    assert draws.var() == pytest.approx(variance, rel=0.15)


def test_dirichlet_keeps_the_minimum_size_without_a_warning() -> None:
    # About one draw in 200 has 60 samples everywhere: far beyond the partitioner's own eleven tries.
    partition = apply(Dirichlet(0.1, 60), make(2000, 10), 10, seed=0)
    assert min(map(len, partition.clients)) >= 60


def test_pathological_gives_exactly_so_many_classes_and_uses_all() -> None:
    for clients, classes, present in [
        (10, 2, 10),
        (5, 2, 10),
        (7, 3, 10),
        (1, 10, 10),
        (13, 1, 4),
        (30, 9, 10),
    ]:
        samples = make(600, present)
        table = tables(apply(Pathological(classes), samples, clients, seed=3), samples.labels)
        holders = (table > 0).sum(axis=0)
        assert ((table > 0).sum(axis=1) == classes).all()
        assert holders.min() >= 1
        assert holders.max() - holders.min() <= 1
        for column in table.T:
            assert np.ptp(column[column > 0]) <= 1


def test_pathological_reports_the_classes_that_nobody_can_hold() -> None:
    samples = make(100, 10)
    partition = apply(Pathological(2), samples, 3, seed=0)
    assert len(partition.dropped) == 40
    assert len(np.unique(samples.labels[partition.dropped])) == 4


def test_pathological_cuts_as_flower_does_where_flower_uses_every_class() -> None:
    datasets = pytest.importorskip("datasets")
    partitioner = pytest.importorskip("flwr_datasets.partitioner").PathologicalPartitioner(
        20, "label", num_classes_per_partition=3, class_assignment_mode="deterministic"
    )
    labels = make(1000, 10).labels
    partitioner.dataset = datasets.Dataset.from_dict({"label": labels})
    theirs = np.stack([np.bincount(partitioner.load_partition(i)["label"], minlength=10) for i in range(20)])
    ours = tables(apply(Pathological(3), Samples(labels), 20, seed=0), labels)
    assert np.array_equal(np.sort(theirs, axis=0), np.sort(ours, axis=0))


@pytest.mark.parametrize(
    ("strategy", "samples", "clients", "message"),
    [
        (Dirichlet(0.5, 30), make(100, 10), 4, "need 120 samples, there are 100; lower min_size to 25"),
        (Dirichlet(0.01, 10), make(100, 10), 9, "raise alpha, lower min_size or use fewer clients"),
        (Pathological(5), make(100, 4), 2, "only 4; lower classes"),
        (Pathological(2), make(12, 2), 8, "class 0 has 6 samples, fewer than the 8 clients"),
    ],
)
def test_impossible_requests_say_what_to_change(
    strategy: Strategy, samples: Samples, clients: int, message: str
) -> None:
    with pytest.raises(PartitionError, match=message):
        apply(strategy, samples, clients, seed=0)


@EVERY
def test_a_thousand_clients_take_seconds(cls: type[Strategy]) -> None:
    pytest.importorskip("flwr_datasets")  # its import is not what is measured
    samples = make(60_000, 10)
    start = time.perf_counter()
    with contextlib.suppress(PartitionError):  # refusing is allowed, dawdling is not
        apply(cls(), samples, 1000, seed=0)
    assert time.perf_counter() - start < 5


class TestHoldOut:
    @given(k=st.integers(0, 60), fraction=st.floats(0, 1), classes=st.integers(0, 5), seed=st.integers(0, 9))
    def test_splits_and_keeps_order(self, k: int, fraction: float, classes: int, seed: int) -> None:
        indices = np.random.default_rng(seed).permutation(1000)[:k]
        labels = indices % classes if classes else None
        held, rest = hold_out(indices, fraction, np.random.default_rng(seed), labels)
        assert np.array_equal(np.sort(np.concatenate([held, rest])), np.sort(indices))
        assert [i for i in indices if i in set(held)] == held.tolist()
        if k >= 2 and 0 < fraction < 1:
            assert len(held) == min(max(round(fraction * k), 1), k - 1)

    def test_stratified_shares(self) -> None:
        labels = np.repeat(np.arange(3), [50, 30, 20])
        held, _ = hold_out(100, 0.1, np.random.default_rng(0), labels)
        assert np.bincount(labels[held]).tolist() == [5, 3, 2]
        assert len(np.unique(held)) == 10

    def test_chance_comes_from_the_generator(self) -> None:
        first, again, other = (hold_out(100, 0.2, np.random.default_rng(s))[0] for s in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_refusals(self) -> None:
        with pytest.raises(PartitionError, match="between 0 and 1"):
            hold_out(10, 1.5, np.random.default_rng(0))
        with pytest.raises(PartitionError, match="one a sample"):
            hold_out(10, 0.5, np.random.default_rng(0), np.zeros(9, np.int64))

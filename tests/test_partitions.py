"""Every strategy of `partitions/` keeps the contract."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

import partitions
from partitions.by_column import ByColumn
from partitions.composition import Sum
from partitions.contract import Partition, PartitionError, Samples, Strategy, apply, check
from partitions.dirichlet import Dirichlet
from partitions.disjoint import Disjoint
from partitions.holdout import hold_out
from partitions.iid import IID
from partitions.inner_dirichlet import InnerDirichlet
from partitions.label_noise import LabelNoise
from partitions.manifest import Manifest
from partitions.overlap import Overlap
from partitions.pathological import Pathological
from partitions.quantity import Quantity
from partitions.shards import Shards
from partitions.sizes import Sizes
from partitions.split import Split
from simulations.splits import write_manifest


def strategies() -> Iterator[type[Strategy]]:
    """Every strategy that a spec string can name, its file's; a new file is found without an edit here."""
    for module in pkgutil.iter_modules(partitions.__path__, "partitions."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            name = module.name.removeprefix("partitions.").replace("_", "")
            if issubclass(cls, Strategy) and not inspect.isabstract(cls) and cls.__name__.lower() == name:
                yield cls


EVERY = pytest.mark.parametrize("cls", [pytest.param(cls, id=cls.__name__.lower()) for cls in strategies()])


def make(n: int, classes: int, seed: int = 0) -> Samples:
    """`n` samples of classes as equal as can be, in random order, with one further column."""
    labels = np.random.default_rng(seed).permutation(np.arange(n) % classes)
    return Samples(labels, {"client": np.arange(n) % 7})


def kept(folder: Path, n: int, clients: int) -> str:
    """A file that splits `n` samples among clients, a tenth for validation, and gives the last to nobody."""
    order = np.random.default_rng(n).permutation(n - 1 if n > clients else n)
    shards = np.array_split(order, clients)
    split = Split(
        "iid",
        "digits",
        0,
        tuple(shard[len(shard) // 10 :] for shard in shards),
        np.empty(0, np.int64),
        tuple(shard[: len(shard) // 10] for shard in shards),
    )
    write_manifest(folder / "split.json", split)
    return str(folder / "split.json")


def usual(cls: type[Strategy], folder: Path, n: int, clients: int) -> Strategy:
    """The strategy by its defaults, and where it has none, by something usual."""
    if cls is Sizes:
        return Sizes((1 / clients,) * clients)
    return Manifest(kept(folder, n, clients)) if cls is Manifest else cls()


def settings_of(cls: type[Strategy], data: st.DataObject, folder: Path, n: int, clients: int) -> Strategy:
    """The strategy with each parameter at its default or anywhere within its bounds."""
    hints = get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = getattr(cls, "__pydantic_fields__", {})
    # Where what can be met depends on the samples, drawing blindly would nearly always be refused.
    fitting: dict[tuple[type[Strategy], str], st.SearchStrategy[Any]] = {
        (Manifest, "file"): st.builds(lambda: kept(folder, n, clients)),
        (ByColumn, "name"): st.sampled_from(["client", "none"]),
        (LabelNoise, "clients"): st.lists(st.integers(0, clients - 1)).map(tuple),
    }
    for owner in (Sizes, InnerDirichlet):
        most = max(n // clients, 1)
        entries = st.one_of(st.integers(1, most), st.integers(1, n)), st.floats(0.5 / max(n, clients), 1 / clients)
        lists = [st.lists(entry, min_size=clients, max_size=clients).map(tuple) for entry in entries]
        fitting[owner, "sizes"] = st.one_of(*lists)
    values = {}
    for name, field in fields.items():
        drawn = fitting.get((cls, name), st.from_type(hints[name]))
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            # Whole numbers are drawn as large as they get; most samples can meet small ones only.
            least = max((getattr(bound, "ge", 0) for bound in field.metadata), default=0)
            drawn = st.one_of(st.integers(least, least + 3), drawn)
        values[name] = data.draw(drawn if field.is_required() else st.one_of(st.just(field.default), drawn), name)
    return cls(**values)


def tables(partition: Partition, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(clients, classes) counts."""
    return np.stack([np.bincount(labels[c], minlength=labels.max() + 1) for c in partition.clients])


def same(a: Partition, b: Partition) -> bool:
    """Whether two partitions give the same samples, the same functions and the same labels to the same clients."""
    indices = all(np.array_equal(x, y) for x, y in zip(a.clients, b.clients, strict=True))
    labels = (
        np.array_equal(a.labels, b.labels) if a.labels is not None and b.labels is not None else a.labels is b.labels
    )
    return indices and labels and a.transforms == b.transforms


def test_the_walk_finds_strategies_and_nothing_else() -> None:
    found = set(strategies())
    assert {IID, Dirichlet, Pathological, Manifest, ByColumn} <= found
    assert Sum not in found
    assert len({cls.__name__ for cls in found}) == len(found) >= 16


@EVERY
def test_parameters_have_defaults_bounds_and_help(cls: type[Strategy], tmp_path: Path) -> None:
    assert (cls.__doc__ or "").split("\n")[0].endswith("."), "the first line is the description"
    usual(cls, tmp_path, 10, 2)
    for name, field in getattr(cls, "__pydantic_fields__", {}).items():
        assert field.description, f"{name} needs a docstring under it: it is the help text"


@EVERY
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_partition_is_whole_or_refused(
    cls: type[Strategy], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    labels = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=120))
    samples = Samples(np.array(labels, np.int64), {"client": np.arange(len(labels)) % 3})
    clients = data.draw(st.one_of(st.just(1), st.just(len(labels)), st.integers(1, 12)))
    try:
        folder = tmp_path_factory.getbasetemp()
        strategy = settings_of(cls, data, folder, len(labels), clients)
        partition = apply(strategy, samples, clients, seed=data.draw(st.integers(0, 9)))
    except (PartitionError, ValidationError) as error:
        assert len(str(error)) > 20  # noqa: PT017  (refusing is one of the two right outcomes)
        return
    everything = np.concatenate([*partition.clients, partition.dropped])
    assert np.array_equal(np.sort(everything), np.arange(len(labels)))
    assert strategy.allow_empty or min(map(len, partition.clients)) > 0
    assert min(map(len, partition.clients)) >= getattr(strategy, "min_size", 0)
    assert len(partition.clients) == clients


@EVERY
def test_one_client(cls: type[Strategy], tmp_path: Path) -> None:
    partition = apply(usual(cls, tmp_path, 70, 1), make(70, 7), 1, seed=0)
    assert len(partition.clients[0]) > 7


@EVERY
def test_as_many_clients_as_samples(cls: type[Strategy], tmp_path: Path) -> None:
    # Seven samples of seven classes and seven column values: every way to deal them comes to one each.
    one_each: dict[type[Strategy], Strategy] = {
        Pathological: Pathological(1),
        Overlap: Overlap(shared=0),
        Shards: Shards(1),
        Quantity: Quantity("lognormal", sigma=0.01, min_size=1),
        Dirichlet: Dirichlet(100.0, 0),
    }
    partition = apply(one_each.get(cls) or usual(cls, tmp_path, 7, 7), make(7, 7), 7, seed=0)
    if cls is not Dirichlet:  # it cuts each class by itself, and cannot see that a client is left without any
        assert [len(own) for own in partition.clients] == [1] * 7


@EVERY
def test_the_seed_and_nothing_else_decides(cls: type[Strategy], tmp_path: Path) -> None:
    samples, strategy = make(600, 6), usual(cls, tmp_path, 600, 4)
    np.random.seed(1)  # noqa: NPY002  (global state is exactly what must not matter)
    first = apply(strategy, samples, 4, seed=0)
    np.random.seed(2)  # noqa: NPY002
    assert same(first, apply(strategy, samples, 4, seed=0))
    assert same(first, apply(strategy, samples, 4, seed=1)) == (cls is Manifest)


@EVERY
def test_more_clients_than_samples_are_refused(cls: type[Strategy], tmp_path: Path) -> None:
    strategy = usual(cls, tmp_path, 11, 11)
    with pytest.raises(PartitionError, match=r"11 clients cannot share 10 samples"):
        apply(strategy, make(10, 2), 11, seed=0)
    with pytest.raises(PartitionError, match="at least 1"):
        apply(strategy, make(10, 2), 0, seed=0)


@EVERY
def test_transforms_travel_and_keep_bounds(cls: type[Strategy], tmp_path: Path) -> None:
    partition = apply(usual(cls, tmp_path, 600, 4), make(600, 6), 4, seed=0)
    for shape in ((5, 1, 8, 8), (3, 3, 7, 10), (0, 1, 4, 4), (2, 1, 1, 1)):
        images = np.random.default_rng(0).random(shape, np.float32)
        before = images.copy()
        for transform in partition.transforms or ():
            first = transform(images, np.random.default_rng(1))
            again = pickle.loads(pickle.dumps(transform))(images, np.random.default_rng(1))
            assert first.dtype == np.float32
            assert first.shape == shape
            assert np.array_equal(first, again)
            assert np.array_equal(images, before)
            assert not np.shares_memory(first, images)
            assert first.min(initial=0) >= 0
            assert first.max(initial=1) <= 1


@EVERY
def test_local_tests_are_as_the_client_s_own_data(cls: type[Strategy], tmp_path: Path) -> None:
    samples, test = make(6000, 6), make(900, 6, seed=1)
    strategy = usual(cls, tmp_path, 6000, 4)
    partition = apply(strategy, samples, 4, seed=0)
    local = strategy.local_test(partition, samples, test, np.random.default_rng(0))
    everything = np.concatenate([*local.clients, local.dropped])
    assert np.array_equal(np.sort(everything), np.arange(900))
    own, theirs = tables(partition, samples.labels), tables(local, test.labels)
    if cls is not ByColumn:
        held = own.sum(axis=0)
        factor = min(150 / held[held > 0])
        assert np.abs(theirs - factor * own).max() < 1
        # A client's total strays no further than a sample or two, however many classes were rounded.
        assert np.abs((theirs - factor * own).sum(axis=1)).max() < 2
    else:
        assert np.abs(theirs / theirs.sum(axis=1, keepdims=True) - 1 / 6).max() < 0.1


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


@EVERY
def test_a_thousand_clients_take_seconds(cls: type[Strategy], tmp_path: Path) -> None:
    pytest.importorskip("flwr_datasets.partitioner")  # its import is not what is measured
    n, clients = 60_000, 1000
    # Two give each client classes of its own.
    samples = make(n, 1500 if cls in (Disjoint, Overlap) else 10)
    samples = Samples(samples.labels, {"client": np.arange(n) % 1400})
    able = {Quantity: Quantity("dirichlet", alpha=10.0), Overlap: Overlap(shared=0)}
    strategy = able.get(cls) or usual(cls, tmp_path, n, clients)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    partition = apply(strategy, samples, clients, seed=0)
    assert time.process_time() - start < 5
    start = time.process_time()
    strategy.local_test(partition, samples, samples.some(np.arange(10_000)), np.random.default_rng(0))
    assert time.process_time() - start < 5
    # In KiB: what this took beyond all that was ever taken before.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20


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

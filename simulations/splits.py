"""Which client has which sample: data set × partition × transfer set → one split, the content of a manifest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from fedkd.base.catalogue import Catalogue
from fedkd.base.disk import cached, write_whole
from fedkd.base.errors import UserError
from fedkd.base.files import content_hash, file_cache, located
from fedkd.base.spec import own_code, parse, specs_in, terms
from fedkd.data import Dataset, cache_root, load
from fedkd.settings.federation import Federation
from partitions.composition import Skew, Sum, Thinning, composed
from partitions.contract import Partition, PartitionError, Samples, Strategy, apply, stream
from partitions.holdout import hold_out
from partitions.manifest import Manifest
from partitions.measures import skew
from partitions.split import Split
from simulations.transfer import check_labels, hold_transfer, transfer_set

PARTITIONS: Catalogue[Strategy] = Catalogue("partition", "partitions", Strategy)  # type: ignore[type-abstract]
SCHEMA = 3
"""Increase it when the same settings give another split."""
VALIDATION = 0.1
"""Share of each client's shard that is used for validation."""


def partition_strategy(text: str) -> Strategy:
    """The strategy that a recipe's `partition` names: one, or a sum of several.

    Raises:
        UserError: an unknown name or parameter, or terms that cannot be added.
    """
    parts = terms(text, "+")
    try:
        return composed([_located(PARTITIONS.build(part)) for part in parts], parts)
    except PartitionError as error:
        raise UserError(f"partition {text}: {error}") from error


def _located(strategy: Strategy) -> Strategy:
    """The strategy with the full path of its file, if it is a manifest."""
    return replace(strategy, file=str(located(strategy.file))) if isinstance(strategy, Manifest) else strategy


def partition_files(text: str) -> dict[str, str]:
    """Hash of every file that a partition names: Python files of the user's own, and manifests.

    Raises:
        UserError: a file cannot be read.
    """
    manifests = [str(spec.arguments.get("file", "")) for spec in specs_in(text) if spec.name == "manifest"]
    return own_code(text) | {file: content_hash(located(file)) for file in manifests}


def make_split(federation: Federation, dataset: Dataset) -> Split:
    """Split a data set: first the transfer set, then the clients' shards, their validation samples and local tests.

    Raises:
        UserError: the partition cannot be made; the message says why.
    """
    try:
        check_labels(federation.transfer, dataset)
        strategy = partition_strategy(federation.partition)
        parts = _parts(strategy)
        if any(isinstance(part, Skew) for part in parts):
            _check_images(dataset)
        for part in parts:
            if isinstance(part, Manifest):
                if any(isinstance(other, Thinning) for other in parts):
                    raise PartitionError("a manifest says who holds what; terms that thin out cannot be added to it")
                return _split_of_file(part, federation, dataset)
        return _new_split(strategy, federation, dataset)
    except PartitionError as error:
        raise UserError(f"partition {federation.partition}: {error}") from error


def _new_split(strategy: Strategy, federation: Federation, dataset: Dataset) -> Split:
    public = transfer_set(federation.transfer)
    held = hold_transfer(public, dataset, federation.seed)
    training, test = (_samples(dataset, part) for part in ("train", "test"))
    common, rest = np.empty(0, np.int64), held.rest
    if federation.val == "common":
        common, rest = hold_out(rest, VALIDATION, stream(federation.seed, "val"), training.labels[rest])
    samples = training.some(rest)
    partition = apply(strategy, samples, federation.clients, federation.seed)
    if partition.transforms is not None or partition.labels is not None:
        _check_images(dataset)
    local = strategy.local_test(partition, samples, test, stream(federation.seed, "local_test"))
    train, val = [], []
    for client, shard in enumerate(partition.clients):
        share = VALIDATION if federation.val == "local" else 0.0
        validating, learning = hold_out(rest[shard], share, stream(federation.seed, f"val/{client}"))
        if share and not len(validating):
            raise PartitionError(
                f"client {client} holds {len(shard)} samples; at least 2 are needed, one to train on and one to "
                "validate; use fewer clients, a milder skew or a larger min_size"
            )
        train.append(learning)
        val.append(validating)
    counts = np.stack([np.bincount(training.labels[shard], minlength=len(dataset.classes)) for shard in train])
    return Split(
        federation.partition,
        federation.dataset,
        federation.seed,
        tuple(train),
        held.transfer,
        common if federation.val == "common" else tuple(val),
        np.concatenate([rest[partition.dropped], held.unused]),
        local.clients,
        public.source if public else "",
        skew(counts),
    ).checked(len(training), len(test))


def _split_of_file(strategy: Manifest, federation: Federation, dataset: Dataset) -> Split:
    """The split that a manifest holds, with its transfer set."""
    split = strategy.read(federation.dataset, len(dataset.train), len(dataset.test), federation.clients)
    public = transfer_set(federation.transfer)
    asked = len(hold_transfer(public, dataset, federation.seed).transfer)
    source = public.source if public else ""
    if (split.transfer_dataset, len(split.transfer)) != (source, asked):
        raise PartitionError(
            f"the file holds a transfer set of {len(split.transfer)} samples of "
            f"{split.transfer_dataset or split.dataset}, but transfer = {federation.transfer!r} asks for {asked} of "
            f"{source or federation.dataset}; ask for the one in the file"
        )
    if isinstance(split.val, tuple) is (federation.val == "common"):
        there = "one a client" if federation.val == "common" else "one for all"
        raise PartitionError(f"val = {federation.val!r}, but the file has validation samples {there}")
    if federation.val == "none" and any(map(len, split.val)):
        raise PartitionError('val = "none", but the file has validation samples one a client; use val = "local"')
    return split


def split_of(federation: Federation) -> Split:
    """The split of a federation's data set: made once, then read from the cache by every process.

    Raises:
        UserError: see `make_split`; or the samples are text, and batches of it were to be augmented.
    """
    for table, settings in (("pretrain", federation.pretrain), ("train", federation.train)):
        if settings.augment and load(federation.dataset).vocabulary:
            raise UserError(
                f"{table}.augment = {settings.augment!r} changes images, but {federation.dataset} is text; leave it out"
            )
    return _cached_split(*split_key(federation))


SplitKey = tuple[str, str, int, int, str, Literal["local", "common", "none"]]


def split_key(federation: Federation) -> SplitKey:
    """All that a split depends on: data set, partition, seed, clients, transfer set, validation."""
    return (
        federation.dataset,
        federation.partition,
        federation.seed,
        federation.clients,
        federation.transfer,
        federation.val,
    )


@file_cache(maxsize=64)
def _cached_split(
    dataset: str, partition: str, seed: int, clients: int, transfer: str, val: Literal["local", "common", "none"]
) -> Split:
    source, public = load(dataset), transfer_set(transfer)
    identity = [
        SCHEMA,
        np.__version__,
        dataset,
        source.fingerprint,
        partition,
        clients,
        seed,
        transfer,
        VALIDATION,
        val,
    ]
    identity += [load(public.source).fingerprint] if public and public.source else []
    identity += sorted(partition_files(partition).items())
    path = cache_root() / "partitions" / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:40]}.json"
    federation = Federation(
        "local", dataset=dataset, partition=partition, clients=clients, seed=seed, transfer=transfer, val=val
    )
    return cached(path, lambda: make_split(federation, source), write_manifest, _read)


def write_manifest(path: Path, split: Split) -> None:
    """Write a split as a JSON file, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    write_whole(path, split.to_json().encode())


def _read(path: Path) -> Split | None:
    try:
        return Split.load(path)
    except PartitionError:
        return None  # missing or damaged


@file_cache(maxsize=8)
def altered(
    dataset: str, partition: str, seed: int, clients: int, transfer: str, val: Literal["local", "common", "none"]
) -> Partition | None:
    """Changes of the partition to the clients' samples: transforms, and labels by position in the training array.

    None if it changes nothing. The training and the validation samples of a client are changed as one shard.
    """
    strategy = partition_strategy(partition)
    source, split = load(dataset), _cached_split(dataset, partition, seed, clients, transfer, val)
    training = _samples(source, "train")
    shards = split.clients
    if isinstance(split.val, tuple):
        shards = tuple(np.concatenate(parts) for parts in zip(shards, split.val, strict=True))
    whole = Partition(shards)
    if any(parse(part).file for part in terms(partition, "+")):
        # A strategy from a user's file may change samples while it distributes them.
        rest = np.sort(np.concatenate([*shards, split.dropped]))
        applied = apply(strategy, training.some(rest), clients, seed)
        labels = training.labels.copy()
        if applied.labels is not None:
            labels[rest] = applied.labels
        whole = Partition(shards, transforms=applied.transforms, labels=None if applied.labels is None else labels)
    else:
        for part in _parts(strategy):
            if isinstance(part, Skew):
                whole = part.alter(whole, training, stream(seed, "skew"))
    return None if whole.transforms is None and whole.labels is None else whole


def _check_images(dataset: Dataset) -> None:
    """Raise PartitionError if samples are text: they have no pixels and no class labels that could be changed."""
    if dataset.vocabulary:
        raise PartitionError(
            f"it changes images or their labels, but {dataset.name} is text, each token of which is the label of those "
            "before it; text can be dealt by domain: dirichlet, pathological, by_column(name='domain')"
        )


def _parts(strategy: Strategy) -> tuple[Strategy, ...]:
    return strategy.parts if isinstance(strategy, Sum) else (strategy,)


def _samples(dataset: Dataset, part: str) -> Samples:
    """Labels and columns of the training or the test array, which a strategy may read."""
    index = dataset.train if part == "train" else dataset.test
    columns = {name: column[index.numpy()] for name, column in dataset.columns.items()}
    return Samples(dataset.labels[index].numpy(), columns)

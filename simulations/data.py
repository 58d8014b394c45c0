"""Who holds what: data set × partition × transfer set → one manifest, and each participant's holdings."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from fedkd.data import Dataset, cache_root, load
from fedkd.errors import UserError
from fedkd.federation import Federation
from fedkd.holdings import Holdings
from fedkd.node import SERVER, Data
from fedkd.spec import STRICT, Catalogue, parse, terms
from fedkd.store import alone
from partitions.composition import composed
from partitions.contract import Indices, PartitionError, Samples, Strategy, apply, stream
from partitions.holdout import hold_out
from partitions.manifest import Manifest

PARTITIONS: Catalogue[Strategy] = Catalogue("partition", "partitions", Strategy)  # type: ignore[type-abstract]
SCHEMA = 1
"""Raise when the same settings would give another split."""
VALIDATION = 0.1
"""Share of each client's shard that is kept for validation."""


@dataclass(frozen=True, config=STRICT)
class Public:
    """A transfer set that is held out before partitioning and known to all."""

    fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.2
    """share of the training data"""
    labelled: bool = False
    """give its labels to every method, local included"""


def partition_strategy(text: str) -> Strategy:
    """The strategy that a recipe's `partition` names: one, or a sum of several.

    Raises:
        UserError: an unknown name or parameter, or terms that cannot be added.
    """
    parts = terms(text, "+")
    try:
        return composed([PARTITIONS.build(part) for part in parts], parts)
    except PartitionError as error:
        raise UserError(f"partition {text}: {error}") from error


def own_files(text: str) -> list[Path]:
    """The user's own Python files that a spec string or a sum of them names."""
    files = (parse(part).file for part in terms(text, "+"))
    return [Path(file).expanduser() for file in files if file]


def transfer_set(text: str) -> Public:
    """The transfer set that a recipe's `transfer` names.

    Raises:
        UserError: it is not `public(fraction=…, labelled=…)`.
    """
    spec = parse(text)
    form = 'it should be "public(fraction=0.2)" or "public(fraction=0.2, labelled=true)"'
    if spec.name != "public" or spec.file:
        raise UserError(f"transfer = {text!r} is unknown; {form}")
    try:
        return Public(**spec.arguments)
    except (ValidationError, TypeError) as error:
        problem = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UserError(f"transfer = {text!r}: {problem[0].lower()}{problem[1:]}; {form}") from error


def deal(federation: Federation, dataset: Dataset) -> Manifest:
    """Deal a data set's training array: transfer set first, then the clients' shards, then validation out of each.

    Raises:
        UserError: the partition cannot be made; the message says why.
    """
    labels = dataset.labels[dataset.train].numpy()
    transfer, rest = _public_and_rest(dataset, federation.seed, federation.transfer)
    columns = {name: column[dataset.train.numpy()] for name, column in dataset.columns.items()}
    strategy = partition_strategy(federation.partition)
    samples = Samples(labels, columns).some(rest)
    try:
        partition = apply(strategy, samples, federation.clients, federation.seed)
    except PartitionError as error:
        raise UserError(f"partition {federation.partition}: {error}") from error
    train, val = [], []
    for client, shard in enumerate(partition.clients):
        held, kept = hold_out(rest[shard], VALIDATION, stream(federation.seed, f"val/{client}"))
        if not len(held):
            raise UserError(
                f"partition {federation.partition}: client {client} holds {len(shard)} samples; at least 2 are needed, "
                "one to train on and one to validate; use fewer clients, a milder skew or a larger min_size"
            )
        train.append(kept)
        val.append(held)
    return Manifest(
        federation.partition,
        federation.dataset,
        federation.seed,
        tuple(train),
        transfer,
        tuple(val),
        rest[partition.dropped],
    ).checked(len(labels))


def _public_and_rest(dataset: Dataset, seed: int, transfer: str) -> tuple[Indices, Indices]:
    """Positions of the transfer set in the training array, stratified by class, and all others."""
    labels = dataset.labels[dataset.train].numpy()
    return hold_out(len(labels), transfer_set(transfer).fraction, stream(seed, "transfer"), labels)


def manifest(federation: Federation) -> Manifest:
    """The manifest of a federation: dealt once, then read from the cache by every process.

    Raises:
        UserError: see `deal`.
    """
    return _kept(federation.dataset, federation.partition, federation.clients, federation.seed, federation.transfer)


@lru_cache(maxsize=64)
def _kept(dataset: str, partition: str, clients: int, seed: int, transfer: str) -> Manifest:
    source = load(dataset)
    identity = [SCHEMA, np.__version__, source.fingerprint, partition, clients, seed, transfer, VALIDATION]
    identity += [hashlib.sha256(file.read_bytes()).hexdigest() for file in own_files(partition)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    path = cache_root() / "partitions" / f"{digest[:40]}.json"
    with alone(path):
        if path.is_file():
            try:
                return Manifest.load(path)
            except PartitionError:
                path.unlink()  # damaged: dealt anew
        federation = Federation(
            "local", dataset=dataset, partition=partition, clients=clients, seed=seed, transfer=transfer
        )
        dealt = deal(federation, source)
        dealt.save(path)
        return dealt


def load_holdings(federation: Federation, client: int) -> Holdings:
    """What one client, or the server, has on its disk: the `Loader` of every engine."""
    labelled = transfer_set(federation.transfer).labelled
    transfer = _transfer(federation.dataset, federation.seed, federation.transfer)
    public = Data(transfer.x, transfer.y if labelled else None)
    source = load(federation.dataset)
    if client == SERVER:
        return Holdings(source.shape, len(source.classes), None, None, public)
    split = manifest(federation)
    assert isinstance(split.val, tuple)
    data, val = (_SHARDS.get(source, positions) for positions in (split.clients[client], split.val[client]))
    judged = {"val": val, "transfer": transfer, "test": _test(federation.dataset)}
    return Holdings(source.shape, len(source.classes), data, val, public, judged)


@lru_cache(maxsize=2)
def _transfer(dataset: str, seed: int, transfer: str) -> Data:
    """The transfer set with its labels, as judging sees it; in memory once a process."""
    source = load(dataset)
    return _take(source, _public_and_rest(source, seed, transfer)[0])


@lru_cache(maxsize=1)
def _test(dataset: str) -> Data:
    """The common test set; in memory once a process."""
    source = load(dataset)
    return Data(source.pixels(source.test), source.labels[source.test])


class _Shards:
    """The clients' own samples that this process used last, up to a limit in bytes."""

    LIMIT = 256 * 2**20

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], tuple[Indices, Data]] = OrderedDict()
        self._bytes = 0
        self._turn = threading.Lock()

    def get(self, source: Dataset, positions: Indices) -> Data:
        """The samples at some positions of the training array."""
        # The positions are kept with the samples: while they live, no other array has their id.
        key = (source.fingerprint, id(positions))
        with self._turn:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][1]
        data = _take(source, positions)
        with self._turn:
            if key not in self._kept:
                self._kept[key] = positions, data
                self._bytes += data.x.nbytes
            while self._bytes > self.LIMIT:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._bytes -= dropped.x.nbytes
        return data


_SHARDS = _Shards()


def _take(source: Dataset, positions: Indices) -> Data:
    index = source.train[torch.from_numpy(positions)]
    return Data(source.pixels(index), source.labels[index])

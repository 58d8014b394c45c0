"""The data of each participant: its shares of the data set as tensors, each loaded once in a process."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch

from fedkd.base.files import file_cache
from fedkd.data import Dataset, load
from fedkd.node.holdings import Holdings, Some
from fedkd.node.node import SERVER
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.tensors.samples import Data, rows_of
from partitions.contract import Indices, stream
from partitions.holdout import hold_out
from partitions.split import Split
from simulations.splits import altered, split_key, split_of
from simulations.transfer import labelled, transfer_data


def load_holdings(federation: Federation, client: int) -> Holdings:
    """The data of one client or of the server. This is the `Loader` of every engine."""
    source, held = load(federation.dataset), transfer_data(federation.dataset, federation.transfer, federation.seed)
    transfer, ours = held or (None, False)
    known = labelled(federation.transfer)
    public = transfer and Data(transfer.x, transfer.y if known else None)
    split, evaluate = split_of(federation), federation.evaluate
    pools = schedule_of(federation).method.pools
    whose = range(federation.clients) if client == SERVER or pools else (client,)

    def part(name: str) -> Data:
        return _union([_part(federation, source, split, each, name) for each in whose])

    train = None if client == SERVER else part("train")
    common = None if isinstance(split.val, tuple) else _common(federation, source, split)
    val = common if client == SERVER else None if common else part("val")
    splits: dict[str, Callable[[], Data]] = {
        "val": lambda: val or common or part("val"),
        "test": lambda: _test(federation.dataset),
        "local_test": lambda: part("local_test"),
    }
    wanted = [name for name in splits if name in evaluate.on and (client != SERVER or name in _of_server(federation))]
    evaluation = {"transfer": transfer} if transfer and ours else {}
    evaluation |= {name: splits[name]() for name in wanted}
    return Holdings(
        source.shape,
        len(source.outputs),
        train,
        val,
        public,
        evaluation,
        source.token_bytes,
        main=evaluate.main,
        some=_some(federation.dataset, evaluate.samples, federation.seed) if "test" in evaluation else None,
    )


def _of_server(federation: Federation) -> set[str]:
    """The splits on which the server evaluates a model of its own; a common validation set is scored by it alone.

    A common model is evaluated on the samples of all clients together, as if each client reported scores.
    """
    schedule = schedule_of(federation)
    if "server" not in federation.evaluate.of:
        return set()
    if schedule.method.has_global_model or schedule.consolidation:
        return {"test", "val", federation.evaluate.main}
    return {"test", "val"} if federation.val == "common" else {"test"}


def _part(federation: Federation, source: Dataset, split: Split, client: int, part: str) -> Data:
    """One client's share of one part, loaded once in a process."""
    indices = {"train": split.clients, "val": split.val, "local_test": split.local_test}[part]
    index = indices[client] if isinstance(indices, tuple) else np.empty(0, np.int64)
    name = (f"{source.fingerprint} {split.sha256}", f"{federation.partition} {federation.seed}", client, part)
    return _SHARDS.get(name, lambda: _samples_of(federation, source, client, part, index))


def _union(parts: list[Data]) -> Data:
    if len(parts) == 1:
        return parts[0]
    return Data(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts if part.y is not None]))


def _common(federation: Federation, source: Dataset, split: Split) -> Data:
    """The validation set of the server, loaded once in a process."""
    assert not isinstance(split.val, tuple)
    index = source.train[torch.from_numpy(split.val)]
    name = (f"{source.fingerprint} {split.sha256}", federation.partition, SERVER, "val")
    return _SHARDS.get(name, lambda: Data(*source.pairs(index)))


def _samples_of(federation: Federation, source: Dataset, client: int, part: str, index: Indices) -> Data:
    """A client's samples at some positions of the training array (`local_test`: the test array), after its changes."""
    rows = (source.test if part == "local_test" else source.train)[torch.from_numpy(index)]
    x, y = source.pairs(rows)
    changed = altered(*split_key(federation))
    if changed is not None and changed.labels is not None and part != "local_test":
        y = torch.from_numpy(changed.labels[index])
    if changed is not None and changed.transforms is not None and len(x):
        x = torch.from_numpy(changed.transforms[client](x.numpy(), stream(federation.seed, f"skew/{part}/{client}")))
    return Data(x, y)


@file_cache(maxsize=1)
def _test(dataset: str) -> Data:
    """The common test set."""
    source = load(dataset)
    return Data(*source.pairs(source.test))


@file_cache(maxsize=4)
def _some(dataset: str, samples: int, seed: int) -> Some | None:
    """Some samples of the common test set, of each class its share; None: all are asked for."""
    source = load(dataset)
    if not 0 < samples < len(source.test):
        return None
    labels = source.labels[source.test].numpy()
    index, _ = hold_out(len(labels), samples / len(labels), stream(seed, "evaluate"), labels)
    whole, chosen = _test(dataset), torch.from_numpy(index)
    assert whole.y is not None
    rows = rows_of(torch.arange(len(whole.y)), chosen, len(whole))
    return Some(Data(whole.x[chosen], whole.y[rows]), rows)


_Key = tuple[str, str, int, str]
"""Data set and split, partition and seed, client, part."""


class _Shards:
    """A cache of the clients' samples that this process used last, up to a limit in bytes."""

    def __init__(self) -> None:
        # Every core may have a worker with a cache of its own, and all together use an eighth of the memory at most.
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.limit = memory // (8 * (os.cpu_count() or 1))
        self._held: OrderedDict[_Key, Data] = OrderedDict()
        self._bytes = 0
        self._turn = threading.Lock()

    def get(self, key: _Key, make: Callable[[], Data]) -> Data:
        """The samples under a key; `make` is called if they are not in the cache."""
        with self._turn:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        data = make()
        with self._turn:
            if key not in self._held:
                self._held[key] = data
                self._bytes += _size(data)
            while self._bytes > self.limit:
                _, dropped = self._held.popitem(last=False)
                self._bytes -= _size(dropped)
        return data


def _size(data: Data) -> int:
    """Bytes in memory: labels are as large as the samples where these are text."""
    return data.x.nbytes + (0 if data.y is None else data.y.nbytes)


_SHARDS = _Shards()

"""What each participant has on its disk: its shares of the data set, as tensors, each in memory once a process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

import torch

from fedkd.data import Dataset, load
from fedkd.federation import Federation
from fedkd.holdings import Holdings
from fedkd.node import SERVER, Data
from partitions.contract import Indices, stream
from simulations.splits import altered, manifest
from simulations.transfer import transfer_data, transfer_set


def load_holdings(federation: Federation, client: int) -> Holdings:
    """What one client, or the server, has on its disk: the `Loader` of every engine."""
    transfer, ours = transfer_data(federation.dataset, federation.transfer, federation.seed)
    public = Data(transfer.x, transfer.y if transfer_set(federation.transfer).labelled else None)
    source = load(federation.dataset)
    if client == SERVER:
        return Holdings(source.shape, len(source.classes), None, None, public)
    split = manifest(federation)
    assert isinstance(split.val, tuple)
    parts = {"train": split.clients[client], "val": split.val[client], "local_test": split.local_test[client]}
    own = {
        name: _SHARDS.get(
            (f"{source.fingerprint} {split.sha256}", f"{federation.partition} {federation.seed}", client, name),
            lambda name=name, index=index: _own(federation, source, client, name, index),  # type: ignore[misc]
        )
        for name, index in parts.items()
    }
    judged = {"val": own["val"], "test": _test(federation.dataset), "local_test": own["local_test"]}
    if ours:
        judged = {"transfer": transfer, **judged}
    return Holdings(source.shape, len(source.classes), own["train"], own["val"], public, judged)


def _own(federation: Federation, source: Dataset, client: int, part: str, index: Indices) -> Data:
    """A client's samples at some positions of the training or, for `local_test`, the test array, as it sees them."""
    places = (source.test if part == "local_test" else source.train)[torch.from_numpy(index)]
    x, y = source.pixels(places), source.labels[places]
    changed = altered(
        federation.dataset, federation.partition, federation.clients, federation.seed, federation.transfer
    )
    if changed is not None and changed.labels is not None and part != "local_test":
        y = torch.from_numpy(changed.labels[index])
    if changed is not None and changed.transforms is not None and len(x):
        x = torch.from_numpy(changed.transforms[client](x.numpy(), stream(federation.seed, f"skew/{part}/{client}")))
    return Data(x, y)


@lru_cache(maxsize=1)
def _test(dataset: str) -> Data:
    """The common test set."""
    source = load(dataset)
    return Data(source.pixels(source.test), source.labels[source.test])


_Key = tuple[str, str, int, str]
"""Data set and deal, partition and seed, client, part."""


class _Shards:
    """The clients' own samples that this process used last, up to a limit in bytes."""

    LIMIT = 256 * 2**20

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, Data] = OrderedDict()
        self._bytes = 0
        self._turn = threading.Lock()

    def get(self, key: _Key, make: Callable[[], Data]) -> Data:
        """The samples under a key, made where they are not there."""
        with self._turn:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        data = make()
        with self._turn:
            if key not in self._kept:
                self._kept[key] = data
                self._bytes += data.x.nbytes
            while self._bytes > self.LIMIT:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.x.nbytes
        return data


_SHARDS = _Shards()

"""The file of a partition: the indices of each client's samples, and a hash of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partitions.partition import Indices, PartitionError, misplaced

KEYS = (
    "strategy",
    "dataset",
    "seed",
    "sha256",
    "clients",
    "transfer",
    "transfer_dataset",
    "val",
    "dropped",
    "local_test",
    "measures",
)
"""Keys of the file, in the order in which they are written."""
TEXTS = ("strategy", "dataset", "sha256", "transfer_dataset")
"""Keys whose value is a string."""


@dataclass(frozen=True, eq=False)
class Split:
    """One partition of one data set: disjoint positions in its training array, and in its test array."""

    strategy: str
    """Spec string of the strategy."""

    dataset: str
    """Source string of the data set."""

    seed: int
    """Seed of the partition."""

    clients: tuple[Indices, ...]
    """One (n_i,) array of private training positions a client."""

    transfer: Indices
    """(t,) positions of the transfer set, known to all; disjoint from the rest if it is of the same data set."""

    val: tuple[Indices, ...] | Indices
    """One (v_i,) array a client where validation is local, a flat (v,) array where the server holds it."""

    dropped: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    """(d,) positions that belong to nobody."""

    local_test: tuple[Indices, ...] = ()
    """One (l_i,) array of positions in the *test* array a client; empty: there are no local tests."""

    transfer_dataset: str = ""
    """Source string of the data set that `transfer` points into; "": the data set that is split."""

    measures: Mapping[str, Any] = field(default_factory=dict)
    """How skewed the partition is, as a JSON object; see `measures.skew`."""

    @cached_property
    def sha256(self) -> str:
        """Hash of every field, order within arrays included; independent of how the file is laid out.

        Raises PartitionError where `measures` is not JSON.
        """
        head = [self.strategy, self.dataset, self.seed, self.transfer_dataset, dict(self.measures)]
        try:
            digest = hashlib.sha256(json.dumps(head, sort_keys=True, allow_nan=False).encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise PartitionError(f"measures must be a JSON object of finite numbers ({error})") from error
        for name, indices in (*self._training(), ("transfer", self.transfer), *self._testing()):
            digest.update(f"|{name} {len(indices)}|".encode())
            digest.update(np.ascontiguousarray(indices, "<i8").tobytes())
        return digest.hexdigest()

    def _training(self) -> Iterator[tuple[str, Indices]]:
        yield from ((f"clients[{i}]", indices) for i, indices in enumerate(self.clients))
        if isinstance(self.val, tuple):
            yield from ((f"val[{i}]", indices) for i, indices in enumerate(self.val))
        else:
            yield "val", self.val
        yield "dropped", self.dropped

    def _testing(self) -> Iterator[tuple[str, Indices]]:
        yield from ((f"local_test[{i}]", indices) for i, indices in enumerate(self.local_test))

    def checked(self, n: int | None = None, n_test: int | None = None) -> Split:
        """This split, after a check that its indices into the training array, and into the test array, are disjoint.

        They must lie in range(n) and range(n_test), the lengths of the two arrays. Without a length, the upper bound is
        not checked. A transfer set of another data set is checked by itself.
        Raises PartitionError, naming the two lists that hold the same index, or the index out of range.
        """
        lists = {"local_test": self.local_test} if self.local_test else {}
        if isinstance(self.val, tuple):
            lists["val"] = self.val
        for key, parts in lists.items():
            if len(parts) != len(self.clients):
                raise PartitionError(
                    f"{key} has {len(parts)} lists for {len(self.clients)} clients; one each is needed"
                )
        transfer = [("transfer", self.transfer)]
        alone = bool(self.transfer_dataset)
        # The order is that of the keys: a message names first what comes first in the file.
        training = [*self._training()]
        at = len(self.clients)
        in_data_set = training if alone else [*training[:at], *transfer, *training[at:]]
        fault = misplaced(in_data_set, n) or misplaced(self._testing(), n_test) or (alone and misplaced(transfer, None))
        if fault:
            raise PartitionError(fault)
        return self

    def counts(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """(clients, classes) private samples of each class, from the (n,) labels of the training array."""
        return np.stack([np.bincount(labels[indices], minlength=classes) for indices in self.clients])

    def to_json(self) -> str:
        """The content of a manifest; PartitionError where the parts overlap."""
        self.checked()
        val = [part.tolist() for part in self.val] if isinstance(self.val, tuple) else self.val.tolist()
        clients = [part.tolist() for part in self.clients]
        local_test = [part.tolist() for part in self.local_test]
        values = [self.strategy, self.dataset, self.seed, self.sha256, clients]
        values += [self.transfer.tolist(), self.transfer_dataset, val, self.dropped.tolist()]
        values += [local_test, dict(self.measures)]
        return json.dumps(dict(zip(KEYS, values, strict=True))) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Split:
        """Read a manifest and check its hash.

        Raises PartitionError, naming the file and the key, on a missing or torn file, wrong keys or types,
        indices that overlap, and contents that do not match `sha256`.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PartitionError(f"{path}: the manifest cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise PartitionError(f"{path}: not JSON ({error})") from error
        try:
            return _parse(content)
        except PartitionError as error:
            raise PartitionError(f"{path}: {error}") from error


def _parse(content: Any) -> Split:
    if not isinstance(content, dict):
        raise PartitionError(f"a manifest is a JSON object with {', '.join(KEYS)}, not {_kind(content)}")
    if wrong := sorted(set(content) ^ set(KEYS)):
        state = "is missing" if wrong[0] in KEYS else "is unknown"
        raise PartitionError(f"key {wrong[0]!r} {state}; a manifest has {', '.join(KEYS)}")
    for key in TEXTS:
        if not isinstance(content[key], str):
            raise PartitionError(f"{key} must be a string, not {_kind(content[key])}")
    if type(content["seed"]) is not int:
        raise PartitionError(f"seed must be an integer, not {_kind(content['seed'])}")
    clients = _lists("clients", content["clients"])
    if not clients:
        raise PartitionError("clients is empty; at least one list of indices is needed")
    if not isinstance(content["measures"], dict):
        raise PartitionError(f"measures must be an object, not {_kind(content['measures'])}")
    val = content["val"]
    local = isinstance(val, list) and any(isinstance(part, list) for part in val)
    split = Split(
        content["strategy"],
        content["dataset"],
        content["seed"],
        clients,
        _indices("transfer", content["transfer"]),
        _lists("val", val) if local else _indices("val", val),
        _indices("dropped", content["dropped"]),
        _lists("local_test", content["local_test"]),
        content["transfer_dataset"],
        content["measures"],
    ).checked()
    if split.sha256 != content["sha256"]:
        raise PartitionError(
            f"sha256 is {content['sha256']!r}, but the contents hash to {split.sha256!r}: "
            f"the file was changed after it was written; make it again with `fedkd partition`"
        )
    return split


def _lists(key: str, value: Any) -> tuple[Indices, ...]:
    if not isinstance(value, list):
        raise PartitionError(f"{key} must be a list of lists of indices, not {_kind(value)}")
    return tuple(_indices(f"{key}[{i}]", part) for i, part in enumerate(value))


def _indices(key: str, value: Any) -> Indices:
    if not isinstance(value, list):
        raise PartitionError(f"{key} must be a list of indices, not {_kind(value)}")
    # A bool is an int to Python, and numpy would round a float: neither is an index.
    for index in value:
        if type(index) is not int:
            raise PartitionError(f"{key} holds {json.dumps(index)[:40]}; indices must be integers")
    try:
        return np.array(value, np.int64)
    except OverflowError:
        raise PartitionError(f"{key} holds an index beyond 64 bits") from None


def _kind(value: Any) -> str:
    """What a JSON value is called in JSON."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"the number {value}")

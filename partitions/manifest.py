"""A partition that is read from a file."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

import numpy as np
from pydantic.dataclasses import dataclass

from partitions.contract import STRICT, Partition, PartitionError, Samples, Strategy
from partitions.split import Split


@dataclass(frozen=True, config=STRICT)
class Manifest(Strategy):
    """The split in a file, as `fedkd partition --out FILE.json` writes it: every sample goes to its owner there.

    A client's own and its validation samples are its own again. What the file gives to no client is dropped.
    Transforms and false labels are not in the file: add their terms again.
    """

    file: str
    """path of the JSON file"""

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Give each sample to the client that the file names for its index in the training array; nothing is random."""
        del rng
        split = self._load(clients)
        positions = np.arange(len(samples)) if samples.positions is None else samples.positions
        index_of = np.full(1 + positions.max(initial=-1), -1)
        index_of[positions] = np.arange(len(samples))
        val = split.val if isinstance(split.val, tuple) else (np.empty(0, np.int64),) * clients
        shards = []
        for client, listed in enumerate(map(np.concatenate, zip(split.clients, val, strict=True))):
            known = index_of[listed[listed < len(index_of)]]
            shards.append(known[known >= 0])
            if not len(shards[-1]):
                raise PartitionError(
                    f"file={self.file!r}: of the {len(samples)} samples that are to be dealt, the file gives none to "
                    f"client {client}; use the data set, transfer set and seed that it was made with"
                )
        return Partition(tuple(shards), np.setdiff1d(np.arange(len(samples)), np.concatenate(shards)))

    def read(self, dataset: str, n: int, n_test: int, clients: int) -> Split:
        """The whole split of the file, transfer set and local tests included, for a data set and so many clients.

        `n` and `n_test` are the lengths of the training and the test array. Two data sets are the same if their
        source strings are equal, apart from the folder of a file.
        Raises PartitionError where the file cannot be read, is not whole, or was made for something else.
        """
        split = self._load(clients)
        if _moved(split.dataset) != _moved(dataset):
            raise PartitionError(
                f"file={self.file!r} splits the data set {split.dataset!r}, not {dataset!r}; use it with its own"
            )
        try:
            return split.checked(n, n_test)
        except PartitionError as error:
            raise PartitionError(
                f"file={self.file!r} does not fit {dataset!r} with its {n} training and {n_test} test samples: {error}"
            ) from error

    def _load(self, clients: int) -> Split:
        split = Split.load(Path(self.file).expanduser())
        if len(split.clients) != clients:
            raise PartitionError(
                f"file={self.file!r} splits among {len(split.clients)} clients, not {clients}; "
                f"set clients = {len(split.clients)}"
            )
        return split


def _moved(source: str) -> tuple[str, str, str]:
    """The parts of a source string that do not depend on the folder of its file: kind, file name, parameters."""
    match = re.fullmatch(r"(?P<kind>[^:(]*):?(?P<path>.*?)(?P<call>\(.*\))?", source, re.DOTALL)
    assert match is not None  # every string is of this form
    # Windows paths know both slashes.
    return match["kind"], PureWindowsPath(match["path"]).name, match["call"] or ""

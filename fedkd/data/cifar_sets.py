"""CIFAR-10 and CIFAR-100: batches of rows of bytes, in Python's pickles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import UserError
from fedkd.data.archive import archive_files
from fedkd.data.plain_pickle import read_plain_pickle
from fedkd.data.published import Piece, Published, Remote
from fedkd.data.source import Prepared, Progress
from fedkd.data.torchvision_sets import joined, torchvision_class

SHAPE = (3, 32, 32)
LARGEST = 2**28
"""Bytes of the largest batch that is read from an archive: CIFAR-100's has 155 MB."""


class CifarSet(Published):
    """The batches of one of the two; they are read by `read_plain_pickle`, which runs nothing that is in them."""

    torchvision: ClassVar[str]
    """Name of torchvision's class."""
    folder: ClassVar[str]
    archive: ClassVar[str]
    batches: ClassVar[tuple[str, ...]]
    """Files of the training batches, then that of the test batch."""
    meta: ClassVar[tuple[str, str]]
    """File with the names of the classes, and the key that they have there."""
    labels: ClassVar[str]
    """Key of the labels in a batch."""
    further: ClassVar[dict[str, str]] = {}
    """Other labels that become columns: name of the column → key in a batch."""

    def pieces(self) -> tuple[Piece, ...]:
        return tuple((f"{self.folder}/{name}", self.archive) for name in (*self.batches, self.meta[0]))

    def remotes(self) -> tuple[Remote, ...]:
        known = torchvision_class(self.torchvision)
        return (Remote(self.archive, (known.url,), known.tgz_md5),)

    def read(self, paths: Sequence[Path], progress: Progress) -> Prepared:
        names = (*self.batches, self.meta[0])
        packed = {path: self._unpacked(path, progress) for path in set(paths) if path.name == self.archive}
        contents = []
        for done, (path, name) in enumerate(zip(paths, names, strict=True)):
            progress(f"reading {self.folder}", done, len(paths))
            where = f"{path}: {name}" if path in packed else str(path)
            contents.append((where, _entries(packed[path].get(name) if path in packed else _bytes(path), where)))
        progress(f"reading {self.folder}", len(paths), len(paths))
        *batches, meta = contents
        classes = _names(*meta, self.meta[1])
        rows = [_rows(where, batch) for where, batch in batches]
        labels = [_integers(where, batch, self.labels) for where, batch in batches]
        parts = [
            (np.concatenate(rows[part]).reshape(-1, *SHAPE), np.concatenate(labels[part]))
            for part in (slice(None, -1), slice(-1, None))
        ]
        columns = {
            column: np.concatenate([_integers(where, batch, key) for where, batch in batches])
            for column, key in self.further.items()
        }
        return joined(parts, classes, str(paths[0].parent), **columns)

    def _unpacked(self, path: Path, progress: Progress) -> dict[str, bytes]:
        wanted = {f"{self.folder}/{name}" for name in (*self.batches, self.meta[0])}
        files, _ = archive_files(str(path), lambda name: str(name) in wanted, progress, LARGEST)
        return {name.removeprefix(f"{self.folder}/"): content for name, content in files.items()}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _entries(content: bytes | None, where: str) -> dict[Any, Any]:
    if content is None:
        raise UserError(f"{where} is not in the archive; get it again")
    entries = read_plain_pickle(content, where)
    if not isinstance(entries, dict):
        raise UserError(f"{where} holds a {type(entries).__name__}; a dictionary is needed")
    return entries


def _entry(where: str, batch: dict[Any, Any], key: str) -> Any:
    if key not in batch:
        raise UserError(f"{where} has no entry {key!r}; it holds {', '.join(map(str, batch)) or 'nothing'}")
    return batch[key]


def _rows(where: str, batch: dict[Any, Any]) -> NDArray[np.uint8]:
    rows = _entry(where, batch, "data")
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != np.prod(SHAPE):
        shape = f"an array of shape {rows.shape}" if isinstance(rows, np.ndarray) else f"a {type(rows).__name__}"
        raise UserError(f"{where}: 'data' is {shape}; rows of {np.prod(SHAPE)} bytes are needed")
    return rows


def _integers(where: str, batch: dict[Any, Any], key: str) -> NDArray[np.int64]:
    values = _entry(where, batch, key)
    if not isinstance(values, list) or not all(isinstance(value, int) and 0 <= value < 1000 for value in values):
        raise UserError(f"{where}: {key!r} is not a list of small whole numbers")
    if len(values) != len(batch["data"]):
        raise UserError(f"{where}: 'data' has {len(batch['data'])} images, but {key!r} has {len(values)} entries")
    return np.array(values, np.int64)


def _names(where: str, meta: dict[Any, Any], key: str) -> tuple[str, ...]:
    names = _entry(where, meta, key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: {key!r} is not a list of names")
    return tuple(names)

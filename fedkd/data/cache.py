"""Prepared data sets on disk: written whole or not at all, by one process at a time, mapped by all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fedkd.base.disk import cached, replacing
from fedkd.data.dataset import Dataset
from fedkd.data.source import Prepared

SCHEMA = 2
"""Raise when the layout of the files or the meaning of a source changes: older files are then left alone."""


def cache_root() -> Path:
    """The cache folder: $FEDKD_CACHE, else $XDG_CACHE_HOME/fedkd, else ~/.cache/fedkd."""
    if configured := os.environ.get("FEDKD_CACHE"):
        return Path(configured).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "fedkd"


def dataset_path(name: str, identity: object) -> Path:
    """The file for the source `name` in the state described by `identity`, a JSON value."""
    digest = hashlib.sha256(json.dumps([SCHEMA, name, identity]).encode()).hexdigest()
    return cache_root() / "datasets" / f"{name}-{digest[:32]}.safetensors"


def remembered(path: Path, prepare: Callable[[], Prepared]) -> Dataset:
    """The data set in `path`, prepared first where the file is missing or damaged.

    Safe with several processes at once: one prepares, the others wait for it. Raises UserError where the
    cache cannot be written, and whatever `prepare` raises; nothing half-written is left in either case.
    """
    return cached(path, prepare, _write, _read)


def _write(path: Path, made: Prepared) -> None:
    columns = {name: np.ascontiguousarray(column) for name, column in made.columns.items()}
    test = torch.from_numpy(made.test)
    tensors = {
        "images": torch.from_numpy(made.samples),
        "labels": torch.from_numpy(made.labels),
        "train": (~test).nonzero().flatten(),
        "test": test.nonzero().flatten(),
    }
    # As bytes: text columns have no counterpart among tensors.
    tensors |= {
        f"column/{name}": torch.frombuffer(bytearray(column.tobytes()), dtype=torch.uint8)
        for name, column in columns.items()
    }
    described = {name: [column.dtype.str, column.shape] for name, column in columns.items()}
    header = {"peak": made.peak, "classes": made.classes, "columns": described, "fingerprint": _hash(made)}
    header["vocabulary"] = _hexadecimal(made.vocabulary)
    with replacing(path, locked=True) as partial:
        try:
            save_file(tensors, partial, metadata={"fedkd": json.dumps(header)})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        # safetensors writes for the owner alone; a cache may be shared as far as the umask lets files be.
        partial.chmod(path.with_suffix(".lock").stat().st_mode)


def _read(path: Path) -> Dataset | None:
    """The data set in `path`; None where the file is missing, cut short or not what was written."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["fedkd"])
            columns = {
                name: _column(file.get_tensor(f"column/{name}").numpy(), *described)
                for name, described in header["columns"].items()
            }
            return Dataset(
                name="",
                samples=file.get_tensor("images"),
                peak=header["peak"],
                labels=file.get_tensor("labels"),
                classes=tuple(header["classes"]),
                train=file.get_tensor("train"),
                test=file.get_tensor("test"),
                columns=columns,
                fingerprint=header["fingerprint"],
                vocabulary=tuple(map(bytes.fromhex, header.get("vocabulary", []))),
            )
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError):
        return None


def _column(raw: NDArray[np.uint8], dtype: str, shape: list[int]) -> NDArray[Any]:
    # Copied, because bytes in the mapped file need not lie where numbers may.
    column: NDArray[Any] = raw.copy().view(np.dtype(dtype)).reshape(shape)
    return column


def _hash(made: Prepared) -> str:
    described = [made.peak, made.classes, made.samples.shape]
    if made.vocabulary:
        described.append(_hexadecimal(made.vocabulary))
    digest = hashlib.sha256(json.dumps(described).encode())
    for array in (made.samples, made.labels, made.test):
        digest.update(np.ascontiguousarray(array).data)
    for name, column in sorted(made.columns.items()):
        digest.update(repr((name, column.dtype.str, column.shape)).encode())
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _hexadecimal(vocabulary: tuple[bytes, ...]) -> list[str]:
    # A token may be part of a character only, which JSON has no text for.
    return [token.hex() for token in vocabulary]

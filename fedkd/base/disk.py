"""Files that are whole or not there at all, made by one process at a time."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from fedkd.base.errors import UserError

Made = TypeVar("Made")
Read = TypeVar("Read")


@contextmanager
def replacing(path: Path, *, locked: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends well, and is removed if not.

    locked: the caller holds the lock of `path`, which is part of the cache. The path to write to then has one name for
    all processes, so that what a killed one has left is overwritten.

    Raises:
        UserError: the folder cannot be written.
    """
    unique = f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial"
    partial = path.with_name(f"{path.name}.partial" if locked else unique)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        other = "set FEDKD_CACHE to another folder" if locked else "choose another folder"
        raise UserError(f"{path}: cannot be written ({error.strerror}); free some space or {other}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once or not at all; its folder is made where it is missing.

    Raises:
        UserError: the folder cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path`: of several processes and threads, one at a time is inside.

    The lock file stays: removing one that another process has just opened would let a third in beside it.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}); set FEDKD_CACHE to a folder that can"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cached(
    path: Path, make: Callable[[], Made], write: Callable[[Path, Made], None], read: Callable[[Path], Read | None]
) -> Read:
    """What `read` gives for a file, which is made and written first where `read` gives None: missing or damaged.

    With several processes or threads at once, one makes it and the others wait.

    Raises:
        UserError: the cache cannot be written, or what was written cannot be read. Also whatever `make` raises; nothing
            is written then.
    """
    content = read(path)
    if content is None:
        with alone(path):
            content = read(path)
            if content is None:
                write(path, make())
                content = read(path)
    if content is None:
        raise UserError(f"{path}: was written but cannot be read back; check the disk, or set FEDKD_CACHE")
    return content

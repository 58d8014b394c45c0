"""Atomic writes, file locks and cached files."""

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
    """A temporary path beside `path`: it replaces `path` when the block succeeds, and is removed when it fails.

    locked: the caller holds the lock of `path`, which is part of the cache. All processes then use the same
    temporary name, so that the leftover of a killed process is overwritten.

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


def write_whole(path: Path, *content: bytes) -> None:
    """Replace a file by these parts, one behind the other, at once or not at all; its folder is made where missing.

    Raises:
        UserError: the folder cannot be written.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        file.writelines(content)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of `path`: only one process or thread at a time is inside the block.

    The lock file is never removed: a process that has just opened it would then not exclude the next one.

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
    """The result of `read(path)`. Where that is None (missing or damaged), the file is made and written first.

    Of several processes or threads, one makes the file and the others wait.

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

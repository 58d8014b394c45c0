"""Stamps that identify the state of a file or folder without reading its content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fedkd.base.errors import UserError
from fedkd.base.files import located

__all__ = ["below", "file_stamp", "folder_stamp", "located"]


def file_stamp(path: str) -> list[str | int]:
    """Absolute path, size and times of one file; UserError where there is none."""
    absolute = located(path).absolute()
    try:
        stat = absolute.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a file") from error
    if absolute.is_dir():
        raise UserError(f"{path} is a folder; give the path of a file")
    return [str(absolute), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def folder_stamp(path: str) -> list[object]:
    """Absolute path, and name, size and times of everything below; UserError where it cannot be read."""
    absolute = located(path).absolute()
    try:
        entries = [(entry.path, entry.stat()) for entry in below(absolute)]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); mend or remove it") from error
    return [str(absolute), sorted([name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in entries)]


def below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file and folder below, through links too; what starts with a dot is left out."""
    pending = [str(folder)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry
                    if entry.is_dir():
                        pending.append(entry.path)

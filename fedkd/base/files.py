"""The files that a user names: where they are, and what is in them."""

from __future__ import annotations

import ast
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from fedkd.base.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

_BESIDE: list[Path] = []
"""Folders that are looked in first: that of the recipe."""

_MIRRORS: list[Mirror] = []
"""Where copies of another machine's files lie, if this machine does not see them; at most one."""

_HASHES: dict[tuple[object, ...], str] = {}
_ROOMS = frozenset({"fedkd", "partitions", "analysis", "simulations"})
"""fedkd's packages: in a checkout they lie beside the user's file, but are not the user's code."""
_CACHES: list[Callable[[], None]] = []
_SETTLED = 2.0
"""Seconds after which a file's times tell whether it has changed: two writes may fall within one tick of the clock."""


@dataclass(frozen=True)
class Mirror:
    """Copies of another machine's files: each lies below `root` at the path that it has there."""

    root: Path
    current: str
    """the current folder there"""
    data: str
    """$FEDKD_DATA there; may be empty"""
    home: str

    def candidates(self, path: str | Path) -> list[Path]:
        """Where the copy of a file that the user names may lie: see `files.candidates`."""
        text = str(path)
        given = Path(self.home + text[1:] if text.startswith("~/") else text)
        folders = [*map(str, _BESIDE), self.current, *([self.data] if self.data else [])]
        there = [given] if given.is_absolute() else [Path(folder) / given for folder in folders]
        return [self.root / os.path.normpath(each).lstrip("/") for each in there]


def look_below(mirror: Mirror) -> None:
    """From now on, look for the user's files among these copies first."""
    _MIRRORS[:] = [mirror]


def file_cache(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """`functools.lru_cache` for functions whose result also depends on files: `forget_files` empties it."""

    def cached(function: Callable[P, T]) -> Callable[P, T]:
        cached_function = lru_cache(maxsize=maxsize)(function)
        _CACHES.append(cached_function.cache_clear)
        return cast("Callable[P, T]", cached_function)

    return cached


def forget_files() -> None:
    """Empty every `file_cache`, so that all files are read again. Called when a study begins."""
    for clear in _CACHES:
        clear()


def look_beside(folders: Iterable[str | Path]) -> None:
    """Look for relative paths in these folders before the current one, from now on, in this process."""
    _BESIDE[:] = [Path(folder).absolute() for folder in folders]


def beside() -> list[str]:
    """The folders that `look_beside` was given."""
    return [str(folder) for folder in _BESIDE]


def candidates(path: str | Path) -> list[Path]:
    """Where a file or folder that the user names may lie, in the order in which it is looked for.

    A relative path is looked for beside the recipe, then in the current folder, then below $FEDKD_DATA, so that a
    recipe can name its data without a word about the machine.
    """
    copies = [candidate for mirror in _MIRRORS for candidate in mirror.candidates(path)]
    given = Path(path).expanduser()
    if given.is_absolute():
        return [*copies, given]
    data = os.environ.get("FEDKD_DATA")
    here = [*(folder / given for folder in _BESIDE), given, *([Path(data).expanduser() / given] if data else [])]
    return copies + here


def located(path: str | Path) -> Path:
    """The first of the `candidates` that exists; the given path where none does."""
    return next((candidate for candidate in candidates(path) if candidate.exists()), Path(path).expanduser())


def content_hash(path: Path) -> str:
    """sha256 of a file's content, or of all files below a folder; read again only where size or times have changed.

    Raises:
        UserError: the file is not there or cannot be read.
    """
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            parts = [f"{file.relative_to(path)} {content_hash(file)}" for file in files]
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()
        stat = path.stat()
        key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        if key in _HASHES:
            return _HASHES[key]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a file that can") from error
    if time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED:
        _HASHES[key] = digest
    return digest


def python_files(file: Path) -> tuple[Path, ...]:
    """A Python file and every file that it imports from beside it, directly or through others; sorted.

    Only import statements are followed, wherever in the file they stand.

    Raises:
        UserError: the file is not there, cannot be read, or is not Python.
    """
    folder, seen, pending = file.parent, {file}, [file]
    while pending:
        for module in _imported(pending.pop()):
            parts = module.split(".")
            if parts[0] in _ROOMS:
                continue
            for length in range(1, len(parts) + 1):
                stem = folder.joinpath(*parts[:length])
                for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
                    if candidate not in seen and candidate.is_file():
                        seen.add(candidate)
                        pending.append(candidate)
    return tuple(sorted(seen))


def code_hash(file: Path) -> str:
    """sha256 over the contents of `python_files`."""
    parts = [f"{each.relative_to(file.parent)} {content_hash(each)}" for each in python_files(file)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _imported(file: Path) -> Iterator[str]:
    """Dotted names that may be modules beside the file: `from a import b` names `a.b`."""
    try:
        tree = ast.parse(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file}: is not Python: {type(error).__name__}: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)

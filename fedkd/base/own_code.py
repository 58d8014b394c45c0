"""Python files of the user's own, imported by their path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from fedkd.base.errors import DivergedError, FederationError, UserError, blamed
from fedkd.base.files import code_hash, located, python_files

_PREFIX = "_fedkd_own_"
_LOADING = threading.RLock()
_FOLDERS: list[str] = []
"""Folders of the user's files, in `sys.path` because of them."""


def load_file(file: str, noun: str) -> ModuleType:
    """Import a user's own file. This runs the file: it is code that its user names, like a script.

    It may import what lies beside it. Where it, or what it imports from there, has changed since it was last imported
    in this process, all of it is imported again.

    Raises:
        UserError: there is no such file, or it cannot be imported.
    """
    path = located(file).resolve()
    if not path.is_file():
        raise UserError(f"{noun} file {file!r} does not exist (looked for {path})")
    try:
        version = code_hash(path)[:16]
    except UserError as error:
        raise UserError(f"{noun} file {file!r} cannot be loaded: {error}") from error
    stem = f"{_PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:16]}_"
    name = f"{stem}{version}_{path.stem}"
    with _LOADING:
        if name not in sys.modules:
            if any(known.startswith(stem) for known in sys.modules):
                _forget(path)
            sys.modules[name] = _imported(path, name, file, noun)
        return sys.modules[name]


def _imported(path: Path, name: str, file: str, noun: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _look_first_in(path.parent)
    _forget_namesakes(path)
    sys.modules[name] = module  # dataclasses look their own module up while it is being run
    run: Callable[[ModuleType], None] = spec.loader.exec_module
    try:
        run(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        why = blamed(error, *python_files(path))
        raise UserError(f"{noun} file {file!r} cannot be loaded: {why}") from error
    return module


def own_files() -> list[Path]:
    """The user's own files that are loaded in this process, with what they import from beside them."""
    loaded = [module.__file__ for name, module in list(sys.modules.items()) if name.startswith(_PREFIX)]
    return [each for file in loaded if file for each in python_files(Path(file))]


def is_own(error: BaseException) -> bool:
    """Whether the error was raised below the user's own code, and is not a `UserError`."""
    if isinstance(error, UserError):
        return False
    frames = {Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)}
    return not frames.isdisjoint(own_files())


def reason(error: BaseException) -> str:
    """One line about an error: fedkd's own errors as they are; of others the type, and the line in the user's code."""
    if isinstance(error, (UserError, DivergedError, FederationError)):
        return str(error)
    return blamed(error, *own_files())


def _look_first_in(folder: Path) -> None:
    """Have imports look into a folder of the user's before other folders of the user's, but behind all packages.

    A file beside the user's own must not hide a package that fedkd imports.
    """
    name = str(folder)
    if name in sys.path and name not in _FOLDERS:
        return
    if name in _FOLDERS:
        sys.path.remove(name)
    else:
        _FOLDERS.append(name)
    others = [at for at, each in enumerate(sys.path) if each in _FOLDERS]
    sys.path.insert(min(others, default=len(sys.path)), name)


def _forget_namesakes(path: Path) -> None:
    """Forget modules of the user's that have the names of files beside this one, but came from another folder."""
    for file in python_files(path):
        parts = file.relative_to(path.parent).with_suffix("").parts
        known = sys.modules.get(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        origin = getattr(known, "__file__", None)
        if origin and Path(origin).resolve() != file and any(origin.startswith(f"{each}/") for each in _FOLDERS):
            del sys.modules[known.__name__]  # type: ignore[union-attr]


def _forget(path: Path) -> None:
    """Forget the modules that an earlier version of a file imported from beside it, so that they are read again."""
    importlib.invalidate_caches()
    beside = {str(each) for each in python_files(path)}
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if origin and not name.startswith(_PREFIX) and name != "__main__" and str(Path(origin).resolve()) in beside:
            del sys.modules[name]

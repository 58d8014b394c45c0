"""One file a source, found by its name: `npz.py` serves `npz:FILE`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from fedkd.data.source import Source
from fedkd.errors import UserError, nearest


def parse(source: str) -> tuple[str, Source]:
    """(name, source object) of a source string `name` or `name:argument`; UserError where it is not known."""
    name, colon, argument = source.partition(":")
    known = _names()
    if name not in known:
        hint = nearest(name, known)
        if source and not colon and Path(source).exists():
            hint = f"to load that file, write {'npz' if source.endswith('.npz') else 'images'}:{source}"
        raise UserError(f"unknown data source {source!r}; {hint}")
    kind = _kind(name)
    if bool(argument) != (":" in kind.usage):
        raise UserError(f"data source {source!r}: it is written {kind.usage}")
    return name, kind(argument)


def sources() -> dict[str, str]:
    """Name → one line that says what it is and how it is written."""
    return {name: f"{_kind(name).usage}: {(_kind(name).__doc__ or '').splitlines()[0]}" for name in sorted(_names())}


def _names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _kind(name: str) -> type[Source]:
    module = importlib.import_module(f"{__name__}.{name}")
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if issubclass(cls, Source) and cls.__module__ == module.__name__:
            return cls
    raise TypeError(f"{module.__file__}: a source file defines a subclass of Source")

"""One file a source, found by its name: `npz.py` serves `npz:FILE`."""

from __future__ import annotations

from pathlib import Path

from fedkd.data.source import Source
from fedkd.errors import UserError, nearest
from fedkd.spec import Catalogue, parse

SOURCES: Catalogue[Source] = Catalogue("data source", __name__, Source)  # type: ignore[type-abstract]


def source(text: str) -> tuple[str, Source]:
    """(name, source object) of a source string; UserError where it is not known."""
    name = text.partition(":")[0].partition("(")[0].strip()
    if name not in SOURCES.names:
        hint = nearest(name, SOURCES.names)
        if text and ":" not in text and Path(text).exists():
            hint = f"to load that file, write {'npz' if text.endswith('.npz') else 'images'}:{text}"
        raise UserError(f"unknown data source {text!r}; {hint}")
    if text.endswith(":"):
        raise UserError(f"data source {text!r}: it is written {SOURCES.find(parse(name)).usage}")
    return name, SOURCES.build(text)

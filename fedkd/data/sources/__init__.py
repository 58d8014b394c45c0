"""One file a source, named like the source: `npz.py` serves `npz:FILE`."""

from __future__ import annotations

from pathlib import Path

from fedkd.base.catalogue import Catalogue
from fedkd.base.errors import UserError, nearest
from fedkd.base.spec import parse
from fedkd.data.source import Source

SOURCES: Catalogue[Source] = Catalogue("data source", __name__, Source)  # type: ignore[type-abstract]


LIMIT = "limit"
"""The parameter that every source has: `npz:FILE(limit=6000)` is a subset of so many samples."""


def source(text: str) -> tuple[str, Source, int]:
    """(name, source object, limit or 0) of a source string; UserError where it is not known."""
    name = text.partition(":")[0].partition("(")[0].strip()
    if name not in SOURCES.names:
        hint = nearest(name, SOURCES.names)
        if text and ":" not in text and Path(text).exists():
            kind = {".npz": "npz", ".txt": "text", ".md": "text"}.get(Path(text).suffix, "images")
            hint = f"to load that file, write {kind}:{text}"
        raise UserError(f"unknown data source {text!r}; {hint}")
    if text.endswith(":"):
        raise UserError(f"data source {text!r}: it is written {SOURCES.find(parse(name)).usage}")
    spec = parse(text)
    limit = spec.arguments.pop(LIMIT, 0)
    if type(limit) is not int or limit < 0:
        raise UserError(f"data source {name}: limit={limit!r}; it is a number of samples, or 0 for all")
    return name, SOURCES.build(str(spec)), limit

"""One federation's journal: a header line, then one line a round.

A journal is appended to while a study runs and synced once a round, so the only damage a killed
process can do is a torn last line. That line is dropped here; anything else that is broken is an error,
because rows lost in the middle would move every mean without a trace.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROW = ["round", "client", "split", "metric", "value"]
"""Columns of one measurement."""
MODEL = "model"
"""Column that says which model the client of a row holds; empty for the server."""


class ResultsError(ValueError):
    """A results folder, or a file in it, is not what it should be. The message names the file, what was
    found in it and what would be right."""


@dataclass(frozen=True)
class Journal:
    """What one federation has written so far."""

    federation: str
    """Its id, unique in a results folder."""
    rounds: int
    """Rounds planned; the federation is finished when round number `rounds` is there."""
    settings: dict[str, Any]
    """Flat, resolved settings."""
    rows: pd.DataFrame
    """Columns `ROW`: int32, int32, str, str, float64; in the order they were written."""
    models: tuple[str, ...] = ()
    """Model of each client, where the header names them."""
    numerics: int = 1
    """Version of fedkd's numbers that it was made with."""


def read_journal(path: Path) -> Journal | None:
    """Read one `.jsonl` journal.

    Returns None for a file that was killed before its header was complete: nothing certain is in it.
    Raises ResultsError when the file is not a journal, when a line before the last is broken, or when
    the rounds are not 0, 1, 2, … in order.
    """
    raw = path.read_bytes()
    lines = raw.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        return None
    header = _parse(lines[0])
    if header is None and len(lines) == 1 and raw.startswith(b"{") and not raw.endswith(b"\n"):
        return None
    if not _is_header(header):
        raise ResultsError(
            f"{path} is not a journal: its first line should be a JSON object with "
            f"'federation', 'rounds' and 'settings', found {_shown(lines[0])}"
        )
    entries = [_parse(line) for line in lines[1:]]
    if entries and entries[-1] is None:
        entries.pop()
    for number, entry in enumerate(entries):
        # A negative round or a gap means that two writers shared the file, or that one forgot to cut a
        # torn line off before it went on.
        if not isinstance(entry, dict) or entry.get("round") != number or "rows" not in entry:
            raise ResultsError(
                f"{path}, line {number + 2}: should be round {number} as a JSON object with "
                f"'round' and 'rows', found {_shown(lines[number + 1])}"
            )
    frames = [_rows(entry["rows"], entry["round"], path) for entry in entries]
    empty = _rows([], 0, path)
    return Journal(
        federation=header["federation"],
        rounds=header["rounds"],
        settings=header["settings"],
        rows=pd.concat(frames, ignore_index=True) if any(map(len, frames)) else empty,
        models=tuple(map(str, header.get("models", ()))),
        numerics=header.get("numerics", 1),
    )


def _parse(line: bytes) -> Any:
    """The JSON value in a line, or None where there is none. (A JSON null is no line of ours either.)"""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _is_header(header: Any) -> bool:
    return (
        isinstance(header, dict)
        and isinstance(header.get("federation"), str)
        and isinstance(header.get("rounds"), int)
        and isinstance(header.get("settings"), dict)
        and isinstance(header.get("numerics", 1), int)
    )


def _rows(rows: Any, number: int, path: Path) -> pd.DataFrame:
    """The measurements of one round as columns. Raises ResultsError for any other shape."""
    try:
        client, split, metric, value = zip(*rows, strict=True) if rows else ((), (), (), ())
    except (TypeError, ValueError):
        client, split, metric, value = (None,), (), (), ()
    if not (_all(client, int) and _all(split, str) and _all(metric, str) and _all(value, int, float, type(None))):
        raise ResultsError(f"{path}, round {number}: every row should be [client, split, metric, value]")
    return pd.DataFrame(
        {
            "round": np.full(len(client), number, dtype=np.int32),
            "client": np.array(client, dtype=np.int32),
            "split": pd.Series(split, dtype="str"),
            "metric": pd.Series(metric, dtype="str"),
            "value": np.array(value, dtype=np.float64),
        }
    )


def _all(values: Iterable[object], *kinds: type) -> bool:
    # Exact types: JSON true is no client id, although a Python bool is an int.
    return set(map(type, values)) <= set(kinds)


def _shown(line: bytes) -> str:
    text = line[:60].decode(errors="replace")
    return repr(text + ("…" if len(line) > 60 else ""))

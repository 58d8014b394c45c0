"""Older results in a folder that newer ones replace, after a changed file or number of rounds, or by a newer fedkd."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedkd.base.numerics import CHANGES, NUMERICS
from simulations.identity import with_defaults

FOLDER = "superseded"
_NOT_COMPARED = ("rounds", "save")
"""Settings that do not make another arm of a study: a federation with more rounds replaces one with fewer."""


def set_aside(out: Path, headers: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Move journals and models that new federations replace to `superseded/`, and move back those needed again.

    headers: the journal headers of all federations of the recipe, by federation. A journal is replaced if one of these
    has the same settings, but other contents, rounds or numerics. A federation in `superseded/` that the recipe has
    again, with exactly the same files, is moved back. Returns the number of journals moved there, by reason.
    """
    aside = out / FOLDER
    for name in headers:
        if (aside / "journal" / f"{name}.jsonl").is_file() and not (out / "journal" / f"{name}.jsonl").is_file():
            _move(name, aside, out)
    slots = {slot(header): header for header in headers.values()}
    reasons: Counter[str] = Counter()
    for path in sorted((out / "journal").glob("*.jsonl")):
        old = _header(path)
        if old is None or path.stem in headers or (new := slots.get(slot(old))) is None:
            continue
        shutil.rmtree(out / "state" / path.stem, ignore_errors=True)
        _move(path.stem, out, aside)
        reasons[_reason(old, new)] += 1
    return dict(reasons)


def slot(header: Mapping[str, Any]) -> str:
    """The part of a header without files, rounds and fedkd's version: equal for results that replace each other."""
    return json.dumps(
        {k: v for k, v in with_defaults(header["settings"]).items() if k not in _NOT_COMPARED}, sort_keys=True
    )


def outdated(numerics: int) -> str:
    """The changes of fedkd's numbers since a version of numerics; empty if there are none."""
    return "; ".join(f"{version}: {change}" for version, change in CHANGES.items() if version > numerics)


def _reason(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if (before := int(old.get("numerics", 1))) != NUMERICS:
        return f"made with numbers of version {before}, now {NUMERICS} ({outdated(before)})"
    was, now = old.get("contents", {}), new["contents"]
    changed = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
    if changed:
        return f"{', '.join(changed)} changed"
    return f"rounds = {new['settings']['rounds']} now, {old['settings']['rounds']} before"


def _header(path: Path) -> dict[str, Any] | None:
    """The header of a journal; None if it has none. Reading the journal later gives an error for that."""
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline())
        return header if isinstance(header["settings"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _move(name: str, source: Path, target: Path) -> None:
    """Move the models of a federation, then its journal: after a kill between the two, the next run goes on."""
    models = source / "models" / name
    if models.is_dir():
        (target / "models").mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target / "models" / name, ignore_errors=True)
        models.rename(target / "models" / name)
    (target / "journal").mkdir(parents=True, exist_ok=True)
    (source / "journal" / f"{name}.jsonl").replace(target / "journal" / f"{name}.jsonl")

"""From a source string to a data set."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fedkd.data.cache import dataset_path, remembered
from fedkd.data.dataset import Dataset
from fedkd.data.source import Progress
from fedkd.data.sources import source as resolved
from fedkd.data.subset import limited

_RECENT: OrderedDict[Path, Dataset] = OrderedDict()
_RECENT_SIZE = 4
_TURN = threading.Lock()
_PREPARED: dict[str, Path] = {}
"""Prepared files of sources that this machine cannot read: see `use_prepared`."""


def load(source: str, progress: Progress | None = None) -> Dataset:
    """The data set that `source` names: `digits`, `mnist`, `npz:FILE`, `images:FOLDER`, `hf:NAME`, …: see `SOURCES`.

    The first load prepares the data and keeps them under `cache_root()`; later ones, in any process, map that
    file. Changing the user's file, its size or its time, prepares it anew. `progress`, called with (what,
    done, total), follows the preparation. With `limit=N` among the parameters it is a subset: see `limited`.
    Raises UserError where the source is unknown, missing or damaged.
    """
    name, origin, limit = resolved(source)
    path = _PREPARED.get(repr(origin)) or dataset_path(name, origin.stamp())
    with _TURN:
        known = _RECENT.get(path)
        if known is not None:
            _RECENT.move_to_end(path)
    if known is not None:
        return limited(replace(known, name=source), limit)
    dataset = remembered(path, lambda: origin.prepare(progress or _silent))
    with _TURN:
        _RECENT[path] = dataset
        while len(_RECENT) > _RECENT_SIZE:
            _RECENT.popitem(last=False)
    return limited(replace(dataset, name=source), limit)


def prepared_file(source: str) -> tuple[str, Path]:
    """A name for a source without its limit, and the file with its prepared data; it has been loaded before."""
    name, origin, _ = resolved(source)
    return repr(origin), dataset_path(name, origin.stamp())


def use_prepared(files: Mapping[str, Path]) -> None:
    """From now on, `load` reads some sources from files that were prepared on another machine: see `prepared_file`."""
    _PREPARED.update(files)


def _silent(what: str, done: int, total: int) -> None: ...

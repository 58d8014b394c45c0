"""What travels to nodes that do not see the driver's disk: the user's files and data once, clients' state each time."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Message

from fedkd.base.disk import write_whole
from fedkd.base.files import Mirror, look_below
from fedkd.data import cache_root
from fedkd.data.loading import prepared_file, use_prepared
from fedkd.flower import wire
from fedkd.protocol.files import drop_outdated, files_to_read
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from simulations.contents import data_sets, files

SAME = ("fedkd", "torch", "numpy")
"""Packages whose versions must be the same on all nodes."""
Files = dict[str, Any]
"""Content of files (bytes, or arrays of bytes in shared memory) by name."""


@dataclass(frozen=True)
class Probe:
    """The question to a new worker: does it see the driver's files?"""

    nonce: str = ""
    """a file that the driver has just written; empty: do not look, it does"""
    content: str = ""
    files: tuple[tuple[str, int], ...] = ()
    """paths and sizes of the files that the study reads"""
    versions: tuple[tuple[str, str], ...] = ()
    shared: bool | None = None
    """True or False: do not look"""


@dataclass(frozen=True)
class Greeting:
    """The answer of a worker."""

    sees_state: bool = True
    sees_files: bool = True


def versions() -> tuple[tuple[str, str], ...]:
    """Versions of what numbers depend on."""
    return tuple((name, importlib.metadata.version(name)) for name in SAME)


def greeting(probe: Probe) -> Greeting:
    """A worker's answer.

    Raises:
        RuntimeError: other versions are installed here than at the driver.
    """
    ours = dict(versions())
    for name, version in probe.versions:
        if ours[name] != version:
            raise RuntimeError(f"node {os.uname().nodename} has {name} {ours[name]}, but the driver has {version}")
    if probe.shared is not None or not probe.nonce:
        return Greeting(probe.shared is not False, probe.shared is not False)
    try:
        sees_state = Path(probe.nonce).read_text(encoding="utf-8") == probe.content
    except OSError:
        sees_state = False
    return Greeting(sees_state, all(_size(Path(path)) == size for path, size in probe.files))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


@dataclass(frozen=True)
class Bundle:
    """The files that the federations of a study read, to be laid out on another node."""

    name: str
    """a hash of all content"""
    files: Files
    """by their absolute path at the driver"""
    data: Mapping[str, str]
    """prepared data sets: source → path among `files`"""
    folders: tuple[str, str, str]
    """the driver's current folder, $FEDKD_DATA (or empty) and home"""

    def unpack(self) -> None:
        """Write the files below a folder of this node's cache, once, and look for all files there first."""
        root = cache_root() / "travelled" / self.name
        for path, content in self.files.items():
            target = root / path.lstrip("/")
            if _size(target) != len(content):
                write_whole(target, bytes(content))
        look_below(Mirror(root, *self.folders))
        use_prepared({source: root / path.lstrip("/") for source, path in self.data.items()})


def to_send(federations: Iterable[Federation]) -> tuple[list[Path], dict[str, Path]]:
    """The files that federations read, absolute, and their prepared data sets by source."""
    paths: dict[Path, None] = {}
    data: dict[str, Path] = {}
    for federation in federations:
        paths |= dict.fromkeys(path.absolute() for path in files(federation))
        data |= dict(map(prepared_file, data_sets(federation)))
    return list(paths), data


def packed(paths: Sequence[Path], data: Mapping[str, Path]) -> Bundle:
    """A bundle of files and prepared data sets. Its content is read here."""
    import numpy as np

    # As arrays, which all workers of a node read from the same shared memory.
    content = {str(path): np.fromfile(path, np.uint8) for path in dict.fromkeys((*paths, *data.values()))}
    digest = hashlib.sha256()
    for path in sorted(content):
        digest.update(repr((path, len(content[path]))).encode())
        digest.update(content[path].data)
    folders = (str(Path.cwd()), os.environ.get("FEDKD_DATA", ""), str(Path.home()))
    sources = {source: str(path) for source, path in data.items()}
    return Bundle(digest.hexdigest()[:32], content, sources, folders)


def state_to_send(message: Message) -> Files:
    """The state files that the clients of a message read, from the driver's disk."""
    store = wire.store_of(message)
    return {} if store is None else {path.name: path.read_bytes() for path in _reads(message, store)}


def _reads(message: Message, store: Path) -> Iterator[Path]:
    federation, exchange, clients = wire.header(message)
    schedule = schedule_of(Federation.from_json(federation))
    for client in clients:
        yield from files_to_read(schedule, client, schedule.moments[exchange], store)


@contextmanager
def at_a_distance(message: Message, state: Files) -> Iterator[Files]:
    """Lay the state of a message's clients out in a folder of this node.

    What is given is filled, at the end of the block, with the files that are new or have changed.
    """
    back: Files = {}
    if wire.store_of(message) is None:
        yield back
        return
    with tempfile.TemporaryDirectory(prefix="fedkd-") as folder:
        for name, content in state.items():
            (Path(folder) / name).write_bytes(content)
        wire.move_store(message, Path(folder))
        yield back
        for path in Path(folder).iterdir():
            content = path.read_bytes()
            if state.get(path.name) != content:
                back[path.name] = content


def state_came_back(message: Message, state: Files) -> None:
    """Write the state that a worker sent back to the driver's disk, and remove what nobody will read again."""
    store = wire.store_of(message)
    if store is None:
        return
    for name, content in state.items():
        write_whole(store / Path(name).name, content)
    federation, exchange, clients = wire.header(message)
    schedule = schedule_of(Federation.from_json(federation))
    for client in clients:
        if any(name.startswith(f"client-{client}-") for name in state):
            drop_outdated(schedule, client, schedule.moments[exchange], store)

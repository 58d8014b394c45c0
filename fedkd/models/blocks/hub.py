"""Published weights: one file each, from a mirror folder, from the cache, or once from the network."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from fedkd.base.disk import alone, replacing
from fedkd.base.errors import UserError
from fedkd.data import cache_root
from fedkd.data.download import FetchError, fetch
from fedkd.data.published import mirror

_DIGITS = re.compile(r"-([0-9a-f]{8,})\.[^.]+$")


def published_file(url: str, whose: str) -> Path:
    """Where the file at `url` lies: in $FEDKD_DATA/hub, or in `cache_root()`/hub, where it is downloaded to.

    torchvision's file names end in the first digits of their sha256, which is checked wherever the file lies.
    `whose` begins the messages.

    Raises:
        UserError: the file is nowhere and cannot be downloaded, or it is another one, or a part of it.
    """
    name = url.rpartition("/")[2]
    target = cache_root() / "hub" / name
    folder = mirror()
    if folder and (folder / "hub" / name).is_file():
        return _checked(folder / "hub" / name, whose)
    with alone(target):
        if not target.is_file():
            try:
                _download(url, target)
            except FetchError as error:
                raise UserError(
                    f"{whose}: its weights are not on this machine and cannot be downloaded from {url} ({error}). Get "
                    f"{name} elsewhere and put it into {target.parent}, or into the folder hub of another folder and "
                    f"set FEDKD_DATA to that"
                ) from error
    return _checked(target, whose)


def _checked(path: Path, whose: str) -> Path:
    try:
        state = path.stat()
        digest = _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{whose}: {path} cannot be read ({error.strerror})") from error
    if not _fits(path.name, digest):
        raise UserError(
            f"{whose}: {path} is not the published file, or a part of it (its sha256 begins with {digest[:8]}); "
            f"remove it, or put the whole file there"
        )
    return path


def _fits(name: str, sha256: str) -> bool:
    known = _DIGITS.search(name)
    return known is None or sha256.startswith(known[1])


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    # Files have hundreds of megabytes, and each client asks: one in the same state is read once a process.
    del size, changed
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, target: Path) -> None:
    digest = hashlib.sha256()
    with replacing(target, locked=True) as partial:
        fetch(url, partial, digest.update)
        if not _fits(target.name, digest.hexdigest()):
            raise FetchError(
                f"what is there was cut short or is another file: its sha256 begins with {digest.hexdigest()[:8]}"
            )

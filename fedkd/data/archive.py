"""The files of a tar archive, read into memory: what is not unpacked cannot escape or be left behind."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from io import BufferedIOBase, BufferedReader
from pathlib import Path, PurePosixPath
from typing import Protocol

from fedkd.data.source import Progress
from fedkd.errors import UserError

LARGEST = 64 * 2**20
"""Bytes that one file may have: far above any image of a data set, far below what would fill the memory."""


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


class _Remembering:
    """A file that remembers what was read last: tarfile does not tell a torn end from the proper one."""

    def __init__(self, file: _Readable) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        self.last = self.file.read(size)
        return self.last


def tar_files(path: str, suffixes: frozenset[str], progress: Progress) -> tuple[dict[str, bytes], set[str]]:
    """(contents by name of the files with one of the suffixes, names of all folders) of a .tar[.gz|.bz2|.xz].

    Names are relative, with slashes; hidden files are left out. Raises UserError on an archive that is
    damaged, cut short, or holds what no data set needs: absolute names, `..`, links, devices, huge images.
    """
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    try:
        with Path(path).expanduser().open("rb") as raw, _inflated(raw) as inflated:
            size = os.fstat(raw.fileno()).st_size
            watched = _Remembering(inflated)
            with tarfile.open(fileobj=watched, mode="r:") as tar:  # type: ignore[call-overload]
                for member in tar:
                    name = _safe(member, path)
                    if any(part.startswith(".") for part in name.parts):
                        continue
                    if member.isdir():
                        folders.add(str(name))
                    elif name.suffix.lower() in suffixes:
                        if str(name) in files:
                            raise UserError(f"{path} holds {name} twice; every name must be there once")
                        if member.size > LARGEST:
                            raise UserError(
                                f"{path} is refused: {member.name!r} has {member.size:,} bytes; "
                                f"{LARGEST:,} is the most for an image"
                            )
                        files[str(name)] = tar.extractfile(member).read()
                        if len(files) % 1000 == 0:
                            progress(f"reading {path}", raw.tell(), size)
            if watched.last != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("the end of the archive is missing")
            # On to the end of the compressed stream, where its checksum is.
            while inflated.read(2**20):
                pass
    except UserError:
        raise
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error, ValueError) as error:
        raise UserError(
            f"{path} is damaged, cut short or no tar archive ({error}); get it again, or give a folder"
        ) from error
    progress(f"reading {path}", size, size)
    return files, folders


def _inflated(raw: BufferedReader) -> BufferedReader | BufferedIOBase:
    """The archive without its compression, which is told by its first bytes, whatever the file is called."""
    start = raw.read(6)
    raw.seek(0)
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(raw)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(raw)
    if start.startswith(b"BZh"):
        return bz2.open(raw)
    return raw


def _safe(member: tarfile.TarInfo, path: str) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise UserError(f"{path} is refused: the name {member.name!r} points outside of the archive")
    if not (member.isreg() or member.isdir()):
        kind = "a link" if member.issym() or member.islnk() else "neither a file nor a folder"
        raise UserError(f"{path} is refused: {member.name!r} is {kind}; only plain files and folders are read")
    return name

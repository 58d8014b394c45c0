"""The files of a tar or zip archive, read into memory: nothing is written to the disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from io import BufferedIOBase, BufferedReader
from pathlib import PurePosixPath
from typing import Protocol

from fedkd.base.errors import UserError
from fedkd.data.source import Progress
from fedkd.data.stamps import located

LARGEST = 64 * 2**20
"""Bytes that one file may have: far above any image of a data set, far below what would fill the memory."""

Wanted = Callable[[PurePosixPath], bool]
"""Which files of an archive are read, by their relative names."""


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


class _Remembering:
    """A file that remembers the last bytes read: tarfile does not notice an archive that is cut short."""

    def __init__(self, file: _Readable) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        self.last = self.file.read(size)
        return self.last


def archive_files(
    path: str, wanted: Wanted, progress: Progress, largest: int = LARGEST
) -> tuple[dict[str, bytes], set[str]]:
    """(contents by name of the wanted files, names of all folders) of a .zip or a .tar[.gz|.bz2|.xz].

    Names are relative, with slashes; hidden files are left out. The first bytes decide the kind of
    archive. Raises UserError on an archive that is damaged, cut short, or holds what no data set needs: absolute
    names, `..`, links, devices, encrypted files, wanted files of more than `largest` bytes.
    """
    kind = "tar"
    try:
        with located(path).open("rb") as raw:
            contents = _Contents(path, wanted, progress, largest, raw)
            kind = "zip" if raw.read(2) == b"PK" else "tar"
            raw.seek(0)
            (_read_zip if kind == "zip" else _read_tar)(contents)
    except UserError:
        raise
    # RuntimeError is what zipfile raises for an encrypted file, NotImplementedError for an unknown compression.
    except (
        *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error),
        *(EOFError, OSError, ValueError, RuntimeError, NotImplementedError),
    ) as error:
        raise UserError(
            f"{path} is damaged, cut short or no {kind} archive ({error}); get it again, or give a folder"
        ) from error
    progress(f"reading {path}", contents.size, contents.size)
    return contents.files, contents.folders


class _Contents:
    """Files and folders of an archive; each member is checked when it is added."""

    def __init__(self, path: str, wanted: Wanted, progress: Progress, largest: int, raw: BufferedReader) -> None:
        self.path, self.wanted, self.progress, self.largest, self.raw = path, wanted, progress, largest, raw
        self.size = os.fstat(raw.fileno()).st_size
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = set()

    def add(self, written: str, kind: str, size: int, read: Callable[[], bytes]) -> None:
        """One member: its name as written, "file", "folder", "link" or another kind, its bytes."""
        name = PurePosixPath(written)
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{self.path} is refused: the name {written!r} points outside of the archive")
        if kind not in ("file", "folder"):
            raise UserError(f"{self.path} is refused: {written!r} is {kind}; only plain files and folders are read")
        if any(part.startswith(".") for part in name.parts):
            return
        if kind == "folder":
            self.folders.add(str(name))
        elif self.wanted(name):
            if str(name) in self.files:
                raise UserError(f"{self.path} holds {name} twice; every name must be there once")
            if size > self.largest:
                raise UserError(
                    f"{self.path} is refused: {written!r} has {size:,} bytes; {self.largest:,} is the most for a file"
                )
            self.files[str(name)] = read()
            if len(self.files) % 1000 == 0:
                self.progress(f"reading {self.path}", self.raw.tell(), self.size)


def _read_tar(contents: _Contents) -> None:
    with _inflated(contents.raw) as inflated:
        watched = _Remembering(inflated)
        with tarfile.open(fileobj=watched, mode="r:") as tar:  # type: ignore[call-overload]
            for member in tar:
                kind = "neither a file nor a folder"
                if member.isreg() or member.isdir():
                    kind = "folder" if member.isdir() else "file"
                elif member.issym() or member.islnk():
                    kind = "a link"
                contents.add(member.name, kind, member.size, partial(_content, tar, member))
        if watched.last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the end of the archive is missing")
        # On to the end of the compressed stream, where its checksum is.
        while inflated.read(2**20):
            pass


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _read_zip(contents: _Contents) -> None:
    with zipfile.ZipFile(contents.raw) as archive:
        for member in archive.infolist():
            mode = member.external_attr >> 16
            kind = "folder" if member.is_dir() else "a link" if stat.S_ISLNK(mode) else "file"
            # Reading stops at the size that is announced, and compares the checksum.
            contents.add(member.filename, kind, member.file_size, partial(archive.read, member))


def _inflated(raw: BufferedReader) -> BufferedReader | BufferedIOBase:
    """The decompressed archive; its first bytes decide the compression, not its name."""
    start = raw.read(6)
    raw.seek(0)
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(raw)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(raw)
    if start.startswith(b"BZh"):
        return bz2.open(raw)
    return raw

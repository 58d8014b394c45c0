"""Data sets with a name: files that were published once, from a mirror folder or from the network."""

from __future__ import annotations

import dataclasses
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedkd.base.errors import UserError
from fedkd.data.cache import cache_root
from fedkd.data.download import UnreachableError, download
from fedkd.data.source import Prepared, Progress, Source
from fedkd.data.stamps import file_stamp, folder_stamp

Piece = tuple[str, ...]
"""Where one part of a data set may lie below a folder: the first of these paths that exists is read."""

UNFINISHED = (".partial", ".part", ".crdownload", ".download")
"""What programs call a file while they download it."""


@dataclass(frozen=True)
class Remote:
    """A file in the network."""

    path: str
    """Where it lies below a folder; one of the paths of a piece."""
    urls: tuple[str, ...]
    """The servers that have it, in the order in which they are asked."""
    md5: str
    """Its checksum, in hexadecimal."""


def mirror() -> Path | None:
    """The folder $FEDKD_DATA with the user's copies; None where it is not set. UserError where it is not a folder."""
    if not (given := os.environ.get("FEDKD_DATA")):
        return None
    folder = Path(given).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(
            f"FEDKD_DATA is {given!r}, which is not a folder; give the folder of your data sets, or unset it"
        )
    return folder


class Published(Source):
    """A source whose files are known by name and checksum.

    They are taken from $FEDKD_DATA where they lie there, as the archives that were published or unpacked, in the
    folders that torchvision uses. Else the published archives are downloaded to `cache_root()/downloads`.

    Downloaded files must have the md5 that torchvision lists. Files in $FEDKD_DATA are the user's own and are read
    without a checksum: they may be refused as damaged, or hold other images, but nothing in them is executed.
    """

    @abstractmethod
    def pieces(self) -> tuple[Piece, ...]:
        """All parts that are needed."""

    @abstractmethod
    def remotes(self) -> tuple[Remote, ...]:
        """What is downloaded where no mirror has it: something for every piece."""

    @abstractmethod
    def read(self, paths: Sequence[Path], progress: Progress) -> Prepared:
        """The data set in the files at `paths`, one for each of the pieces."""

    def stamp(self) -> object:
        """The parameters, and the state of the mirror's files, or "published" where the published files are used."""
        parameters = dataclasses.asdict(self)  # type: ignore[call-overload]
        paths = self._mirrored()
        if paths is None:
            return [parameters, "published"]
        return [parameters, [folder_stamp(str(f)) if f.is_dir() else file_stamp(str(f)) for f in dict.fromkeys(paths)]]

    def prepare(self, progress: Progress) -> Prepared:
        """Find the files, downloading them if need be, and read them."""
        return self.read(self._mirrored() or self._downloaded(progress), progress)

    def _mirrored(self) -> list[Path] | None:
        """The mirror's files, one a piece; None where it has none of them."""
        folder = mirror()
        if folder is None:
            return None
        paths = [_first(folder, piece) for piece in self.pieces()]
        present = [path for path in paths if path]
        missing = [piece for piece, path in zip(self.pieces(), paths, strict=True) if not path]
        for piece in missing:
            for path in piece:
                for ending in UNFINISHED:
                    if (half := folder / (path + ending)).exists():
                        raise UserError(f"{half} is half-downloaded; finish it as {path}, or remove it")
        if not present:
            return None
        if missing:
            lacking = ", ".join(_either(piece) for piece in missing)
            raise UserError(
                f"{self.usage}: FEDKD_DATA={folder} has {present[0].relative_to(folder)}, but lacks {lacking}"
            )
        return present

    def _downloaded(self, progress: Progress) -> list[Path]:
        """The published files, downloaded where they are not yet there, one a piece."""
        folder = cache_root() / "downloads"
        remotes = self.remotes()
        for remote in remotes:
            try:
                download(remote.urls, folder / remote.path, remote.md5, progress)
            except UnreachableError as error:
                raise UserError(
                    f"{self.usage} is not on this machine and cannot be downloaded ({error}). Get "
                    f"{', '.join(other.path for other in remotes)} elsewhere and put it below {folder}, or below "
                    f"another folder and set FEDKD_DATA to that"
                ) from error
        ours = {remote.path for remote in remotes}
        return [folder / next(path for path in piece if path in ours) for piece in self.pieces()]


def _first(folder: Path, piece: Piece) -> Path | None:
    return next((folder / path for path in piece if (folder / path).exists()), None)


def _either(piece: Piece) -> str:
    return f"{piece[0]} (or {' or '.join(piece[1:])})" if len(piece) > 1 else piece[0]

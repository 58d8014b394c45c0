"""Image files in class folders, or in an archive of them."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.data.archive import archive_files
from fedkd.data.border import seeded_test
from fedkd.data.decoding import SUFFIXES, decode
from fedkd.data.framing import Framed
from fedkd.data.layout import arrange
from fedkd.data.source import Prepared, Progress
from fedkd.data.stamps import below, file_stamp, folder_stamp, located


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Images(Framed):
    """image files in class folders, or a tar or zip archive of them; train/ and test/ are the border.

    A tar archive may be compressed (gzip, bzip2, xz). Images of many sizes or modes need `size` or `mode`.
    Without train/ and test/, a seeded sixth of every class is for testing.
    """

    usage = "images:FOLDER|ARCHIVE"

    argument: str
    """path"""

    def stamp(self) -> object:
        """Path, size and time of the archive, or of every file of the folder."""
        stamp = (folder_stamp if located(self.argument).is_dir() else file_stamp)(self.argument)
        return [stamp, *framing] if (framing := self.framed()) else stamp

    def prepare(self, progress: Progress) -> Prepared:
        """Decode all images, in the order of their names: a folder and its archive give the same data set."""
        where = self.argument
        root = located(where)
        contents: dict[str, bytes] = {}
        if root.is_dir():
            entries = {Path(entry.path).relative_to(root).as_posix(): entry for entry in below(root)}
            folders = {name for name, entry in entries.items() if entry.is_dir()}
            names = sorted(name for name in entries if Path(name).suffix.lower() in SUFFIXES and name not in folders)
        else:
            contents, folders = archive_files(where, lambda name: name.suffix.lower() in SUFFIXES, progress)
            names = sorted(contents)
        labels, classes, test = arrange(names, folders, where)

        def read(i: int) -> bytes:
            return contents[names[i]] if contents else (root / names[i]).read_bytes()

        images = decode(names, read, where, progress, self.framing)
        border = seeded_test(labels, 1 / 6, where) if test is None else test
        return Prepared(images, 255, labels, classes, border)

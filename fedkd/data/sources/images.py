"""Image files in class folders, or in a tar archive of them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from fedkd.data.archive import tar_files
from fedkd.data.border import seeded_test
from fedkd.data.layout import arrange
from fedkd.data.source import Prepared, Progress, Source
from fedkd.data.stamps import below, file_stamp, folder_stamp
from fedkd.errors import UserError
from fedkd.spec import STRICT

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
CHUNK = 500


@dataclass(frozen=True, config=STRICT)
class Images(Source):
    """image files of one size in class folders, or a tar archive of them; train/ and test/ are the border.

    The archive may be compressed (gzip, bzip2, xz); grey and RGB images can be read.
    Without train/ and test/, a seeded sixth of every class is for testing.
    """

    usage = "images:FOLDER|TAR"

    argument: str
    """path"""

    def stamp(self) -> object:
        """Path, size and time of the archive, or of every file of the folder."""
        if Path(self.argument).expanduser().is_dir():
            return folder_stamp(self.argument)
        return file_stamp(self.argument)

    def prepare(self, progress: Progress) -> Prepared:
        """Decode all images, in the order of their names: a folder and its archive give the same data set."""
        where = self.argument
        root = Path(where).expanduser()
        contents: dict[str, bytes] = {}
        if root.is_dir():
            found = {Path(entry.path).relative_to(root).as_posix(): entry for entry in below(root)}
            folders = {name for name, entry in found.items() if entry.is_dir()}
            names = sorted(name for name in found if Path(name).suffix.lower() in SUFFIXES and name not in folders)
        else:
            contents, folders = tar_files(where, SUFFIXES, progress)
            names = sorted(contents)
        labels, classes, test = arrange(names, folders, where)

        def read(name: str) -> bytes:
            return contents[name] if contents else (root / name).read_bytes()

        images = _decode(names, read, where, progress)
        border = seeded_test(labels, 1 / 6, where) if test is None else test
        return Prepared(images, 255, labels, classes, border)


def _decode(names: Sequence[str], read: Callable[[str], bytes], where: str, progress: Progress) -> NDArray[np.uint8]:
    """(n, channels, height, width); UserError naming the first file that is damaged or unlike the others."""
    first = _pixels(names[0], read, where)
    images = np.empty((len(names), *first.shape), np.uint8)

    def fill(start: int) -> int:
        stop = min(start + CHUNK, len(names))
        for i in range(start, stop):
            pixels = _pixels(names[i], read, where)
            if pixels.shape != first.shape:
                raise UserError(
                    f"{where}: {names[i]} is {_described(pixels)}, but {names[0]} is {_described(first)}; "
                    f"all images must have one size and mode"
                )
            images[i] = pixels
        return stop

    # Small images are all overhead, and threads that fight for the interpreter are slower than one:
    # 32×32 JPEGs 71 µs each in one thread, 114 µs in two; 224×224 241 µs and 194 µs.
    threads = min(8, os.cpu_count() or 1) if first[0].size >= 128 * 128 else 1
    pool = ThreadPoolExecutor(threads)
    try:
        for done in pool.map(fill, range(0, len(names), CHUNK)):
            progress(f"decoding {where}", done, len(names))
    finally:
        pool.shutdown(cancel_futures=True)
    return images


def _pixels(name: str, read: Callable[[str], bytes], where: str) -> NDArray[np.uint8]:
    """(channels, height, width) of one file."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read(name)), formats=FORMATS) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise UserError(f"{where}: {name} cannot be decoded ({_short(error)}); replace or remove it") from error
    if mode not in ("L", "RGB"):
        raise UserError(f"{where}: {name} has mode {mode}; images must be 8-bit grey (L) or RGB: convert them")
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _short(error: Exception) -> str:
    # Pillow's message for what it does not recognise names a memory address.
    return str(error).split(" <")[0] or type(error).__name__


def _described(pixels: NDArray[np.uint8]) -> str:
    channels, height, width = pixels.shape
    return f"{height}×{width} {'grey' if channels == 1 else 'RGB'}"

"""Encoded images → one array, all of one size and mode."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fedkd.data.source import Progress
from fedkd.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})
"""Endings of the files that are taken for images."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
"""Pillow's decoders that may be tried: no others, whatever a file claims to be."""
CHUNK = 500


def decode(
    names: Sequence[str], read: Callable[[int], bytes], where: str, progress: Progress, *, grey_as_rgb: bool = False
) -> NDArray[np.uint8]:
    """(n, channels, height, width) of the encoded images that `read(i)` gives for the n `names`.

    Images are 8-bit grey or RGB; with `grey_as_rgb` a grey one counts as RGB with three equal channels. Raises
    UserError naming the first image that cannot be read or decoded, or is unlike the first.
    """
    first = _pixels(names[0], 0, read, where, grey_as_rgb)
    images = np.empty((len(names), *first.shape), np.uint8)

    def fill(start: int) -> int:
        stop = min(start + CHUNK, len(names))
        for i in range(start, stop):
            pixels = _pixels(names[i], i, read, where, grey_as_rgb)
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


def _pixels(name: str, i: int, read: Callable[[int], bytes], where: str, grey_as_rgb: bool) -> NDArray[np.uint8]:
    """(channels, height, width) of one image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read(i)), formats=FORMATS) as image:
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
    if mode == "L":
        return np.broadcast_to(pixels, (3, *pixels.shape)) if grey_as_rgb else pixels[None]
    return pixels.transpose(2, 0, 1)


def _short(error: Exception) -> str:
    # Pillow's message for what it does not recognise names a memory address.
    return str(error).split(" <")[0] or type(error).__name__


def _described(pixels: NDArray[np.uint8]) -> str:
    channels, height, width = pixels.shape
    return f"{height}×{width} {'grey' if channels == 1 else 'RGB'}"

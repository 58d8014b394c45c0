"""Encoded images → one array, all of one size and mode."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import UserError
from fedkd.data.framing import Framing
from fedkd.data.source import Progress

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})
"""Endings of the files that are taken for images."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
"""Pillow's decoders that may be tried: no others, whatever a file claims to be."""
CHUNK = 500
AS_THEY_ARE = Framing()


def decode(
    names: Sequence[str],
    read: Callable[[int], bytes],
    where: str,
    progress: Progress,
    framing: Framing = AS_THEY_ARE,
) -> NDArray[np.uint8]:
    """(n, channels, height, width) of the encoded images that `read(i)` gives for the n `names`.

    Images are 8-bit grey or RGB, of one size, unless `framing` makes them so. Raises UserError naming the first image
    that cannot be read or decoded, or is unlike the first.
    """
    first = _pixels(names[0], 0, read, where, framing)
    # Small images are all overhead, and threads that fight for the interpreter are slower than one:
    # 32×32 JPEGs 71 µs each in one thread, 114 µs in two; 224×224 241 µs and 194 µs.
    threads = min(8, os.cpu_count() or 1) if first[1] >= 128 * 128 else 1
    shape = first[0].shape
    images = np.empty((len(names), *shape), np.uint8)

    def fill(start: int) -> int:
        stop = min(start + CHUNK, len(names))
        for i in range(start, stop):
            pixels, _ = _pixels(names[i], i, read, where, framing)
            if pixels.shape != shape:
                raise UserError(
                    f"{where}: {names[i]} is {_described(pixels.shape)}, but {names[0]} is {_described(shape)}; "
                    f"all images must have one size and mode{framing.remedy(pixels.shape, shape)}"
                )
            images[i] = pixels
        return stop

    pool = ThreadPoolExecutor(threads)
    try:
        for done in pool.map(fill, range(0, len(names), CHUNK)):
            progress(f"decoding {where}", done, len(names))
    finally:
        pool.shutdown(cancel_futures=True)
    return images


def _pixels(
    name: str, i: int, read: Callable[[int], bytes], where: str, framing: Framing
) -> tuple[NDArray[np.uint8], int]:
    """(channels, height, width) of one image, and the values that it had in its file."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read(i)), formats=FORMATS) as image:
            values = image.width * image.height * len(image.getbands())
            return framing.pixels(image, f"{where}: {name}"), values
    except UserError:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise UserError(f"{where}: {name} cannot be decoded ({_short(error)}); replace or remove it") from error


def _short(error: Exception) -> str:
    # Pillow's message for what it does not recognise names a memory address.
    return str(error).split(" <")[0] or type(error).__name__


def _described(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{height}×{width} {'grey' if channels == 1 else 'RGB'}"

"""Arrays of bytes in the idx format of MNIST."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import UserError
from fedkd.data.archive import archive_files
from fedkd.data.source import Progress

UNSIGNED_BYTE = 8
"""The code of uint8 among the types of the format."""
BLOCK = 2**20
LARGEST = 2**30
"""Bytes of the largest file that is read from an archive of idx files: EMNIST's has 173 MB."""


def read_idx(path: Path, name: str, dimensions: int, progress: Progress) -> NDArray[np.uint8]:
    """The uint8 array of so many `dimensions` in an idx file.

    The file may be plain or compressed (.gz), or be `name`.gz in any folder of a zip archive. Format: two zero
    bytes, the type, the number of dimensions, each length as four bytes, then the values (LeCun, Cortes &
    Burges, "The MNIST database of handwritten digits"). Raises UserError where it is anything else, or longer
    or shorter than its lengths say.
    """
    where = str(path)
    try:
        if path.suffix == ".zip":
            files, _ = archive_files(where, lambda inside: inside.name == f"{name}.gz", progress, LARGEST)
            if len(files) != 1:
                raise UserError(f"{where} holds {len(files)} files {name}.gz; one is needed")
            where = f"{where}: {name}.gz"
            with gzip.open(io.BytesIO(files.popitem()[1])) as file:
                return _array(file, where, dimensions)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _array(file, where, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where} is damaged, cut short or cannot be read ({error}); get it again") from error


def _array(file: BinaryIO | gzip.GzipFile, where: str, dimensions: int) -> NDArray[np.uint8]:
    header = file.read(4 + 4 * dimensions)
    wanted = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if header[:4] != wanted:
        raise UserError(f"{where} begins with {header[:4].hex(' ')}; an idx file of this kind with {wanted.hex(' ')}")
    if len(header) < 4 + 4 * dimensions:
        raise UserError(f"{where} is damaged or cut short: it ends after {len(header)} bytes; get it again")
    lengths = np.frombuffer(header[4:], ">u4").tolist()
    size = math.prod(lengths)
    values = bytearray()
    # In blocks, as the lengths of a damaged file may ask for more memory than there is; and beyond the last
    # value, where the checksum of a compressed file is.
    while len(values) <= size and (block := file.read(BLOCK)):
        values += block
    if len(values) != size:
        more = "at least " if len(values) > size else ""
        raise UserError(
            f"{where} is damaged or cut short: {'×'.join(map(str, lengths))} values are announced, "
            f"{more}{len(values):,} are there; get it again"
        )
    return np.frombuffer(values, np.uint8).reshape(lengths)

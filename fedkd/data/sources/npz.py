"""Arrays in a NumPy archive."""

from __future__ import annotations

import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.data.border import seeded_test
from fedkd.data.source import Prepared, Progress, Source, class_labels
from fedkd.data.stamps import file_stamp, located

BORDER = "is_test"


@dataclass(frozen=True, config=STRICT)
class Npz(Source):
    """`images` uint8 (n, h, w[, c]) and `labels` (n,) from a NumPy archive; further arrays become columns.

    A boolean array (n,), `is_test` or the one that `test` names, is the border; without it a seeded sixth of
    every class is for testing. Arrays whose first length is not n are left out.
    """

    usage = "npz:FILE"

    argument: str
    """path"""
    test: str = BORDER
    """name of the boolean array that says which images are for testing; "": a seeded sixth of every class"""

    def stamp(self) -> object:
        """Path, size and time of the file, and the border."""
        return [file_stamp(self.argument), self.test]

    def prepare(self, progress: Progress) -> Prepared:
        """Read and check all arrays of the archive."""
        where = self.argument
        arrays = _read(where, progress)
        for key in ("images", "labels"):
            if key not in arrays:
                raise UserError(f"{where} has no array {key!r}; it holds {', '.join(arrays) or 'nothing'}")
        images = _images(arrays.pop("images"), where)
        labels = class_labels(arrays.pop("labels"), f"{where}: labels")
        n = len(images)
        if len(labels) != n:
            raise UserError(f"{where} has {n} images but {len(labels)} labels; one each is needed")
        border = arrays.pop(self.test, None)
        if border is None:
            if self.test not in ("", BORDER):
                raise UserError(f"{where} has no array {self.test!r} (test={self.test!r}); {_flags(arrays, n)}")
            test = seeded_test(labels, 1 / 6, where)
        elif border.dtype != np.bool_ or border.shape != (n,) or border.all() or not border.any():
            raise UserError(
                f"{where}: {self.test} is {border.dtype} of shape {border.shape}"
                f"{f' with {border.sum()} true' if border.dtype == np.bool_ else ''}; "
                f"it must be bool of shape ({n},), true for some images and false for others"
            )
        else:
            test = border
        columns = {key: array for key, array in arrays.items() if array.shape[:1] == (n,) and array.nbytes}
        classes = tuple(str(c) for c in range(int(labels.max()) + 1))
        return Prepared(images, 255, labels, classes, test, columns)


def _flags(arrays: dict[str, NDArray[Any]], n: int) -> str:
    """Which arrays could be the border."""
    candidates = [key for key, array in arrays.items() if array.dtype == np.bool_ and array.shape == (n,)]
    return f"boolean arrays of shape ({n},) are {', '.join(candidates)}" if candidates else "it has no boolean array"


def _read(where: str, progress: Progress) -> dict[str, NDArray[Any]]:
    try:
        # Opened here, as np.load leaves a file open in which it finds no archive.
        with located(where).open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(f"{where} is a single array; an .npz archive with images and labels is needed")
            arrays: dict[str, NDArray[Any]] = {}
            for done, key in enumerate(archive.files):
                progress(f"reading {where}", done, len(archive.files))
                array = archive[key]
                # What is in the zip but no array comes back as bytes; records have no plain columns.
                if isinstance(array, np.ndarray) and array.dtype.kind in "biufcmMUS":
                    arrays[key] = array
            return arrays
    except UserError:
        raise
    # NotImplementedError is what zipfile raises for a compression that it does not know.
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if not zipfile.is_zipfile(located(where)):
            # Whatever is no archive, NumPy takes for a pickle, and says how to load it unsafely.
            raise UserError(f"{where} is damaged or no .npz archive; write it with numpy.savez") from error
        if "allow_pickle" in str(error):
            raise UserError(f"{where} holds Python objects; save plain numeric arrays only") from error
        raise UserError(f"{where} is damaged or no .npz archive ({error})") from error


def _images(images: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """(n, c, h, w) from (n, h, w) or (n, h, w, c)."""
    description = f"{where}: images is {images.dtype} of shape {images.shape}"
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(f"{description}; it must be uint8 of shape (n, height, width) or (n, height, width, channels)")
    if images.ndim == 4 and images.shape[3] > 4 and images.shape[1] in (1, 3, 4):
        raise UserError(
            f"{description}, which looks like channels first; channels go last: (n, height, width, channels)"
        )
    stacked = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stacked)

"""Python's pickles of plain data, read without running code.

A pickle names functions to call. Here the names that uint8 arrays need are replaced by harmless classes, and every
other name is refused. The result holds only None, numbers, text, bytes, lists, tuples, dictionaries and uint8 arrays.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import UserError

MEMORY = 2**20
"""Largest number of a memo: the reader makes room for all below it, so a huge one would fill the memory."""


def read_plain_pickle(content: bytes, where: str) -> Any:
    """The plain data in a pickle; text of Python 2 is read as latin-1.

    Raises:
        UserError: it asks for anything but plain data, or is damaged.
    """
    try:
        for code, argument, _ in pickletools.genops(content):
            if "PUT" in code.name and argument is not None and int(argument) > MEMORY:
                raise pickle.UnpicklingError(f"memo number {argument}")
        return _uncovered(_PlainUnpickler(io.BytesIO(content), encoding="latin1").load())
    except UserError as error:
        raise UserError(f"{where} is refused: {error}") from error
    # A damaged pickle ends in whatever error its last instruction leads to.
    except Exception as error:
        raise UserError(f"{where} is damaged or no pickle ({type(error).__name__}: {error}); get it again") from error


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows arrays of bytes and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise UserError(f"it asks for {module}.{name}; only plain data are read")
        # A pickle may set attributes of what it is given: of a function, those of a new one.
        return stand_in if isinstance(stand_in, type) else lambda *given: stand_in(*given)

    def persistent_load(self, pid: Any) -> Any:
        raise UserError(f"it refers to an outside object, {pid!r}; only plain data are read")


class _Array:
    """Stands for numpy.ndarray: filled by the state that follows."""

    values: NDArray[np.uint8]

    def __init__(self, *ignored: Any) -> None: ...

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Type, bool, bytes | str]) -> None:
        _, shape, kind, fortran, values = state
        content = values.encode("latin1") if isinstance(values, str) else values
        self.values = _bytes(content, shape, kind, "F" if fortran else "C")


class _Type:
    """Stands for numpy.dtype, of which one is known."""

    def __init__(self, name: str, align: object = False, copy: object = True) -> None:
        del align, copy
        if name not in ("u1", "uint8", "|u1"):
            raise UserError(f"it holds an array of type {name!r}; only uint8 is read")

    def __setstate__(self, state: Any) -> None: ...


def _from_buffer(content: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.values = _bytes(content, shape, kind, order)
    return array


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1" if encoding in ("latin1", "latin-1") else "utf-8")


def _bytes(content: Any, shape: Any, kind: Any, order: Any) -> NDArray[np.uint8]:
    if not (
        isinstance(content, (bytes, bytearray))
        and isinstance(kind, _Type)
        and isinstance(shape, tuple)
        and all(isinstance(length, int) and length >= 0 for length in shape)
        and math.prod(shape) == len(content)
    ):
        raise UserError("it holds an array whose size is not that of its values")
    values = np.frombuffer(content, np.uint8)
    return values.reshape(shape, order="F" if order == "F" else "C")


def _uncovered(value: Any) -> Any:
    """The same data with arrays in place of the stand-ins: in the dictionary and its values, where they may be."""
    if isinstance(value, dict):
        return {key: item.values if isinstance(item, _Array) else item for key, item in value.items()}
    return value.values if isinstance(value, _Array) else value


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}

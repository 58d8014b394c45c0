"""What travels between clients and server: named tensors that know their size on the wire."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor

from fedkd.tensors import top_k


class Knowledge(Mapping[str, Tensor]):
    """An immutable bag of named tensors: soft predictions, weights, prototypes, histograms, scores.

    Every tensor travels as one array in NumPy's `.npy` format, so the size on the wire is known before
    anything is sent: `nbytes` is what the ledger books, and what Flower's `ArrayRecord` carries.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None, /, **named: Tensor) -> None:
        # Copied: what was reported must not change with the weights that it was taken from.
        self._tensors = {name: tensor.detach().cpu().clone() for name, tensor in {**(tensors or {}), **named}.items()}
        self._nbytes: int | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {tuple(t.shape)} {t.dtype}" for name, t in self._tensors.items())
        return f"Knowledge({inside})"

    @cached_property
    def encoded(self) -> dict[str, bytes]:
        """The serialised arrays, by name."""
        return {name: _encode(tensor) for name, tensor in self._tensors.items()}

    @property
    def nbytes(self) -> int:
        """Size of the serialised arrays, in bytes. It follows from types and shapes; nothing is serialised for it."""
        if self._nbytes is None:
            self._nbytes = sum(map(_size, self._tensors.values()))
        return self._nbytes

    @classmethod
    def decode(cls, encoded: Mapping[str, bytes], decoded: dict[int, Tensor] | None = None) -> Knowledge:
        """Inverse of `encoded`. Arrays of Python objects are refused, so nothing is ever unpickled.

        `decoded` has what was decoded before, by the `id` of its bytes: bags that share an array share its tensor.
        """
        known, bag = {} if decoded is None else decoded, cls()
        for name, data in encoded.items():
            if id(data) not in known:
                known[id(data)] = _decode(data)
            # Not copied once more: many models may be in memory at once.
            bag._tensors[name] = known[id(data)]
        return bag


def _encode(tensor: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, tensor.contiguous().numpy(), allow_pickle=False)
    return buffer.getvalue()


def _size(tensor: Tensor) -> int:
    """Length of `_encode(tensor)`: a header that depends on type and shape, and the numbers."""
    return _header(tensor.dtype, tuple(tensor.shape)) + tensor.numel() * tensor.element_size()


@lru_cache(maxsize=4096)
def _header(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    # Zeros of the shape without its memory: every number is the same one.
    one = torch.zeros((), dtype=dtype).numpy()
    description = np.lib.format.header_data_from_array_1_0(np.broadcast_to(one, shape))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {**description, "fortran_order": False})
    return header.tell()


def _decode(data: bytes) -> Tensor:
    return torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False))


WIRE_TYPES = {"float16": torch.float16, "float32": torch.float32}
_TOP = re.compile(r"top\((\d+)\)")


def _known(wire: str) -> str:
    if wire not in WIRE_TYPES and not ((top := _TOP.fullmatch(wire)) and int(top[1])):
        raise ValueError('it should be "float16", "float32" or "top(K)", the K highest logits of each row')
    return wire


Wire = Annotated[str, AfterValidator(_known)]
"""How soft predictions travel: as numbers of a type, or the K highest of each row (`top_k.pack`)."""


def over_the_wire(logits: Tensor, wire: str) -> Tensor:
    """(…, classes) `logits` as the receiver decodes them, in float32.

    Logits that are compared with received ones go through here first. A second transfer changes nothing more. Values
    beyond the range of float16 (±65504) are clamped instead of sent as infinities.
    """
    return from_wire(to_wire(logits, wire), logits.shape[-1])


def to_wire(logits: Tensor, wire: str) -> Tensor:
    """(…, classes) `logits` as they travel: in a type, clamped to its range, or as (…, bytes) of the K highest.

    All logits are sent as float16 where that takes no more bytes than the K highest, or where one of them is not
    finite, because the server must see that. Encoding decoded logits again gives the same bytes.
    """
    top, classes = _TOP.fullmatch(wire), logits.shape[-1]
    if top and top_k.packed_size(classes, int(top[1])) < 2 * classes and bool(logits.isfinite().all()):
        return top_k.pack(logits.flatten(0, -2), int(top[1])).reshape(*logits.shape[:-1], -1)
    dtype = torch.float16 if top else WIRE_TYPES[wire]
    limit = torch.finfo(dtype).max
    return logits.clamp(-limit, limit).to(dtype)


def from_wire(sent: Tensor, classes: int) -> Tensor:
    """(…, classes) float32 logits, decoded from the result of `to_wire`."""
    if sent.dtype != torch.uint8:
        return sent.float()
    return top_k.unpack(sent.flatten(0, -2), classes).reshape(*sent.shape[:-1], classes)


def decode_predictions(logits: Tensor, classes: int) -> Tensor:
    """(teachers, n, classes) float32, decoded from encoded (n, …) or (teachers, n, …) logits."""
    return from_wire(logits if logits.dim() == 3 else logits.unsqueeze(0), classes)


def collect(reports: Mapping[int, Knowledge], classes: int) -> Tensor:
    """(clients, n, classes) logits of all reports, in the order of client ids."""
    return torch.stack([from_wire(reports[client]["logits"], classes) for client in sorted(reports)])

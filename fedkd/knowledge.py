"""What travels between clients and server: named tensors that know their size on the wire."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


class Knowledge(Mapping[str, Tensor]):
    """An immutable bag of named tensors: soft predictions, weights, prototypes, histograms, scores.

    Every tensor travels as one array in NumPy's `.npy` format, so the size on the wire is known before
    anything is sent: `nbytes` is what the ledger books, and what Flower's `ArrayRecord` carries.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None, /, **named: Tensor) -> None:
        # Copied: what was reported must not change with the weights that it was taken from.
        self._tensors = {name: tensor.detach().cpu().clone() for name, tensor in {**(tensors or {}), **named}.items()}

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
        """Size of the serialised arrays, in bytes."""
        return sum(len(data) for data in self.encoded.values())

    @classmethod
    def decode(cls, encoded: Mapping[str, bytes]) -> Knowledge:
        """Inverse of `encoded`. Arrays of Python objects are refused, so nothing is ever unpickled."""
        return cls({name: _decode(data) for name, data in encoded.items()})


def _encode(tensor: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, tensor.contiguous().numpy(), allow_pickle=False)
    return buffer.getvalue()


def _decode(data: bytes) -> Tensor:
    return torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False))


WIRE_TYPES = {"float16": torch.float16, "float32": torch.float32}


def over_the_wire(logits: Tensor, wire: str) -> Tensor:
    """`logits` as the other side would read them: rounded to the wire's type, then float32 again.

    Whatever is compared with soft predictions that travelled passes through here first. Values beyond the
    range of float16 (±65504) are clamped rather than sent as infinities.
    """
    return to_wire(logits, wire).float()


def to_wire(logits: Tensor, wire: str) -> Tensor:
    """`logits` in the type in which they travel, clamped to its range."""
    dtype = WIRE_TYPES[wire]
    limit = torch.finfo(dtype).max
    return logits.clamp(-limit, limit).to(dtype)

"""Many bags of tensors as one, in which equal ones travel, and are kept, once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import scoped, under

OWN = "tuning/"
"""Prefix of what the search itself says, beside the methods' bags."""
SHARES = f"{OWN}shares"
"""Which bag each cell's is, where they are not all the first."""
_BAG = re.compile(r"bag\d+/")


def pack(bags: Sequence[Mapping[str, Tensor]], known: Sequence[bytes] = ()) -> tuple[dict[str, Tensor], list[bytes]]:
    """One bag that holds each different one of `bags` once, but for those whose digest is `known` to the reader.

    Where all are equal, and the reader knows none, they are packed under the names that they have. Returns the
    tensors and the digests of all that the reader knows afterwards, in the order of their numbers.
    """
    digests = list(known)
    shares: list[int] = []
    tensors: dict[str, Tensor] = {}
    for bag in bags:
        mark = _digest(bag)
        if mark not in digests:
            tensors |= scoped(f"bag{len(digests)}/", bag)
            digests.append(mark)
        shares.append(digests.index(mark))
    if known or any(shares):
        return tensors | {SHARES: torch.tensor(shares, dtype=torch.int16)}, digests
    return {name.removeprefix("bag0/"): tensor for name, tensor in tensors.items()}, digests


def shares(tensors: Mapping[str, Tensor], cells: int) -> list[int]:
    """The number of each cell's bag in what was packed."""
    return tensors[SHARES].tolist() if SHARES in tensors else [0] * cells


def bag(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """The bag of this number, unpacked."""
    found = under(f"bag{number}/", tensors)
    return found or (bags_of(tensors, plain=True) if number == 0 else {})


def bags_of(tensors: Mapping[str, Tensor], *, plain: bool = False) -> dict[str, Tensor]:
    """The packed bags without what the search says beside them; `plain`: only those under the names that they had."""
    kept = {name: value for name, value in tensors.items() if not name.startswith(OWN)}
    return {name: value for name, value in kept.items() if not _BAG.match(name)} if plain else kept


def _digest(bag: Mapping[str, Tensor]) -> bytes:
    content = hashlib.sha256()
    for name, data in sorted(Knowledge(bag).encoded.items()):
        content.update(f"{name}\x1f{len(data)}\x1f".encode())
        content.update(data)
    return content.digest()

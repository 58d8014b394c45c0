"""Many bags of tensors packed into one, in which equal bags are sent and stored only once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import scoped, under

PREFIX = "tuning/"
"""Prefix of the names that belong to the search and not to the methods' bags."""
SHARES = f"{PREFIX}shares"
"""Number of each cell's bag; left out if all cells have bag 0."""
_BAG = re.compile(r"bag\d+/")


def pack(bags: Sequence[Mapping[str, Tensor]], known: Sequence[bytes] = ()) -> tuple[dict[str, Tensor], list[bytes]]:
    """One bag that holds each different bag once, without those whose digest is `known` to the receiver.

    If all bags are equal and the receiver knows none, their tensors keep their names. Returns the tensors, and the
    digests of all bags that the receiver knows afterwards, in the order of their numbers.
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
    """The number of each cell's bag, from packed tensors."""
    return tensors[SHARES].tolist() if SHARES in tensors else [0] * cells


def bag(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """The bag with this number, from packed tensors."""
    content = under(f"bag{number}/", tensors)
    return content or (bags_of(tensors, plain=True) if number == 0 else {})


def bags_of(tensors: Mapping[str, Tensor], *, plain: bool = False) -> dict[str, Tensor]:
    """Packed tensors without those of the search itself; `plain`: only tensors that kept their names."""
    bags = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
    return {name: value for name, value in bags.items() if not _BAG.match(name)} if plain else bags


def _digest(bag: Mapping[str, Tensor]) -> bytes:
    content = hashlib.sha256()
    for name, data in sorted(Knowledge(bag).encoded.items()):
        content.update(f"{name}\x1f{len(data)}\x1f".encode())
        content.update(data)
    return content.digest()

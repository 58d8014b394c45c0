"""Tensors of many owners side by side under flat names: `model/student/head.weight`, `latest/3/logits`."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from torch import Tensor


def scoped(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names that begin with `prefix`."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it: the inverse of `scoped`."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def numbered(prefix: str, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """What is under `prefix`, by the number that comes next in a name: the tensors of each client."""
    groups: dict[int, dict[str, Tensor]] = {}
    for name, tensor in under(prefix, tensors).items():
        number, _, rest = name.partition("/")
        groups.setdefault(int(number), {})[rest] = tensor
    return groups


def forget(tensors: MutableMapping[str, Tensor], *prefixes: str) -> None:
    """Remove the tensors whose names begin with one of the prefixes."""
    for name in [name for name in tensors if name.startswith(prefixes)]:
        del tensors[name]

"""How many samples a network computes at a time in evaluation: as many as its activations leave room for.

On a CPU a layer's input and output should stay in its cache between one layer and the next; on a GPU a chunk should
fill the machine. Chunks of 16 samples or more give the same predictions to the bit; smaller ones may be computed by
another kernel, so that none is made where there are more samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LEAST = 16
"""Samples of a chunk, at least."""
MOST = 4096
"""Rows of predictions of a chunk, at most: a text has one a token."""
CACHE = 2**23
"""Bytes that the largest input and output of a layer may have together on a CPU: a part of the last-level cache."""
GPU = 2**29
"""The same on a GPU."""

_known: dict[tuple[Any, ...], int] = {}
"""bytes a sample, by kind of network and samples: a federation makes thousands of equal networks"""


def chunk(network: nn.Module, x: Tensor, rows: int, call: Callable[[Tensor], object], settings: object = None) -> int:
    """Samples at a time for a network in evaluation mode.

    Args:
        network: what predicts.
        x: (n, …) samples.
        rows: rows of predictions a sample.
        call: computes with the network; called with one sample if such a network has not been measured yet.
        settings: what else the size of activations depends on, such as the precision.
    """
    if not len(x):
        return LEAST
    weights = tuple(tensor.shape for tensor in network.parameters())
    key = (type(network), weights, x.shape[1:], x.dtype, x.device.type, settings)
    if key not in _known:
        _known[key] = largest(call, x[:1])
    room = (CACHE if x.device.type == "cpu" else GPU) // max(1, _known[key])
    most = max(1, MOST // rows)
    return max(min(LEAST, most), min(room, most))


def largest(call: Callable[[Tensor], object], x: Tensor) -> int:
    """Bytes of the largest input and output, together, of an operation that `call` does on x; weights do not count."""
    with torch.inference_mode(), _Watch() as watch:
        call(x)
    most: int = watch.most
    return most


def pieces(parts: Sequence[Tensor], size: int) -> Iterator[Tensor]:
    """The samples of all parts in order, in pieces of equal size: `size` or a little less, and no small rest.

    A piece is never below `LEAST` samples where `size` is not, even if it becomes larger than `size` for this.
    Only a piece that takes from several parts is copied.
    """
    total = sum(map(len, parts))
    count = max(1, min(-(-total // size), total // min(size, LEAST)))
    at, rest = 0, iter(parts)
    part = next(rest)
    for number in range(count):
        wanted = total * (number + 1) // count - total * number // count
        taken: list[Tensor] = []
        while wanted:
            if at == len(part):
                part, at = next(rest), 0
            taken.append(part[at : at + wanted])
            at, wanted = at + len(taken[-1]), wanted - len(taken[-1])
        yield taken[0] if len(taken) == 1 else torch.cat(taken or [parts[0]])


class _Watch(TorchFunctionMode):
    """Sees every function of torch that is called."""

    most = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            inputs = {id(each): each.nbytes for each in args if isinstance(each, Tensor) and not _weight(each)}
            self.most = max(self.most, result.nbytes + sum(inputs.values()))
        return result


def _weight(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)

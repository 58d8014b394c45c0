"""Copies of tensors on a device, made once in a process: data go to the GPU once, and not at every exchange."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict

import torch
from torch import Tensor

LIMIT = 4 * 2**30
"""Bytes of all copies together; those used longest ago are dropped first."""

_COPIES: OrderedDict[tuple[int, str], tuple[weakref.ref[Tensor], Tensor]] = OrderedDict()
_TURN = threading.Lock()


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; of a tensor that is nowhere changed, the same copy each time.

    The copy lives as long as the original and the limit allow. A copy to a GPU is made from pinned memory and does not
    wait.
    """
    if tensor.device.type == device.type:
        return tensor.to(device)
    key = (id(tensor), str(device))
    with _TURN:
        known = _COPIES.get(key)
        if known is not None and known[0]() is tensor:
            _COPIES.move_to_end(key)
            return known[1]
        source = tensor.pin_memory() if device.type == "cuda" else tensor
        copy = source.to(device, non_blocking=True)
        _COPIES[key] = weakref.ref(tensor), copy
        _COPIES.move_to_end(key)
        for stale in [name for name, (original, _) in _COPIES.items() if original() is None]:
            del _COPIES[stale]
        while len(_COPIES) > 1 and sum(each.nbytes for _, each in _COPIES.values()) > LIMIT:
            _COPIES.popitem(last=False)
        return copy

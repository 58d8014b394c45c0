"""Seeds for the random numbers that a network draws while it computes.

Dropout and stochastic depth take no generator: they draw from torch's global one. A user's own module may also draw
from numpy's and Python's. All threads of a process share these generators. Therefore a lock lets one thread draw at a
time, the generators are seeded for the step before it draws, and their states are restored afterwards.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

_ALONE = threading.RLock()
_KNOWN = ("torch.nn.", "torchvision.", "fedkd.")
"""Modules of these packages draw as `_drops` reads it, and from torch alone."""
_DRAWING = (nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


@dataclass(frozen=True)
class Sources:
    """Which global streams a network may draw from in training."""

    torch: bool
    others: bool = False
    """numpy's and Python's"""
    recurrent: bool = False
    """whether recurrent layers drop: on a GPU, cuDNN's draw from a stream that cannot be seeded"""

    def __bool__(self) -> bool:
        return self.torch


def sources_of(model: nn.Module) -> Sources:
    """Which generators a network may draw from. Unknown modules count as drawing from all of them."""
    modules = list(model.modules())
    unknown = not all(type(module).__module__.startswith(_KNOWN) for module in modules)
    recurrent = any(isinstance(module, nn.RNNBase) and module.dropout > 0 for module in modules)
    return Sources(unknown or any(map(_drops, modules)), unknown, recurrent)


def _drops(module: nn.Module) -> bool:
    """Whether a module has a chance above 0 of dropping something: `p` of dropout, `dropout` of a GRU, `drop_rate`."""
    chances = (value for name, value in vars(module).items() if name == "p" or "drop" in name)
    return isinstance(module, _DRAWING) or any(isinstance(p, int | float) and p > 0 for p in chances)


@contextmanager
def seeded(sources: Sources, seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the generators of `sources` for one block and restore them after it; one thread at a time is inside."""
    with _ALONE, ExitStack() as after:
        # Generators by themselves: torch.manual_seed takes most of a millisecond, for devices that nobody asked for.
        generators = [torch.default_generator]
        if device is not None and device.type == "cuda":
            generators.append(torch.cuda.default_generators[device.index or 0])
            cudnn = torch.backends.cudnn.enabled and not sources.recurrent
            after.enter_context(torch.backends.cudnn.flags(enabled=cudnn))
        for generator in generators:
            after.callback(generator.set_state, generator.get_state())
            generator.manual_seed(seed)
        if sources.others:
            after.callback(random.setstate, random.getstate())
            after.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 - that a module may draw from
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
        yield

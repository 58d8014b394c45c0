"""What a network draws while it computes comes from a stream of its own too.

Dropout, stochastic depth and their like take no generator: they draw from torch's global one, and a user's own module
may draw from numpy's and Python's. All threads of a process share these. So whoever draws is alone while it does, the
global streams begin at a seed that names the step, and are put back afterwards.
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
    """What a network may draw from. Modules that nothing is known about may draw from anything."""
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
    """Inside, the streams of `sources` begin at a seed and no other thread is inside; afterwards they are put back."""
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

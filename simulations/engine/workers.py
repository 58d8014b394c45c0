"""A worker: a process in which Ray runs the client app, one message at a time."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from simulations.engine.grid import answered
from simulations.engine.quiet import quiet
from simulations.engine.travelling import Bundle, Files, Greeting, Probe, at_a_distance, greeting

OVERHEAD = 600 * 2**20
"""Bytes of GPU memory that each process takes besides its tensors: CUDA's context and kernels."""
HEADROOM = 1.2
"""A client's peak is multiplied by this: memory that is reserved in pieces, and clients with more data."""
IDLE = 30.0
"""Seconds without a message after which a worker gives the GPU memory back that it has reserved and does not use."""

Meter = Callable[[], float]
"""The share of its GPU's memory that the process has needed at most since the last call; 0 without a GPU."""


@dataclass(frozen=True)
class Answered:
    """What comes back from a worker."""

    reply: Message
    context: Context
    """of the node, afterwards"""
    used: float = 0.0
    """the share of its GPU's memory that the message needed; 0 without a GPU"""


class Worker:
    """The Ray actor that answers messages. It is made once; what it needs to import is imported then."""

    def __init__(self, app: ClientApp, verbose: bool, meter: Meter | None) -> None:
        import ray

        if not ray.get_gpu_ids():
            # A client uses every GPU that it sees, and a node of a cluster may show all of its own.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._app, self._verbose, self._meter = app, verbose, meter or gpu_memory
        self._last = time.monotonic()
        if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
            threading.Thread(target=self._rest, daemon=True).start()

    def greet(self, probe: Probe) -> Greeting:
        """Answered when the worker is ready: what it sees of the driver's files."""
        return greeting(probe)

    def unpack(self, bundle: Bundle) -> None:
        """Lay out files that this worker does not see."""
        bundle.unpack()

    def handle(self, message: Message, context: Context) -> Answered:
        """The reply to a message."""
        self._last = time.monotonic()
        with quiet(self._verbose):
            self._meter()
            reply, context = answered(self._app, message, context)
        self._last = time.monotonic()
        return Answered(reply, context, self._meter())

    def handle_at_a_distance(self, message: Message, context: Context, state: Files) -> tuple[Answered, Files]:
        """The same where the driver's disk is not seen: the clients' state comes with the message and goes back."""
        with at_a_distance(message, state) as back:
            done = self.handle(message, context)
        return done, back

    def _rest(self) -> None:
        import torch

        while True:
            time.sleep(IDLE / 2)
            if time.monotonic() - self._last > IDLE:
                torch.cuda.empty_cache()


def gpu_memory() -> float:
    """The `Meter` of CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0.0
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    whole: Any = torch.cuda.get_device_properties(0).total_memory
    return float((peak * HEADROOM + OVERHEAD) / whole)

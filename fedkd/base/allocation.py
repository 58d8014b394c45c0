"""How a process that trains allocates memory."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Numbers of the parameters in glibc's malloc.h."""
LARGEST = 64 * 2**20
"""Bytes; a larger block goes back to the system as soon as it is free."""
RESERVE = 256 * 2**20
"""Bytes of free memory that a process keeps."""


@cache
def keep_freed_memory() -> bool:
    """Have this process use freed memory again instead of returning it to the system; whether that was possible.

    The activations of a convolution are a few MiB. By default glibc asks the system for each anew at every step, and
    the system clears every page first: up to a third of the time of training on a CPU. Other C libraries are left as
    they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, RESERVE))

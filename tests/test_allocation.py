"""Freed memory is used again: blocks of a few MiB are not asked from the system at every step."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

ALLOCATING = """
import resource, sys
import torch
from fedkd.base.allocation import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else False
torch.set_num_threads(1)
for _ in range(20):
    torch.ones(2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    torch.ones(2**20)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[bool, int]:
    """Whether memory is kept, and pages that the system had to give for 100 blocks of 4 MiB, one after the other."""
    done = subprocess.run([sys.executable, "-c", ALLOCATING, how], capture_output=True, text=True, check=True)
    kept, pages = done.stdout.split()
    return kept == "1", int(pages)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_blocks_are_used_again() -> None:
    kept, pages = faults("kept")
    if not kept:
        pytest.skip("this system's C library is not glibc")
    _, by_default = faults("default")
    blocks = 100 * 4 * 2**20 // resource.getpagesize()
    assert pages < blocks // 100
    assert pages <= by_default

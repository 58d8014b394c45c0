"""Random streams, derived and never global.

Every draw belongs to a stream named by (seed, purpose, …): the numbers do not depend on which process draws
them, in which order, or on what was drawn before.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from the parts that name a stream."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(*parts: int | str) -> torch.Generator:
    """A generator for the stream that the parts name."""
    return torch.Generator().manual_seed(seed_of(*parts))

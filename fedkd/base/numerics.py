"""The version of fedkd's numbers: raised whenever equal settings and equal data would give others than before.

It is part of every federation's identity, so that results made before a change are never taken for results after it.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "bfloat16"]
"""In which type networks compute."""

CHANGES = {
    1: "the first numbers",
    2: "partitions in which no client is favoured by rounding; ties in tuning broken by the loss; influence by the "
    "exact curvature of the last layer; seeded dropout; highest logits rounded once; ReffAKD's sums in float32; "
    "private hand-overs as they are; no round for an average that is made anyway",
}
"""What changed with each version."""

NUMERICS = max(CHANGES)
"""The version now."""

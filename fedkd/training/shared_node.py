"""What a loss may read of the node where several clients are trained together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedkd.node.node import Node


class SharedNode:
    """Several nodes read as one: attributes that are equal at all of them.

    A loss that reads anything else, such as a client's state or its model, depends on more than its batch. The
    exception then ends the stacking, and the clients train one by one.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes

    def __getattr__(self, name: str) -> Any:
        first, *others = (getattr(node, name) for node in self._nodes)
        plain = isinstance(first, int | float | str | tuple) or all(other is first for other in others)
        if name in _OF_ONE or callable(first) or not plain or any(other != first for other in others if other is not first):
            raise TypeError(f"the loss reads {name!r} of the client's node; what differs between clients is in `fixed`")
        return first


_OF_ONE = ("models", "student", "state", "records", "steps", "samples")
"""What belongs to one node, also where there is only one."""

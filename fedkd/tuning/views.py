"""A node as one cell sees it: as if it were alone, untuned, and at the exchange that it would then be at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from fedkd.knowledge.scopes import forget, scoped, under
from fedkd.models import Model
from fedkd.node.moment import in_round
from fedkd.node.node import Node
from fedkd.settings.training import Training
from fedkd.tuning.bags import OWN, bag, pack, shares
from fedkd.tuning.cells import Cell
from fedkd.tuning.plan import SearchPlan
from fedkd.tuning.state import CHOSEN, POINTS, SETUP


def view(node: Node, cell: Cell, state: dict[str, Tensor], round: int, models: dict[str, Model]) -> Node:
    """The node at a round of one cell, with state and models of its own; what is drawn and held is the node's."""
    return replace(
        node,
        training=cell.training,
        state=state,
        models=models,
        moment=in_round(round),
        steps=0,
        samples=0,
        records={},
    )


@contextmanager
def as_if_untuned(node: Node, training: Training) -> Iterator[None]:
    """The node itself in a round of the chosen cell: its exchanges are counted without the search."""
    moment, own = node.moment, node.training
    node.moment, node.training = in_round(node.round), training
    try:
        yield
    finally:
        node.moment, node.training = moment, own


def set_up(search: SearchPlan, node: Node) -> None:
    """Let every cell set itself up, and keep what each puts into its state."""
    states: list[Mapping[str, Tensor]] = []
    for cell in search.at_start(node):
        alone = view(node, cell, {}, 0, dict(node.models))
        cell.method.setup(alone)
        states.append(alone.state)
    keep_states(node, states)


def keep_states(node: Node, states: Sequence[Mapping[str, Tensor]]) -> None:
    """Keep what each cell that the start holds has put into its state, in place of what was kept before."""
    forget(node.state, SETUP)
    node.state |= scoped(SETUP, pack(states)[0])


def state_of(search: SearchPlan, node: Node, number: int) -> dict[str, Tensor]:
    """What set-up and start of a cell left in its state, a copy."""
    packed = under(SETUP, node.state)
    many = len(search.at_start(node))
    own = shares(packed, many)[number if number < many else 0]
    return {name: tensor.clone().to(node.device) for name, tensor in bag(packed, own).items()}


def drop(node: Node, *keep: str) -> None:
    """Forget all that the search has in a node's state, but for what begins with one of `keep`."""
    for name in [name for name in node.state if name.startswith(OWN) and not name.startswith(keep)]:
        del node.state[name]


def settle(search: SearchPlan, node: Node, number: int, *keep: str) -> None:
    """The search is over: the chosen cell's state becomes the node's, and the others' is forgotten."""
    own = state_of(search, node, number)
    drop(node, CHOSEN, POINTS, *keep)
    node.state |= own

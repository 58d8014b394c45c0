"""A node as one cell sees it: as if its method ran alone, without a search before its rounds."""

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
from fedkd.tuning.bags import PREFIX, bag, pack, shares
from fedkd.tuning.cells import Cell
from fedkd.tuning.plan import SearchPlan
from fedkd.tuning.state import CHOSEN, POINTS, SETUP


def view(node: Node, cell: Cell, state: dict[str, Tensor], round: int, models: dict[str, Model]) -> Node:
    """The node in a round of one cell, with the cell's state and models, and the node's data and random streams."""
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
    """Within this context the node has the cell's settings and counts exchanges as if there had been no search."""
    moment, training_before = node.moment, node.training
    node.moment, node.training = in_round(node.round), training
    try:
        yield
    finally:
        node.moment, node.training = moment, training_before


def set_up(search: SearchPlan, node: Node) -> None:
    """Run the set-up of every cell and store the state of each."""
    states: list[Mapping[str, Tensor]] = []
    for cell in search.at_start(node):
        alone = view(node, cell, {}, 0, dict(node.models))
        cell.method.setup(alone)
        states.append(alone.state)
    keep_states(node, states)


def keep_states(node: Node, states: Sequence[Mapping[str, Tensor]]) -> None:
    """Store the states of the cells that take part in the start, instead of the states stored before."""
    forget(node.state, SETUP)
    node.state |= scoped(SETUP, pack(states)[0])


def state_of(search: SearchPlan, node: Node, number: int) -> dict[str, Tensor]:
    """A copy of the state of a cell after its set-up and start."""
    packed = under(SETUP, node.state)
    many = len(search.at_start(node))
    bag_number = shares(packed, many)[number if number < many else 0]
    return {name: tensor.clone().to(node.device) for name, tensor in bag(packed, bag_number).items()}


def drop(node: Node, *keep: str) -> None:
    """Delete the search's tensors in a node's state, except those whose names begin with one of `keep`."""
    for name in [name for name in node.state if name.startswith(PREFIX) and not name.startswith(keep)]:
        del node.state[name]


def settle(search: SearchPlan, node: Node, number: int, *keep: str) -> None:
    """End the search: the state of the chosen cell becomes the node's, and the states of the others are deleted."""
    state = state_of(search, node, number)
    drop(node, CHOSEN, POINTS, *keep)
    node.state |= state

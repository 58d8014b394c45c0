"""Groups are transport: how many nodes serve the clients changes no number, and a failure stays one client's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

from fedkd.base.errors import FederationError
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import MOST, Rounds, groups, separated
from fedkd.node.holdings import Holdings, Row
from fedkd.protocol.files import has_state
from fedkd.settings.federation import Federation
from simulations.engine import InlineGrid
from tests import small
from tests.small import own_cache
from tests.test_participation import METHODS, run

__all__ = ["own_cache"]

CLIENTS = 5
SEARCH = "tuned_kd(temperatures=[1.0, 2.0], weights=[0.5], rounds=1)"


@pytest.mark.parametrize("method", [*METHODS, SEARCH])
@pytest.mark.parametrize("nodes", [1, 3])
def test_one_three_and_all_nodes_give_equal_rows(method: str, nodes: int) -> None:
    assert run(method, participation=1.0, nodes=nodes) == run(method, participation=1.0)


@pytest.mark.parametrize("method", ["kd", "dml", "fedavg"])
def test_with_a_share_of_the_clients_too(method: str) -> None:
    assert run(method, nodes=2) == run(method)


@given(clients=st.sets(st.integers(0, 30), min_size=1), nodes=st.integers(1, 31))
def test_every_client_is_served_once_and_groups_are_even(clients: set[int], nodes: int) -> None:
    shared = groups([(client,) for client in sorted(clients)], range(100, 100 + nodes), 31)
    assert sorted(client for group in shared.values() for client in group) == sorted(clients)
    sizes = [len(group) for group in shared.values()]
    assert max(sizes) - min(sizes) <= 1
    if nodes == 31:
        assert all(group == (node - 100,) for node, group in shared.items())


@given(clients=st.integers(1, 300), nodes=st.integers(1, 60), least=st.integers(1, 12))
def test_groups_are_small_and_no_fewer_than_the_workers_need(clients: int, nodes: int, least: int) -> None:
    shared = groups([(client,) for client in range(clients)], range(nodes), clients + 1000, least=least)
    assert sorted(client for group in shared.values() for client in group) == list(range(clients))
    assert len(shared) == min(clients, nodes, max(least, -(-clients // MOST)))
    if nodes >= -(-clients // MOST):
        assert max(map(len, shared.values())) <= MOST


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=9), nodes=st.integers(1, 40))
def test_a_stack_is_never_divided_unless_clients_are_at_their_own_nodes(sizes: list[int], nodes: int) -> None:
    ids = iter(range(sum(sizes)))
    stacks = [tuple(next(ids) for _ in range(size)) for size in sizes]
    shared = groups(stacks, range(nodes), sum(sizes), at_home=False)
    assert sorted(client for group in shared.values() for client in group) == list(range(sum(sizes)))
    assert all(any(set(stack) <= set(group) for group in shared.values()) for stack in stacks)
    alone = groups(stacks, range(sum(sizes)), sum(sizes), at_home=True)
    assert alone == {client: (client,) for client in range(sum(sizes))}


@given(
    kinds=st.lists(st.sampled_from("abc"), min_size=4, max_size=30), nodes=st.integers(1, 12), share=st.integers(1, 3)
)
def test_groups_are_of_one_kind_where_there_are_nodes_for_it(kinds: list[str], nodes: int, share: int) -> None:
    clients = list(range(0, len(kinds), share))
    dealt = {
        node: group
        for alike, theirs in separated([(client,) for client in clients], range(nodes), kinds)
        for node, group in groups(alike, theirs, len(kinds)).items()
    }
    assert sorted(client for group in dealt.values() for client in group) == clients
    if nodes >= len({kinds[client] for client in clients}):
        assert all(len({kinds[client] for client in group}) == 1 for group in dealt.values())


class Counting(InlineGrid):
    """A grid that counts the messages of each exchange."""

    def __init__(self, nodes: int) -> None:
        super().__init__(client_app(small.load), nodes)
        self.sent: list[int] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        self.sent.append(len(messages))
        return super().send_and_receive(messages, timeout=timeout)


def test_one_message_goes_down_for_each_group_and_exchange() -> None:
    grid = Counting(2)
    of = small.small("dml", clients=CLIENTS, rounds=3)
    Rounds(of, small.load).start(grid, list(grid.get_node_ids()), lambda *_: None)
    assert grid.sent == [2, 2, 2, 2]


def failing(federation: Federation, client: int) -> Holdings:
    """Client 3 cannot read its data."""
    if client == 3:
        raise OSError("the disk of client 3 is broken")
    return small.load(federation, client)


def test_a_client_that_fails_is_named_and_its_siblings_work_is_kept(tmp_path: Path) -> None:
    of, told = small.small("kd", clients=CLIENTS, rounds=1), list[Row]()
    grid = InlineGrid(client_app(failing), 1)
    rounds = Rounds(of, small.load, tmp_path)
    with pytest.raises(FederationError, match=r"1 of 5 clients failed at the start; client 3: .*disk of client 3"):
        rounds.start(grid, list(grid.get_node_ids()), lambda _, rows: told.extend(rows))
    assert not told
    assert [has_state(tmp_path, client, 0) for client in range(CLIENTS)] == [True, True, True, False, True]


class Silent(InlineGrid):
    """A grid of which one node never answers."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        _, *others = super().send_and_receive(messages, timeout=timeout)
        return others


def test_a_node_that_does_not_answer_leaves_all_its_clients_without_one() -> None:
    grid = Silent(client_app(small.load), 2)
    of = small.small("kd", clients=CLIENTS, rounds=1)
    with pytest.raises(FederationError, match="no answer from clients 0, 2, 4 at the start"):
        Rounds(of, small.load).start(grid, list(grid.get_node_ids()), lambda *_: None)


def test_progress_of_a_start_is_told_client_by_client_as_their_states_appear(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    of, grid = small.small("kd", clients=CLIENTS, rounds=1), InlineGrid(client_app(small.load), 2)
    rounds = Rounds(of, small.load, tmp_path)
    rounds.start(
        grid, list(grid.get_node_ids()), lambda *_: None, on_start=lambda done, clients: seen.append((done, clients))
    )
    assert seen == [(3, CLIENTS), (CLIENTS, CLIENTS)]

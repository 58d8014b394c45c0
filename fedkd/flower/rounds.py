"""The rounds of one federation on a Flower grid: configure, aggregate, and start, which alternates the two."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from flwr.app import Message
from flwr.serverapp import Grid

from fedkd.base.errors import FederationError as FederationError
from fedkd.base.files import beside
from fedkd.flower import wire
from fedkd.flower.timing import added, divided
from fedkd.node.holdings import Loader, Row
from fedkd.node.node import SERVER
from fedkd.protocol.client import Reply
from fedkd.protocol.files import started
from fedkd.protocol.schedule import schedule_of
from fedkd.protocol.server import Server, name_of
from fedkd.settings.federation import Federation

OnRound = Callable[[int, list[Row]], None]
"""Called with (round, rows) when a round is complete."""
OnStart = Callable[[int, int], None]
"""Called with (clients that have started, all clients)."""
MOST = 8
"""Clients in a group, if there are enough nodes: their models are in memory together. A larger stack is one group."""
_PAUSE = 0.05
"""Seconds between two checks for new replies."""
_RARELY = 50
"""Files are looked at again after so many times as long as it took."""


class Rounds:
    """One federation on a Flower grid.

    `configure` and `aggregate` make one exchange; `start` runs all exchanges. In each exchange a group of clients gets
    one message and answers with one. Groups change only the transport: each client has its own knowledge, state,
    random streams, bytes and rows.
    """

    def __init__(self, federation: Federation, load: Loader, store: Path | None = None) -> None:
        """`store` is the folder for the state of the server and the clients; None: clients use their own cache."""
        self.federation = federation
        self.schedule = schedule_of(federation)
        self.store = store
        self.first = 0
        """number of the first exchange to run"""
        self.last = self.schedule.moments[-1].exchange
        """number of the last exchange"""
        self.server = Server(self.schedule, load(federation, SERVER), store)
        self.seconds: dict[str, float] = {}
        """where the time of the round went until now: see `timing.PARTS`"""
        self.kinds: Sequence[str] = ()
        """kind of each client; clients of different kinds are in different groups. Empty: all are of one kind"""
        self.least: int | None = None
        """groups that an exchange is divided into at least, so that every worker has one; None: one for each node"""
        self._began = time.perf_counter()
        self._groups: dict[int, tuple[int, ...]] = {}
        """clients that each node was asked for in this exchange"""

    @property
    def finished(self) -> bool:
        """Whether all exchanges have run."""
        return self.first > self.last

    def configure(self, exchange: int, nodes: Sequence[int]) -> list[Message]:
        """The messages of one exchange, one for each node that is needed.

        If there is a node for each client, client i is at `nodes[i]`. Otherwise the clients that take part are
        distributed over the nodes in turn, and so are stacks that a shared store allows to be served by any node. A
        stack is divided only where each client is at its own node.
        """
        self._began = time.perf_counter()
        knowledge = self.server.messages(self.schedule.moments[exchange])
        stacks = self.schedule.stacks(self.schedule.moments[exchange], self.server.shape, knowledge)
        self._groups = {}
        for alike, theirs in separated(stacks, nodes, self.kinds):
            at_home = self.store is None
            self._groups |= groups(alike, theirs, self.federation.clients, at_home=at_home, least=self.least)
        store = None if self.store is None else str(self.store)
        messages = []
        for node, clients in self._groups.items():
            bags = {client: knowledge[client] for client in clients}
            request = wire.Request(self.federation.to_json(), exchange, bags, store, beside())
            messages.append(Message(request.content(), node, wire.TRAIN, group_id=str(exchange)))
        return messages

    def aggregate(self, exchange: int, replies: Iterable[Message]) -> list[Row]:
        """Process the replies of one exchange, which gives the knowledge for the next; returns the exchange's rows.

        Raises:
            FederationError: a client failed, is missing or has diverged. The others are never averaged without it.
        """
        received = self._read(exchange, replies)
        # In the order of the clients, not in the order of their answers.
        reports = {client: received[client].report for client in sorted(received)}
        rows = self.server.receive(
            self.schedule.moments[exchange],
            {client: report for client, report in reports.items() if report is not None},
            {client: reply.metrics for client, reply in received.items()},
        )
        return [*rows, (SERVER, "", "seconds", time.perf_counter() - self._began)]

    def complete(self, exchange: int, rows: list[Row]) -> tuple[int, list[Row]] | None:
        """Add the rows of one exchange; returns (round, rows) if its round is complete now, else None."""
        return self.server.complete(self.schedule.moments[exchange], rows)

    def start(
        self,
        grid: Grid,
        nodes: Sequence[int],
        on_round: OnRound,
        timeout: float | None = None,
        on_start: OnStart | None = None,
    ) -> None:
        """Run every exchange from `first` on; `on_round` is called as each round completes.

        `on_start` is called as the clients' starts come in: pre-training takes longer than many rounds.

        Raises:
            FederationError: see `aggregate`.
        """
        began = time.perf_counter()
        for exchange in range(self.first, self.last + 1):
            messages = self.configure(exchange, nodes)
            sent = time.perf_counter()
            if on_start is not None and exchange == 0:
                replies = self._as_they_come(grid, messages, on_start, timeout)
            else:
                replies = list(grid.send_and_receive(messages, timeout=timeout))
            back = time.perf_counter()
            flights = [wire.flight(reply, sent, back) for reply in replies if not reply.has_error()]
            done = self.complete(exchange, self.aggregate(exchange, _used_up(replies)))
            ended = time.perf_counter()
            self.seconds = added(self.seconds, divided(began, sent, ended, flights))
            began = ended
            if done:
                on_round(*done)
                self.seconds = {}

    def resume(self, after: int) -> bool:
        """Continue after a complete round, from the state in the store. False if the store lacks this state."""
        following = self.server.resume(after)
        if following is None:
            return False
        self.first = following
        return True

    def _as_they_come(
        self, grid: Grid, messages: list[Message], on_start: OnStart, timeout: float | None
    ) -> list[Message]:
        """Like `Grid.send_and_receive`, but calls `on_start` as replies come in, and not only after the last one."""
        open_ones, replies = set(grid.push_messages(messages)), list[Message]()
        clients, known, answered, next_look = sum(map(len, self._groups.values())), 0, 0, 0.0
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while open_ones and time.monotonic() < deadline:
            came = list(grid.pull_messages(open_ones))
            open_ones -= {reply.metadata.reply_to_message_id for reply in came}
            replies += came
            answered += sum(len(self._groups[reply.metadata.src_node_id]) for reply in came)
            done = answered
            if self.store and (began := time.monotonic()) >= next_look:
                # Clients of a group that has not answered are counted by the state files that they have written.
                done = min(clients, max(answered, started(self.store)))
                # Thousands of files take a while to list.
                next_look = time.monotonic() + _RARELY * (time.monotonic() - began)
            if done > known:
                known = done
                on_start(done, clients)
            if not came:
                time.sleep(_PAUSE)
        return replies

    def _read(self, exchange: int, replies: Iterable[Message]) -> dict[int, Reply]:
        received: dict[int, Reply] = {}
        failed: dict[int, str] = {}
        for reply in replies:
            if reply.has_error():
                group = self._groups.get(reply.metadata.src_node_id, (reply.metadata.src_node_id,))
                failed |= dict.fromkeys(group, str(reply.error.reason))
            else:
                answer = wire.Answer.read(reply.content)
                received |= answer.replies
                failed |= answer.failures
        when = name_of(self.schedule.moments[exchange])
        asked = [client for group in self._groups.values() for client in group]
        missing = sorted({*asked} - {*received} - {*failed})
        if failed:
            first = min(failed)
            raise FederationError(
                f"{len(failed)} of {len(asked)} clients failed {when}; client {first}: {failed[first]}"
            )
        if missing:
            raise FederationError(f"no answer from clients {', '.join(map(str, missing))} {when}")
        return received


def separated(
    stacks: Sequence[Sequence[int]], nodes: Sequence[int], kinds: Sequence[str]
) -> Iterator[tuple[Sequence[Sequence[int]], Sequence[int]]]:
    """The stacks of each kind, and the nodes for them: in proportion to the number of clients, each at least one.

    All together where there is one kind, or a node for each client, or fewer nodes than kinds.
    """
    alike: dict[str, list[Sequence[int]]] = {}
    for stack in stacks:
        alike.setdefault(kinds[stack[0]] if kinds else "", []).append(stack)
    one_by_one = len(nodes) >= len(kinds) and all(len(stack) == 1 for stack in stacks)
    if len(alike) < 2 or one_by_one or len(nodes) < len(alike):
        yield stacks, nodes
        return
    clients = {kind: sum(map(len, theirs)) for kind, theirs in alike.items()}
    counts = dict.fromkeys(alike, 1)
    for _ in range(len(nodes) - len(alike)):
        counts[max(alike, key=lambda kind: clients[kind] / counts[kind])] += 1
    first = 0
    for kind, count in counts.items():
        yield alike[kind], nodes[first : first + count]
        first += count


def groups(
    stacks: Sequence[Sequence[int]],
    nodes: Sequence[int],
    everybody: int,
    *,
    at_home: bool = True,
    least: int | None = None,
) -> dict[int, tuple[int, ...]]:
    """The clients of each node: client i at `nodes[i]`, or whole stacks distributed in turn, the largest first.

    The former is so where there are `everybody` nodes; stacks of several clients allow it only if it must be so,
    because clients are `at_home` at their own nodes. Else `least` nodes are used, or more where a group would have
    more than MOST clients, as far as there are nodes; None: all nodes.
    """
    clients = [client for stack in stacks for client in stack]
    if len(nodes) >= everybody and (at_home or len(stacks) == len(clients)):
        return {nodes[client]: (client,) for client in sorted(clients)}
    used = nodes if least is None else nodes[: max(least, math.ceil(len(clients) / MOST))]
    shared: dict[int, list[int]] = {node: [] for node in used}
    for at, stack in enumerate(sorted(stacks, key=lambda stack: (-len(stack), stack[0]))):
        shared[used[at % len(used)]] += stack
    return {node: tuple(sorted(group)) for node, group in shared.items() if group}


def _used_up(replies: list[Message]) -> Iterator[Message]:
    """The replies in turn; each is dropped when the next one is asked for, because they may hold large models."""
    replies.reverse()
    while replies:
        yield replies.pop()

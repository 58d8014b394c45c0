"""Flower inline: all nodes answer in the thread that asks, for debugging and tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flwr.app import Message
from flwr.clientapp import ClientApp

from fedkd.flower.wire import stamp
from fedkd.settings.federation import Federation
from simulations.engine.grid import LocalGrid, answered, name_message
from simulations.engine.lanes import Drive, Lane, divided, lanes_for
from simulations.engine.quiet import quiet


class InlineGrid(LocalGrid):
    """A Flower grid whose nodes answer in the caller's thread."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        super().__init__(nodes)
        self._app = app
        self._unanswered: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            ids.append(name_message(message))
            self._unanswered[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """At most one reply, to the oldest message: its node answers now, in the caller's thread."""
        asked = set(message_ids)
        first = next((name for name in self._unanswered if name in asked), None)
        return [] if first is None else [self._answer(self._unanswered.pop(first))]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        del timeout  # a node that answers in the caller's thread cannot be abandoned
        ids = list(self.push_messages(messages))
        return [reply for name in ids for reply in self.pull_messages([name])]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        handed = time.perf_counter()
        reply, self._contexts[node] = answered(self._app, message, self._contexts[node])
        stamp(reply, handed, time.perf_counter())
        return reply


class Inline:
    """The engine without Ray: the same apps, numbers and failures, in this process."""

    def __init__(self, app: ClientApp, verbose: bool = False) -> None:
        self._app, self._verbose = app, verbose
        os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

    def begin(
        self, ready: Callable[[], None], federations: Sequence[Federation] = (), folder: Path | None = None
    ) -> None:
        """Nothing has to be started; `ready` is called at once."""
        del federations, folder
        ready()

    def lanes(self, clients: int, federations: int) -> int:
        """Number of federations to run in parallel."""
        return lanes_for(clients, federations, 1)

    def run(self, drive: Drive, clients: int, lanes: int) -> None:
        """Run `drive`. In one process a node costs nothing, so each client is a node, and replies come one by one."""
        grid = InlineGrid(self._app, clients * lanes)
        with quiet(self._verbose):
            drive([Lane(grid, nodes) for nodes in divided(grid, lanes)])

    def close(self) -> None:
        """Nothing is left to end."""

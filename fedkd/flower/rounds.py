"""The rounds of one federation at the server: configure, aggregate, and start, which alternates the two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedkd.base.errors import FederationError as FederationError
from fedkd.base.files import beside
from fedkd.base.store import read_tensors, write_tensors
from fedkd.flower import wire
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.weights import unpacked
from fedkd.models import restored_model
from fedkd.node.holdings import Holdings, Loader, Row
from fedkd.node.node import SERVER, Node
from fedkd.protocol.client import has_state, reports
from fedkd.protocol.start import packed_state
from fedkd.settings.federation import Federation
from fedkd.training.finite import check_reports, check_results

OnRound = Callable[[int, list[Row]], None]
"""Called with (round, rows) when a round is complete."""


class Rounds:
    """One federation on a Flower grid.

    `configure` and `aggregate` are one exchange; `start` runs them all. Exchange 0 is the start, then come the
    method's preparations, then the rounds: one message down and one up per client and exchange.
    """

    def __init__(self, federation: Federation, load: Loader, store: Path | None = None) -> None:
        """`store` is where the server, and clients that can see it, keep state; None: clients use their own cache."""
        self.federation = federation
        self.method = federation.built
        self.store = store
        self.first = 0
        """exchange to begin with"""
        self.last = federation.last_exchange
        """number of the last exchange"""
        self._knowledge: dict[int, Knowledge] = {}
        self._frozen: dict[int, Knowledge] = {}
        """reports of the clients that teach but never learn: they hold for every round"""
        self._rows: list[Row] = []
        self._began = time.perf_counter()
        self._nodes: list[int] = []
        self._holdings = load(federation, SERVER)
        self._node = _server_node(federation, self._holdings)
        self._started_right: Tensor | None = None
        """which test samples the server's own model had right at the start"""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return self.first > self.last

    def participants(self, exchange: int) -> tuple[int, ...]:
        """Ids of the clients that an exchange needs: all at the start, then those that learn."""
        if self.method.pools:
            return (0,)
        return self.federation.learners if exchange else tuple(range(self.federation.clients))

    def configure(self, exchange: int, nodes: Sequence[int]) -> list[Message]:
        """The messages of one exchange: client i is told so, and is `nodes[i]` of the grid."""
        self._began = time.perf_counter()
        self._nodes = list(nodes)
        messages = []
        for client in self.participants(exchange):
            settings = ConfigRecord({"federation": self.federation.to_json(), "client": client, "exchange": exchange})
            if self.store is not None:
                settings["store"] = str(self.store)
            if folders := beside():
                settings["beside"] = folders
            knowledge = self._knowledge.get(client, Knowledge())
            content = RecordDict(
                {wire.EXCHANGE: settings, wire.KNOWLEDGE: wire.to_arrays(knowledge)},
            )
            messages.append(Message(content, nodes[client], wire.TRAIN, group_id=str(exchange)))
        return messages

    def aggregate(self, exchange: int, replies: Iterable[Message]) -> list[Row]:
        """Turn the replies of one exchange into what the next will send; returns the exchange's rows.

        Raises:
            FederationError: a client failed, is missing or has diverged. Survivors are never averaged without it.
        """
        received = self._read(exchange, replies)
        metrics = {client: wire.from_metrics(content) for client, content in received.items()}
        knowledge = {
            client: wire.from_arrays(content.array_records[wire.KNOWLEDGE]) for client, content in received.items()
        }
        when = self._when(exchange)
        check_reports(knowledge, when)
        rows: list[Row] = []
        for client in sorted(received):
            rows += [(client, split, metric, value) for (split, metric), value in metrics[client].items()]
            sent = self._knowledge.get(client, Knowledge())
            rows.append((client, "", "bytes_down", float(sent.nbytes)))
            rows.append((client, "", "bytes_up", float(knowledge[client].nbytes)))
        own = exchange - self.federation.offset
        self._node.exchange = max(0, own)
        self._node.round = max(0, own - self.method.preparations)
        told = {client: bag for client, bag in knowledge.items() if bag}
        self._knowledge = {}
        if own < 0:
            self._knowledge = self._consolidate(exchange, told)
        elif reports(self.federation, exchange):
            if own == 0:
                self.method.setup(self._node)
                learners = self.federation.learners
                self._frozen = {c: bag for c, bag in knowledge.items() if bag and c not in learners}
            self._knowledge = self.method.merge(self._node, told | (self._frozen if self._node.round > 0 else {}))
            if (model := self.method.global_model(self._node)) is not None:
                judged = self._holdings.judge(model, self._started_right)
                self._started_right = judged.right if self._started_right is None else self._started_right
                self._node.records.update(judged.metrics)
        rows += [(SERVER, split, metric, value) for (split, metric), value in self._node.records.items()]
        self._node.records.clear()
        check_results(rows, when)
        rows.append((SERVER, "", "seconds", time.perf_counter() - self._began))
        return rows

    def complete(self, exchange: int, rows: list[Row]) -> tuple[int, list[Row]] | None:
        """Book the rows of one exchange; (round, rows) once its round is complete, else None.

        What the method prepares belongs to the round before it: the start, or the last of a consolidation.
        """
        federation, number = self.federation, self.federation.round_of(exchange)
        preparing = 0 < exchange - federation.offset <= self.method.preparations
        self._rows = _added(self._rows, rows, f"{self.method.preparation}_bytes" if preparing else "")
        if exchange < self.last and federation.round_of(exchange + 1) == number:
            return None
        booked, self._rows = self._rows, []
        if self.store is not None and exchange < self.last:
            write_tensors(_place(self.store, exchange), self._checkpoint())
            _place(self.store, exchange - 2).unlink(missing_ok=True)
        return number, booked

    def start(
        self,
        grid: Grid,
        nodes: Sequence[int],
        on_round: OnRound,
        timeout: float | None = None,
        on_start: wire.OnStart | None = None,
    ) -> None:
        """Run every exchange from `first` on; `on_round` is called as each round completes.

        `on_start` is called as each client's start comes in: pre-training takes longer than many rounds.

        Raises:
            FederationError: see `aggregate`.
        """
        for exchange in range(self.first, self.last + 1):
            messages = self.configure(exchange, nodes)
            if on_start is not None and exchange == 0:
                replies: Iterable[Message] = wire.as_they_come(grid, messages, on_start, timeout)
            else:
                replies = grid.send_and_receive(messages, timeout=timeout)
            if done := self.complete(exchange, self.aggregate(exchange, replies)):
                on_round(*done)

    def resume(self, after: int) -> bool:
        """Go on after a complete round, from what server and clients left in the store; False if that is gone."""
        federation = self.federation
        exchange = after
        if after >= federation.start_rounds:
            exchange = federation.offset + self.method.preparations + after - federation.start_rounds
        if exchange >= self.last:
            self.first = self.last + 1
            return True
        if self.store is None:
            return False
        state = read_tensors(_place(self.store, exchange))
        present = all(has_state(self.store, client, exchange) for client in self.participants(exchange + 1))
        if state is None or not present:
            return False
        self._restore(state)
        self.first = exchange + 1
        return True

    def _consolidate(self, exchange: int, told: dict[int, Knowledge]) -> dict[int, Knowledge]:
        """What is sent next on the way to a common start; the model as it is now is judged at the server."""
        plan, server = self.federation.consolidation, self._node
        assert plan is not None
        if exchange == 0:
            server.record("start_rounds", self.federation.start_rounds)
            asked = plan.begin(server, told)
        else:
            asked = plan.proceed(server, exchange, told)
        model = Knowledge(packed_state(server))
        judged = self._holdings.judge(
            restored_model(server.specs[0], server.shape, server.classes, unpacked(model)), None
        )
        server.records.update({key: value for key, value in judged.metrics.items() if key[1] in ("accuracy", "loss")})
        if exchange < self.federation.handovers:
            return asked
        server.state.clear()
        return dict.fromkeys(range(self.federation.clients), model)

    def _read(self, exchange: int, replies: Iterable[Message]) -> dict[int, RecordDict]:
        received: dict[int, RecordDict] = {}
        failed: dict[int, str] = {}
        for reply in replies:
            if reply.has_error():
                node = reply.metadata.src_node_id
                failed[self._nodes.index(node) if node in self._nodes else node] = str(reply.error.reason)
            else:
                received[int(str(reply.content.config_records[wire.EXCHANGE]["client"]))] = reply.content
        asked = self.participants(exchange)
        missing = sorted(set(asked) - set(received))
        if failed:
            first = min(failed)
            raise FederationError(
                f"{len(failed)} of {len(asked)} clients failed {self._when(exchange)}; client {first}: {failed[first]}"
            )
        if missing:
            raise FederationError(f"no answer from clients {', '.join(map(str, missing))} {self._when(exchange)}")
        return received

    def _when(self, exchange: int) -> str:
        return f"in round {self.federation.round_of(exchange)}" if exchange else "at the start"

    def _checkpoint(self) -> dict[str, Tensor]:
        tensors = {f"state/{key}": value for key, value in self._node.state.items()}
        for kind, bags in (("knowledge", self._knowledge), ("frozen", self._frozen)):
            for client, bag in bags.items():
                tensors |= {f"{kind}/{client}/{name}": tensor for name, tensor in bag.items()}
        if self._started_right is not None:
            tensors["started_right"] = self._started_right
        return tensors | {"exchange": torch.tensor(self._node.exchange)}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        bags: dict[str, dict[int, dict[str, Tensor]]] = {"knowledge": {}, "frozen": {}}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "state":
                self._node.state[rest] = tensor
            elif kind in bags:
                client, _, name = rest.partition("/")
                bags[kind].setdefault(int(client), {})[name] = tensor
        self._started_right = tensors.get("started_right")
        self._knowledge, self._frozen = (
            {client: Knowledge(bag) for client, bag in bags[kind].items()} for kind in ("knowledge", "frozen")
        )


def _server_node(federation: Federation, holdings: Holdings) -> Node:
    return Node(
        SERVER,
        federation.clients,
        federation.seed,
        federation.train,
        holdings.classes,
        val=holdings.val,
        transfer=holdings.transfer,
        students=federation.students and federation.learners,
        teachers=federation.teachers and federation.tutors,
        specs=federation.client_models,
        shape=holdings.shape,
    )


_SUMMED = {"bytes_up", "bytes_down", "seconds", "steps", "samples", "tuning_steps", "tuning_samples"}
"""Costs of an exchange; so are the bytes of a preparation, whatever it is called."""


def _added(before: list[Row], rows: list[Row], apart: str) -> list[Row]:
    """Rows of one more exchange of the same round: costs are added; the bytes of a preparation stand `apart` too."""
    if apart:
        spent = [(client, value) for client, _, metric, value in rows if metric in ("bytes_up", "bytes_down")]
        rows = rows + [(c, "", apart, sum(v for d, v in spent if d == c)) for c in sorted({c for c, _ in spent})]
    merged = {row[:3]: row[3] for row in before}
    for client, split, metric, value in rows:
        key = (client, split, metric)
        costs = metric in _SUMMED or metric.endswith("_bytes")
        merged[key] = merged[key] + value if costs and key in merged else value
    return [(*key, value) for key, value in merged.items()]


def _place(store: Path, exchange: int) -> Path:
    return store / f"server-{exchange}.state"

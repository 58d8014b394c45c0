"""The server of a federation: it sends knowledge, merges reports and collects the rows of results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fedkd.base.store import read_tensors, write_tensors
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import numbered, scoped, under
from fedkd.knowledge.weights import unpacked
from fedkd.models import restored_model
from fedkd.models.architecture import Shape
from fedkd.node.holdings import Holdings, Row
from fedkd.node.moment import Moment, Phase
from fedkd.node.node import SERVER
from fedkd.protocol.files import has_state
from fedkd.protocol.ledger import Metrics, absent_rows, added, evaluations, rows_of, without_evaluations
from fedkd.protocol.participant import participant
from fedkd.protocol.schedule import Schedule
from fedkd.protocol.start import packed_state
from fedkd.training.finite import check_reports, check_results


class Server:
    """The server of one federation, independent of the transport of its messages."""

    def __init__(self, schedule: Schedule, holdings: Holdings, store: Path | None = None) -> None:
        """`store` is the folder for the server's state; None: it writes no state and cannot resume."""
        self.schedule = schedule
        self._holdings = holdings
        self._store = store
        self._node = participant(schedule, SERVER, holdings)
        self._pending: dict[int, Knowledge] = {}
        """knowledge to send to each client when it takes part the next time"""
        self._latest: dict[int, Knowledge] = {}
        """last reports of clients that teach in rounds in which they do not take part"""
        self._unshown: dict[int, tuple[int, Metrics]] = {}
        """round and evaluation of each client that was evaluated in a round that results do not show"""
        self._rows: list[Row] = []
        self._started_right: Tensor | None = None
        """which samples of the main split the server's model classified correctly at the start"""

    @property
    def shape(self) -> Shape:
        """Shape of the samples."""
        return self._holdings.shape

    def messages(self, moment: Moment) -> dict[int, Knowledge]:
        """The knowledge for each participant of an exchange."""
        return {client: self._pending.get(client, Knowledge()) for client in self.schedule.participants(moment)}

    def receive(self, moment: Moment, reports: Mapping[int, Knowledge], metrics: Mapping[int, Metrics]) -> list[Row]:
        """Merge the reports of one exchange into the knowledge for the next; returns the rows of the exchange.

        Raises:
            FederationError: a client has diverged.
        """
        when = name_of(moment)
        check_reports(reports, when)
        sent = self.messages(moment)
        rows: list[Row] = []
        shown = self.schedule.evaluates(moment)
        for client in sorted(reports):
            rows += rows_of(client, metrics[client] if shown else without_evaluations(metrics[client]))
            rows.append((client, "", "bytes_down", float(sent[client].nbytes)))
            rows.append((client, "", "bytes_up", float(reports[client].nbytes)))
        self._node.moment = moment
        self._pending = {client: bag for client, bag in self._pending.items() if client not in sent}
        self._merge(moment, {client: bag for client, bag in reports.items() if bag})
        rows += rows_of(SERVER, self._node.records)
        self._node.records.clear()
        check_results(rows, when)
        return rows + self._evaluated_before(moment, metrics)

    def complete(self, moment: Moment, rows: list[Row]) -> tuple[int, list[Row]] | None:
        """Add the rows of one exchange; returns (round, rows) if its round is complete now, else None.

        The preparations of a method belong to the round before them: the start, or the last round of a consolidation.
        """
        preparing = moment.phase is Phase.PREPARE
        self._rows = added(self._rows, rows, self.schedule.method.preparation if preparing else "")
        if not self.schedule.completes(moment):
            return None
        booked, self._rows = self._rows, []
        if self._store is not None and not moment.last:
            write_tensors(_state_file(self._store, moment.exchange), self.checkpoint())
            _state_file(self._store, moment.exchange - 2).unlink(missing_ok=True)
        return moment.booked, booked

    def resume(self, after: int) -> int | None:
        """Load the state after a complete round.

        Returns:
            The exchange to continue with; None if the state of the server or of a client is missing.
        """
        moment = self.schedule.after(after)
        if moment.last:
            return moment.exchange + 1
        if self._store is None:
            return None
        state = read_tensors(_state_file(self._store, moment.exchange))
        if state is None or not self._clients_have_state(self._store, moment):
            return None
        self.restore(state)
        return moment.exchange + 1

    def _clients_have_state(self, store: Path, moment: Moment) -> bool:
        schedule, following = self.schedule, self.schedule.moments[moment.exchange + 1]
        clients = {*schedule.participants(following), *schedule.absent(following)}
        last = {client: schedule.previous(client, following).exchange for client in clients}
        return all(
            has_state(store, client, exchange) for client, exchange in last.items() if schedule.goes_on(client, moment)
        )

    def _merge(self, moment: Moment, reports: Mapping[int, Knowledge]) -> None:
        """Merge reports into the knowledge for the next exchange, by the method or by the consolidation."""
        method, node = self.schedule.method, self._node
        if moment.phase is Phase.HANDOVER or (moment.phase is Phase.START and not moment.begins):
            self._pending = self._consolidate(moment, reports)
            return
        if not self.schedule.merges(moment):
            return
        if moment.begins:
            method.setup(node)
        if moment.begins or moment.round > 0:
            self._latest |= {client: bag for client, bag in reports.items() if self._stays(client)}
        earlier = self._latest if moment.round > 0 else {}
        others = {client: bag for client, bag in earlier.items() if client not in reports}
        for client, bag in method.merge(node, {**reports, **others}).items():
            # A client that was absent may still have knowledge of an earlier exchange to receive. A newer model takes
            # the place of an older one as it is: with a copy for each absent client, memory would grow with them.
            owed = self._pending.get(client)
            self._pending[client] = Knowledge({**owed, **bag}) if owed and not set(owed) <= set(bag) else bag
        if self.schedule.evaluates_server(moment) and (model := method.global_model(node)) is not None:
            whole = moment.last or moment.round == 0 or self._started_right is None
            evaluation = self._holdings.evaluate(model, self._started_right, compute=node.compute, whole=whole)
            self._started_right = evaluation.right if self._started_right is None else self._started_right
            node.records.update(evaluation.metrics)

    def _stays(self, client: int) -> bool:
        """Whether the last report of a client is used in rounds in which it does not take part."""
        federation = self.schedule.federation
        return client not in federation.learners or (federation.participation < 1 and self.schedule.method.uses_absent)

    def _evaluated_before(self, moment: Moment, metrics: Mapping[int, Metrics]) -> list[Row]:
        """In a round that results show: rows of clients that were evaluated since the last such round, and are absent.

        Nobody else's are repeated while it is absent, or rows would grow with clients instead of participants.
        """
        if not self.schedule.evaluates(moment):
            measured = ((client, evaluations(each)) for client, each in metrics.items())
            self._unshown |= {client: (moment.round, evaluated) for client, evaluated in measured if evaluated}
            return []
        rows: list[Row] = []
        for client, (round, evaluated) in sorted(self._unshown.items()):
            rows += absent_rows(client, evaluated, moment.round - round)
        self._unshown = {}
        return rows

    def _consolidate(self, moment: Moment, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        """The knowledge for the next exchange of the consolidation. The server also evaluates the present model."""
        plan, server = self.schedule.consolidation, self._node
        assert plan is not None
        if moment.phase is Phase.START:
            server.record("start_rounds", self.schedule.start_rounds)
            asked = plan.begin(server, reports)
        else:
            asked = plan.proceed(server, moment.step, reports)
        model, ends = Knowledge(packed_state(server)), moment.step >= self.schedule.handovers
        if "server" in self.schedule.federation.evaluate.of and (ends or self.schedule.evaluates(moment)):
            restored = restored_model(server.specs[0], server.shape, server.classes, unpacked(model))
            whole = ends or moment.phase is Phase.START
            evaluation = self._holdings.evaluate(restored, None, compute=server.compute, whole=whole)
            server.records.update(
                {key: value for key, value in evaluation.metrics.items() if key[1] in ("accuracy", "loss")}
            )
        if not ends:
            return asked
        server.state.clear()
        return dict.fromkeys(range(self.schedule.federation.clients), model)

    def checkpoint(self) -> dict[str, Tensor]:
        """The state of the server that the next exchange needs, as tensors."""
        tensors = scoped("state/", self._node.state)
        for kind, bags in (("knowledge", self._pending), ("latest", self._latest)):
            # A common model is one bag for all clients, and is written once.
            owners: dict[int, int] = {}
            for client, bag in bags.items():
                if owners.setdefault(id(bag), client) == client:
                    tensors |= scoped(f"{kind}/{client}/", bag)
            if len(owners) < len(bags):
                tensors[f"shared {kind}"] = torch.tensor([[client, owners[id(bag)]] for client, bag in bags.items()])
        if self._started_right is not None:
            tensors["started_right"] = self._started_right
        if self._unshown:
            known = [[client, round, rows_of(client, of)] for client, (round, of) in self._unshown.items()]
            tensors["unshown"] = torch.tensor(list(json.dumps(known).encode()), dtype=torch.uint8)
        return tensors | {"exchange": torch.tensor(self._node.moment.exchange)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `checkpoint`."""
        self._node.state.update(under("state/", tensors))
        self._started_right = tensors.get("started_right")
        self._pending, self._latest = (_bags(kind, tensors) for kind in ("knowledge", "latest"))
        if "unshown" in tensors:
            for client, round, rows in json.loads(bytes(tensors["unshown"].tolist())):
                self._unshown[client] = round, {(split, metric): value for _, split, metric, value in rows}


def name_of(moment: Moment) -> str:
    """The time of an exchange, for error messages."""
    return f"in round {moment.booked}" if moment.exchange else "at the start"


def _state_file(store: Path, exchange: int) -> Path:
    return store / f"server-{exchange}.state"


def _bags(kind: str, tensors: dict[str, Tensor]) -> dict[int, Knowledge]:
    """The knowledge of each client in a state of the server; a bag that several clients share is one object."""
    bags = {client: Knowledge(bag) for client, bag in numbered(f"{kind}/", tensors).items()}
    shared = tensors.get(f"shared {kind}")
    return bags if shared is None else {client: bags[owner] for client, owner in shared.tolist()}

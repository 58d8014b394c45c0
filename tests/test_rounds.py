"""The rounds of a federation on a grid: what travels, what it is booked as, and what happens when something is lost."""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, Message
from torch import Tensor

from fedkd.flower import wire
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import FederationError, Rounds
from fedkd.knowledge.knowledge import Knowledge
from fedkd.node.holdings import Row
from fedkd.node.node import SERVER
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.training.fit import fit
from simulations.engine import InlineGrid
from tests import small
from tests.small import every_method, own_cache

__all__ = ["own_cache"]

LOCAL, ONCE, ALWAYS = "local", "kd(temperature=2.0)", "dml"
TUNED = "tuned_kd(temperatures=[1.0, 2.0], weights=[0.5], rounds=1)"
METHODS = [(method, transfer) for method, transfer in every_method() if "labelled" not in transfer or "mask" in method]
"""Every method, without labels where it can do without."""
CLIENTS = 3

Numbers = dict[tuple[int, int, str, str], float]
"""Values by (round, client, split, metric)."""


class WatchedGrid(InlineGrid):
    """A grid that remembers what went over it, and may lose or change it."""

    def __init__(self, change: Callable[[int, list[Message]], Iterable[Message]] | None = None) -> None:
        super().__init__(client_app(small.load), CLIENTS)
        self.down: list[list[Message]] = []
        """messages to the clients, by exchange"""
        self.up: list[list[Message]] = []
        """their replies, by exchange"""
        self._change = change

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        self.down.append(list(messages))
        self.up.append(list(super().send_and_receive(self.down[-1], timeout=timeout)))
        return self.up[-1] if self._change is None else self._change(len(self.up) - 1, self.up[-1])


@dataclass
class Kept:
    """What `on_round` was told."""

    rounds: list[int] = field(default_factory=list)
    numbers: Numbers = field(default_factory=dict)

    def __call__(self, number: int, rows: list[Row]) -> None:
        self.rounds.append(number)
        keys = [row[:3] for row in rows]
        assert len(set(keys)) == len(keys), "a measurement has one row"
        self.numbers.update({(number, client, split, metric): value for client, split, metric, value in rows})

    @property
    def timeless(self) -> Numbers:
        """Everything but the time it took."""
        return {key: value for key, value in self.numbers.items() if not key[3].endswith("seconds")}

    def per_client(self, metric: str, number: int) -> list[float]:
        """One metric without a split, of each client."""
        return [self.numbers[number, client, "", metric] for client in range(CLIENTS)]


def federation(method: str, transfer: str = small.UNLABELLED, **settings: Any) -> Federation:
    """Three clients, three rounds."""
    return small.small(method, transfer=transfer, **({"clients": CLIENTS, "rounds": 3} | settings))


def run(of: Federation, grid: InlineGrid) -> Kept:
    """Everything that a federation tells from start to end."""
    kept = Kept()
    Rounds(of, small.load).start(grid, list(grid.get_node_ids()), kept)
    return kept


@cache
def undisturbed(of: Federation) -> tuple[Kept, WatchedGrid]:
    """A whole run, made once for all tests that look at it, and the grid that it went over."""
    grid = WatchedGrid()
    return run(of, grid), grid


def payload(message: Message) -> int:
    """Bytes of the arrays in a message."""
    records = message.content.array_records.values()
    return sum(len(array.data) for record in records for array in record.values())


@pytest.mark.parametrize(("method", "transfer"), METHODS)
class TestEveryMethod:
    def test_bytes_are_those_of_the_arrays_in_the_messages(self, method: str, transfer: str) -> None:
        of = federation(method, transfer)
        kept, grid = undisturbed(of)
        for metric, exchanges in (("bytes_down", grid.down), ("bytes_up", grid.up)):
            sent = [[payload(message) for message in messages] for messages in exchanges]
            preparations = schedule_of(of).method.preparations
            start = [sum(of_client) for of_client in zip(*sent[: preparations + 1], strict=True)]
            wanted = [start, *sent[preparations + 1 :]]
            assert [kept.per_client(metric, number) for number in kept.rounds] == wanted, metric

    def test_one_message_goes_down_and_one_up_per_client_and_exchange(self, method: str, transfer: str) -> None:
        of = federation(method, transfer)
        _, grid = undisturbed(of)
        nodes = list(grid.get_node_ids())
        assert len(grid.down) == len(grid.up) == 1 + schedule_of(of).method.preparations + of.rounds
        for down, up in zip(grid.down, grid.up, strict=True):
            assert [message.metadata.dst_node_id for message in down] == nodes
            assert [message.metadata.src_node_id for message in up] == nodes

    def test_nothing_is_uploaded_that_nobody_would_read(self, method: str, transfer: str) -> None:
        of = federation(method, transfer)
        _, grid = undisturbed(of)
        assert [payload(message) > 0 for message in grid.up[-1]] == [schedule_of(of).method.has_global_model] * CLIENTS

    def test_without_rounds_nothing_travels_but_what_prepares(self, method: str, transfer: str) -> None:
        of, grid = federation(method, transfer, rounds=0), WatchedGrid()
        kept = run(of, grid)
        assert kept.rounds == [0]
        assert [payload(message) > 0 for message in grid.up[-1]] == [schedule_of(of).method.has_global_model] * CLIENTS

    def test_the_order_of_replies_changes_no_number(self, method: str, transfer: str) -> None:
        def shuffled(exchange: int, replies: list[Message]) -> list[Message]:
            order = random.Random(exchange).sample(range(CLIENTS), CLIENTS)
            return [replies[place] for place in order]

        of = federation(method, transfer)
        assert run(of, WatchedGrid(shuffled)).timeless == undisturbed(of)[0].timeless

    def test_resumed_after_any_round_it_gives_the_rows_of_an_undisturbed_one(
        self, method: str, transfer: str, tmp_path: Path
    ) -> None:
        of = federation(method, transfer)
        whole = undisturbed(of)[0].timeless
        for after in range(of.rounds + 1):
            store = tmp_path / str(after)
            kept = stopped(of, store, 1 + schedule_of(of).method.preparations + after)
            assert kept.rounds == list(range(after + 1))
            rounds = Rounds(of, small.load, store)
            assert rounds.resume(after)
            assert rounds.finished == (after == of.rounds)
            grid = WatchedGrid()
            rounds.start(grid, list(grid.get_node_ids()), kept)
            assert len(grid.down) == of.rounds - after, "complete rounds are not run again"
            assert kept.rounds == list(range(of.rounds + 1))
            assert kept.timeless == whole

    def test_killed_between_two_clients_it_resumes_to_the_same_rows(
        self, method: str, transfer: str, tmp_path: Path
    ) -> None:
        of = federation(method, transfer)
        kept, dying = Kept(), DyingGrid(exchange=schedule_of(of).method.preparations + 2, client=1)
        with pytest.raises(KeyboardInterrupt):
            Rounds(of, small.load, tmp_path).start(dying, list(dying.get_node_ids()), kept)
        assert kept.rounds == [0, 1]
        rounds = Rounds(of, small.load, tmp_path)
        assert rounds.resume(1)
        grid = WatchedGrid()
        rounds.start(grid, list(grid.get_node_ids()), kept)
        assert kept.timeless == undisturbed(of)[0].timeless


class DyingGrid(InlineGrid):
    """A grid that stops everything before one client answers in one exchange."""

    def __init__(self, exchange: int, client: int) -> None:
        super().__init__(client_app(small.load), CLIENTS)
        self._left = exchange * CLIENTS + client

    def _answer(self, message: Message) -> Message:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super()._answer(message)


def stopped(of: Federation, store: Path, exchanges: int) -> Kept:
    """What a federation tells that is stopped after some exchanges."""
    kept, grid = Kept(), WatchedGrid()
    rounds = Rounds(of, small.load, store)
    for exchange in range(exchanges):
        replies = grid.send_and_receive(rounds.configure(exchange, list(grid.get_node_ids())))
        if done := rounds.complete(exchange, rounds.aggregate(exchange, replies)):
            kept(*done)
    return kept


class TestWhatItCosts:
    def test_local_training_costs_nothing(self) -> None:
        kept, _ = undisturbed(federation(LOCAL))
        for number in kept.rounds:
            assert kept.per_client("bytes_up", number) == kept.per_client("bytes_down", number) == [0] * CLIENTS

    def test_frozen_teachers_travel_once(self) -> None:
        kept, _ = undisturbed(federation(ONCE))
        up, down = ([kept.per_client(way, number) for number in kept.rounds] for way in ("bytes_up", "bytes_down"))
        assert min(up[0]) > 0
        assert min(down[1]) > 0
        assert [sum(round_) for round_ in up] == [sum(up[0]), 0, 0, 0]
        assert [sum(round_) for round_ in down] == [0, sum(down[1]), 0, 0]

    def test_teachers_that_go_on_learning_travel_every_round(self) -> None:
        for method in (ALWAYS, 'kd(refresh="every round")'):
            kept, _ = undisturbed(federation(method))
            up, down = ([kept.per_client(way, number) for number in kept.rounds] for way in ("bytes_up", "bytes_down"))
            assert up == [up[0], up[0], up[0], [0] * CLIENTS]
            assert down == [[0] * CLIENTS, down[1], down[1], down[1]]
            assert min(up[0] + down[1]) > 0

    def test_what_preparations_cost_is_booked_in_round_0(self) -> None:
        kept, grid = undisturbed(federation(TUNED))
        assert kept.rounds == [0, 1, 2, 3]
        for client in range(CLIENTS):
            reported, scored = payload(grid.up[0][client]), payload(grid.up[1][client])
            taught, chosen = payload(grid.down[1][client]), payload(grid.down[2][client])
            assert min(reported, scored, taught, chosen) > 0
            assert kept.numbers[0, client, "", "bytes_up"] == reported + scored
            assert kept.numbers[0, client, "", "bytes_down"] == taught
            assert kept.numbers[0, client, "", "tuning_bytes"] == taught + scored
            assert kept.numbers[1, client, "", "bytes_down"] == chosen
            assert kept.numbers[0, client, "", "tuning_steps"] > 0
        assert not [key for key in kept.numbers if key[0] > 0 and "tuning" in key[3]]

    def test_what_travels_to_a_worker_beside_a_message_is_small(self) -> None:
        app = client_app(small.load)
        travelling = pickle.dumps(app)
        assert len(travelling) < 200
        assert pickle.loads(travelling) is app

    def test_what_every_round_has_is_there_in_every_round(self) -> None:
        for method in (LOCAL, ONCE, ALWAYS, TUNED):
            kept, _ = undisturbed(federation(method))
            for number in kept.rounds:
                for client in range(CLIENTS):
                    has = {key[2:] for key in kept.numbers if key[:2] == (number, client)}
                    plain = {("", name) for name in ("bytes_up", "bytes_down", "seconds", "steps", "samples")}
                    judged = {(split, name) for split in ("test", "val") for name in ("accuracy", "loss")}
                    assert plain | judged | {("test", "gained"), ("test", "lost")} <= has
                assert kept.numbers[number, SERVER, "", "seconds"] > 0

    def test_a_start_is_booked_apart_and_alike_by_all_that_begin_from_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def slowly(*arguments: Any, **named: Any) -> Tensor:
            time.sleep(0.02)
            return fit(*arguments, **named)

        monkeypatch.setattr("fedkd.training.stacked.fit", slowly)
        kept = [undisturbed(federation(method, seed=6))[0] for method in (LOCAL, ONCE)]
        for name in ("epochs", "steps", "samples", "seconds"):
            first, second = (each.per_client(f"pretrain_{name}", 0) for each in kept)
            assert first == second
            assert min(first) > 0
        assert min(kept[0].per_client("pretrain_seconds", 0)) >= 0.02 * int(small.PRETRAINING.epochs)
        # An exchange of so small a network takes a few milliseconds, were there not the start.
        assert max(kept[0].per_client("seconds", 0)) < 0.02 * int(small.PRETRAINING.epochs)
        assert kept[0].per_client("steps", 0) == [0] * CLIENTS

    def test_training_does_not_happen_before_round_1(self) -> None:
        kept, _ = undisturbed(federation(ONCE))
        assert kept.per_client("steps", 0) == [0] * CLIENTS
        assert min(kept.per_client("steps", 1)) > 0


class TestWhatIsLost:
    def failing(self, change: Callable[[int, list[Message]], Iterable[Message]], match: str) -> Kept:
        """What a federation told until it failed because of what the grid did to the replies."""
        kept, grid = Kept(), WatchedGrid(change)
        with pytest.raises(FederationError, match=match):
            Rounds(federation(ALWAYS), small.load).start(grid, list(grid.get_node_ids()), kept)
        assert len(grid.down) == 3, "nothing is sent after a failure"
        return kept

    def test_a_missing_reply_ends_the_federation_and_names_the_client(self) -> None:
        kept = self.failing(lambda exchange, replies: replies[:1] + replies[1 + (exchange == 2) :], "clients 1")
        assert kept.rounds == [0, 1]

    def test_no_replies_at_all_end_it_too(self) -> None:
        kept = self.failing(lambda exchange, replies: [] if exchange == 2 else replies, "clients 0, 1, 2")
        assert kept.rounds == [0, 1]

    def test_an_error_reply_ends_it_with_the_reason(self) -> None:
        _, grid = undisturbed(federation(ALWAYS))
        error = Message(Error(code=2, reason="RuntimeError: the disk is full"), reply_to=grid.down[2][1])

        def failed(exchange: int, replies: list[Message]) -> list[Message]:
            return [replies[0], error, replies[2]] if exchange == 2 else replies

        kept = self.failing(failed, "1 of 3 clients failed.*the disk is full")
        assert kept.rounds == [0, 1]

    def test_a_client_that_has_diverged_ends_it_and_is_named(self) -> None:
        def diverged(exchange: int, replies: list[Message]) -> list[Message]:
            if exchange == 2:
                nothing = Knowledge(logits=torch.full((14, 3), torch.nan, dtype=torch.float16))
                replies[1].content["knowledge"] = wire.to_arrays({1: nothing})
            return replies

        kept = self.failing(diverged, r"clients 1 sent .*not finite in round")
        assert kept.rounds == [0, 1]

    def test_survivors_are_never_merged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        merged: list[int] = []
        dml = type(schedule_of(federation(ALWAYS)).method)
        original = dml.merge

        def watched(self: Any, server: Any, reports: Any) -> Any:
            merged.append(len(reports))
            return original(self, server, reports)

        monkeypatch.setattr(dml, "merge", watched)
        self.failing(lambda exchange, replies: replies[:2] if exchange == 2 else replies, "no answer")
        assert merged == [CLIENTS, CLIENTS]

    def test_a_client_that_raises_is_an_error_reply_on_the_inline_grid(self, tmp_path: Path) -> None:
        of, grid = federation(ONCE), WatchedGrid()
        rounds = Rounds(of, small.load, tmp_path)
        # Nobody has a state of exchange 0.
        replies = list(grid.send_and_receive(rounds.configure(1, list(grid.get_node_ids()))))
        assert all(list(wire.Answer.read(reply.content).failures) == [client] for client, reply in enumerate(replies))
        with pytest.raises(FederationError, match=r"3 of 3 clients failed.*has no state of exchange 0"):
            rounds.aggregate(1, replies)


class TestResume:
    def test_a_store_that_is_gone_cannot_be_resumed(self, tmp_path: Path) -> None:
        of = federation(ONCE)
        assert not Rounds(of, small.load).resume(1)
        assert not Rounds(of, small.load, tmp_path / "absent").resume(1)

    @pytest.mark.parametrize("which", ["server-*", "client-0-*", "client-2-*"])
    def test_a_store_that_lacks_one_participant_cannot_be_resumed(self, which: str, tmp_path: Path) -> None:
        of = federation(ONCE)
        stopped(of, tmp_path, 2)
        lost = list(tmp_path.glob(which))
        assert lost
        for file in lost:
            file.unlink()
        assert not Rounds(of, small.load, tmp_path).resume(1)

    def test_a_damaged_server_state_cannot_be_resumed(self, tmp_path: Path) -> None:
        of = federation(ONCE)
        stopped(of, tmp_path, 2)
        for file in tmp_path.glob("server-*"):
            file.write_bytes(file.read_bytes()[:-1])
        assert not Rounds(of, small.load, tmp_path).resume(1)

    def test_a_damaged_client_state_cannot_be_resumed(self, tmp_path: Path) -> None:
        of = federation(ONCE)
        stopped(of, tmp_path, 2)
        for file in tmp_path.glob("client-1-*"):
            file.write_bytes(file.read_bytes()[:-1])
        assert not Rounds(of, small.load, tmp_path).resume(1)

    def test_what_is_left_on_disk_does_not_grow_with_the_rounds(self, tmp_path: Path) -> None:
        left = []
        for rounds in (3, 6):
            of = federation(ALWAYS, rounds=rounds)
            store = tmp_path / str(rounds)
            stopped(of, store, rounds)
            left.append(len(list(store.iterdir())))
        assert left[0] == left[1] <= 2 * (CLIENTS + 1)

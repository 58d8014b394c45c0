"""A search on the real rounds: who is asked, what is booked, what survives an interruption, what nobody may see."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedkd.base.files import forget_files
from fedkd.base.store import read_tensors, write_tensors
from fedkd.flower.rounds import Rounds
from fedkd.knowledge.knowledge import Knowledge
from fedkd.node.holdings import Row
from fedkd.protocol.schedule import schedule_of
from fedkd.tuning.grid import Grid, Point
from fedkd.tuning.sampling import propose
from tests import small
from tests.small import own_cache, same_outcome, same_weights
from tests.test_fairness import hidden, only_judges_read, permuted, with_judged
from tests.test_roles import CLIENTS, Heard, Numbers, run

__all__ = ["only_judges_read", "own_cache"]

GRID = "grid={'weight': [0.2, 1.0], 'lr': [0.05, 0.3]}"
SPECS = {
    "frozen": f"tuned(method='kd', {GRID}, rounds=2)",
    "side by side": "tuned(method='dml', grid={'lr': [0.05, 0.3]}, rounds=2)",
    "own choice": f"tuned(method='kd(refresh=\"every round\")', {GRID}, rounds=2, per='client')",
    "tpe": f"tuned(method='kd', {GRID}, rounds=2, sampler='tpe', batch=2)",
    "tpe side by side": f"tuned(method='kd(refresh=\"every round\")', {GRID}, rounds=2, sampler='tpe', batch=2)",
    "tpe in a range": (
        "tuned(method='kd(merge_by=\"probabilities\")', rounds=2, sampler='tpe', trials=4, batch=2, "
        "grid={'temperature': {'low': 1.0, 'high': 9.0, 'log': true}})"
    ),
    "halving": f"tuned(method='kd', {GRID}, rounds=3, pruner='halving')",
    "halving side by side": f"tuned(method='kd(refresh=\"every round\")', {GRID}, rounds=3, pruner='halving')",
    "nothing travels": "tuned(method='local', grid={'lr': [0.05, 0.3]}, rounds=2)",
    "weights": "tuned(method='fedavg', grid={'lr': [0.05, 0.3]}, rounds=2)",
}
EVERY = pytest.mark.parametrize("name", list(SPECS))


def exchanges(name: str) -> int:
    """Preparation exchanges of a spec."""
    return schedule_of(small.small(SPECS[name])).method.preparations


def chosen(numbers: Numbers) -> dict[int, str]:
    """What was chosen, by who says so."""
    return {
        who: name.removeprefix("tuning_chosen/") for _, who, _, name in numbers if name.startswith("tuning_chosen/")
    }


@cache
def whole(name: str) -> tuple[Numbers, Heard]:
    """A spec on the real rounds, run once for all tests that look at it."""
    return run(SPECS[name])


@cache
def outcome_of(name: str) -> small.Outcome:
    """The same without Flower, of three clients."""
    return small.federate(small.small(SPECS[name], clients=3))


class Stopping(Heard):
    """A grid that breaks down before one exchange."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        if len(self.told) == self.at:
            raise InterruptedError
        return super().send_and_receive(messages, timeout=timeout)


class TestRounds:
    @EVERY
    def test_the_rounds_tell_what_the_driver_without_flower_tells(self, name: str) -> None:
        numbers, grid = whole(name)
        outcome = small.federate(small.small(SPECS[name], clients=CLIENTS, rounds=3))
        done = exchanges(name)
        assert len(grid.told) == 1 + done + 3
        compared = 0
        for (exchange, who, split, metric), value in outcome.rows.items():
            last = max(at for at, *other in outcome.rows if other == [who, split, metric] and at <= max(done, exchange))
            if exchange > done or (exchange == last and metric.startswith(("tuning_accuracy/", "tuning_loss/"))):
                assert numbers[max(0, exchange - done), who, split, metric] == value, metric
                compared += 1
        assert compared > 100
        assert len(set(chosen(numbers).values())) >= 1

    @EVERY
    def test_an_exchange_that_comes_again_gives_the_same_reply(self, name: str) -> None:
        of = small.small(SPECS[name], clients=3)
        assert same_outcome(small.federate(of, twice=True), outcome_of(name))

    def test_one_message_holds_the_whole_search_where_teachers_are_frozen(self) -> None:
        assert exchanges("frozen") == exchanges("nothing travels") == 1
        assert exchanges("side by side") == exchanges("weights") == 2
        assert exchanges("tpe") == 2
        assert exchanges("tpe side by side") == 4

    def test_what_travelled_for_it_is_booked_to_the_byte(self) -> None:
        numbers, grid = whole("frozen")
        for client in range(CLIENTS):
            scores = 128 + 5 * 2 * 8
            assert numbers[0, client, "", "tuning_bytes"] == grid.told[1][client].nbytes + scores
            assert numbers[0, client, "", "bytes_down"] == grid.told[1][client].nbytes
            assert numbers[1, client, "", "bytes_down"] == 128 + 8
            assert numbers[1, client, "", "bytes_up"] == 0


class TestRoles:
    @pytest.mark.parametrize("name", [name for name in SPECS if name != "weights"])
    def test_only_students_search_and_only_teachers_teach(self, name: str) -> None:
        numbers, grid = run(SPECS[name], students=(0, 2), teachers=(1, 2, 3))
        assert [sorted(told) for told in grid.told] == [[0, 1, 2, 3]] + [[0, 2]] * (len(grid.told) - 1)
        searched = {who for _, who, _, metric in numbers if metric.startswith("tuning_loss/")}
        assert searched == {0, 2}
        assert set(chosen(numbers)) == ({0, 2} if name == "own choice" else {-1})

    @pytest.mark.parametrize("name", ["frozen", "side by side", "own choice"])
    def test_a_student_of_frozen_teachers_ends_where_its_cell_alone_would(self, name: str) -> None:
        roles: dict[str, Any] = {"students": (0, 2), "teachers": (1, 2, 3)}
        numbers, _ = run(SPECS[name], **roles)
        for client in (0, 2):
            label = chosen(numbers).get(client) or chosen(numbers)[-1]
            values = dict(part.split("=") for part in label.split(","))
            training = small.TRAINING.__class__(lr=float(values.pop("lr")), batch_size=small.TRAINING.batch_size)
            method = {"frozen": "kd({})", "side by side": "dml", "own choice": "kd(refresh='every round', {})"}[name]
            inside = ",".join(f"{key}={value}" for key, value in values.items())
            alone, _ = run(method.format(inside), train=training, **roles)
            rounds = (1,) if name == "own choice" else (1, 2, 3)
            for round in rounds:
                for split in ("test", "val"):
                    assert numbers[round, client, split, "loss"] == alone[round, client, split, "loss"]

    def test_one_client_alone_may_be_tuned_where_it_needs_nobody(self) -> None:
        for spec in (
            SPECS["nothing travels"],
            "tuned(method='kd(teachers=\"self\")', grid={'weight': [0.2, 1.0]})",
            "tuned(method='kd(teachers=\"self\", refresh=\"every round\")', grid={'weight': [0.2, 1.0]}, rounds=2)",
        ):
            outcome = small.federate(small.small(spec, clients=1), twice=True)
            assert any(key[3].startswith("tuning_chosen/") for key in outcome.rows)
            assert len(outcome.weights[0]) == 3


class TestResuming:
    @EVERY
    def test_after_a_round_it_goes_on_to_the_same_numbers(self, name: str, tmp_path: Path) -> None:
        for stop in (0, 1) if name in ("frozen", "own choice") else (0,):
            assert run(SPECS[name], tmp_path / str(stop), stop)[0] == whole(name)[0]

    @pytest.mark.parametrize("name", ["frozen", "tpe", "halving side by side"])
    def test_broken_off_within_the_search_it_starts_again_to_the_same_numbers(self, name: str, tmp_path: Path) -> None:
        of = small.small(SPECS[name], clients=CLIENTS, rounds=3)
        for at in (1, exchanges(name)):
            numbers: Numbers = {}

            def note(number: int, rows: list[Row], numbers: Numbers = numbers) -> None:
                numbers.update({(number, *row[:3]): row[3] for row in rows if not row[2].endswith("seconds")})

            broken = Stopping(at)
            with pytest.raises(InterruptedError):
                Rounds(of, small.load, tmp_path / str(at)).start(broken, list(broken.get_node_ids()), note)
            again = Heard()
            Rounds(of, small.load, tmp_path / str(at)).start(again, list(again.get_node_ids()), note)
            assert numbers == whole(name)[0]

    @EVERY
    def test_a_server_that_remembers_nothing_but_its_state_says_the_same(self, name: str, tmp_path: Path) -> None:
        # Each exchange has a new server with a new method, which is given what the last one would have written.
        told = whole(name)[1].told
        of = small.small(SPECS[name], clients=CLIENTS, rounds=3)
        grid, state = Heard(), tmp_path / "server.state"
        for exchange in range(exchanges(name) + 4):
            fresh = type(of).from_json(of.to_json())
            forget_files()
            rounds = Rounds(fresh, small.load, tmp_path / "clients")
            if exchange:
                left = read_tensors(state)
                assert left is not None
                rounds.server.restore(left)
            rounds.aggregate(exchange, grid.send_and_receive(rounds.configure(exchange, list(grid.get_node_ids()))))
            write_tensors(state, rounds.server.checkpoint())
        assert len(grid.told) == len(told)
        for mine, its in zip(grid.told, told, strict=True):
            assert mine.keys() == its.keys()
            for client, bag in mine.items():
                # A file has its own order of names.
                assert small.same_knowledge(dict(sorted(bag.items())), dict(sorted(its[client].items())))


class TestSeeing:
    """Only validation samples are looked at."""

    @pytest.mark.parametrize("name", ["frozen", "side by side", "own choice", "tpe side by side", "halving"])
    @pytest.mark.usefixtures("only_judges_read")
    def test_test_samples_cannot_be_read(self, name: str) -> None:
        of = small.small(SPECS[name], clients=3)
        assert same_outcome(small.federate(of, with_judged("test", hidden)), outcome_of(name))

    @pytest.mark.parametrize("name", ["frozen", "side by side", "tpe", "halving"])
    @pytest.mark.parametrize("split", ["test", "transfer"])
    def test_other_labels_there_change_no_score_and_no_choice(self, name: str, split: str) -> None:
        of = small.small(SPECS[name], clients=3)
        changed = small.federate(of, with_judged(split, permuted))
        assert same_outcome(changed, outcome_of(name), but=split)


class TestHalving:
    @pytest.mark.parametrize("name", ["halving", "halving side by side"])
    def test_what_it_saves_is_seen_in_the_cost(self, name: str) -> None:
        of = small.small(SPECS[name], clients=3)
        outcome = outcome_of(name)
        steps = {client: of.train.steps_a_round(10 + 3 * client) for client in range(3)}
        for client in range(3):
            # Five cells; two go on after the first round, one after the second.
            taken = [outcome.rows[exchange, client, "", "tuning_steps"] for exchange in (1, 2, 3)]
            assert taken == [5 * steps[client], 2 * steps[client], steps[client]]
        stopped = {key[3].split("/")[1]: value for key, value in outcome.rows.items() if "stopped" in key[3]}
        assert sorted(stopped.values()) == [1, 1, 1, 2]
        (winner,) = (key[3].split("/")[1] for key in outcome.rows if key[3].startswith("tuning_chosen/"))
        assert winner not in stopped

    @pytest.mark.parametrize("name", ["halving", "halving side by side"])
    def test_the_worse_half_is_stopped_by_the_mean_over_the_clients(self, name: str) -> None:
        outcome = outcome_of(name)
        first = list(_scores(outcome, 1))
        kept = sorted(first, key=lambda cell: (-round(cell[1], 9), cell[2]))[:2]
        stopped = {key[3].split("/")[1] for key, value in outcome.rows.items() if "stopped" in key[3] and value == 1}
        assert stopped == {label for label, *_ in first} - {label for label, *_ in kept}

    def test_what_goes_on_is_trained_as_without_it(self) -> None:
        plain = small.federate(small.small(SPECS["halving"].replace(", pruner='halving'", ""), clients=3))
        halved = outcome_of("halving")
        for label, right, loss in _scores(halved, 3):
            assert (label, right, loss) in list(_scores(plain, 1))


class TestAdapting:
    def test_tpe_tries_as_many_cells_as_it_was_given_and_the_untuned_one(self) -> None:
        outcome = outcome_of("tpe in a range")
        labels = [label for exchange in (1, 2) for label, *_ in _scores(outcome, exchange)]
        assert labels[0] == "temperature=1.0"
        assert len(labels) == len(set(labels)) == 1 + 4
        temperatures = [float(label.split("=")[1]) for label in labels]
        assert all(1 <= temperature <= 9 for temperature in temperatures)
        best = min(
            (cell for exchange in (1, 2) for cell in _scores(outcome, exchange)),
            key=lambda cell: (-round(cell[1], 9), cell[2]),
        )
        assert {key[3] for key in outcome.rows if "chosen" in key[3]} == {f"tuning_chosen/{best[0]}"}

    @pytest.mark.parametrize("method", ["kd", "kd(refresh='every round')"])
    def test_a_batch_for_which_the_grid_has_nothing_left_changes_nothing(self, method: str) -> None:
        # The untuned cell is one of the four, so that the second batch of three is empty.
        tpe, grid = (
            small.federate(small.small(f"tuned(method={method!r}, rounds=1{further})"), twice=True)
            for further in (", sampler='tpe', batch=3", "")
        )
        searching = small.small(f"tuned(method={method!r}, sampler='tpe', batch=3, rounds=1)")
        assert schedule_of(searching).method.preparations == 2
        assert sorted(_scores(tpe, 1)) == sorted(_scores(grid, 1))
        assert not list(_scores(tpe, 2))
        assert same_weights(tpe.final(0), grid.final(0))

    def test_what_a_client_knows_is_not_sent_again(self) -> None:
        outcome = outcome_of("tpe")
        assert [sorted(sent[0]) for sent in outcome.knowledge[1:4]] == [
            ["logits", "tuning/points"],
            ["tuning/points", "tuning/shares"],
            ["tuning/chosen"],
        ]
        merged = outcome_of("tpe in a range")
        assert sum(name.endswith("logits") for name in merged.knowledge[2][0]) == 2, "two new temperatures, two merges"

    def test_what_comes_next_is_proposed_from_what_was_found(self) -> None:
        outcome = outcome_of("tpe in a range")
        told: dict[Point, float | None] = {
            (float(label.split("=")[1]),): right for label, right, _ in _scores(outcome, 1)
        }
        grid = Grid.read({"temperature": {"low": 1.0, "high": 9.0, "log": True}})
        expected = propose(grid, "tpe", 2, 0, told, "maximize")
        assert outcome.knowledge[2][0]["tuning/points"].tolist() == [list(point) for point in expected]


def _scores(outcome: small.Outcome, exchange: int) -> Iterator[tuple[str, float, float]]:
    """(label, mean accuracy, mean loss) over the clients of every cell scored in an exchange."""
    for (at, client, _, metric), right in outcome.rows.items():
        if at == exchange and client == 0 and metric.startswith("tuning_accuracy/"):
            label = metric.split("/")[1]
            clients = range(len(outcome.weights))
            accuracy = sum(outcome.rows[at, c, "val", metric] for c in clients) / len(clients)
            loss = sum(outcome.rows[at, c, "val", f"tuning_loss/{label}"] for c in clients) / len(clients)
            assert 0 <= right <= 1
            yield label, accuracy, loss


def test_the_server_sends_nothing_that_nobody_reads() -> None:
    for name in SPECS:
        outcome = outcome_of(name)
        assert all(isinstance(bag, Knowledge) and bag for sent in outcome.knowledge for bag in sent.values())

"""Every file in `fedkd/methods` is held to the contract; a new one is found without an edit here."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import re
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fedkd.methods
from fedkd.base.catalogue import parameters, summary
from fedkd.base.errors import UserError
from fedkd.base.spec import Spec, parse
from fedkd.flower.wire import from_arrays, to_arrays
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS, Method
from fedkd.protocol.client import StateLostError, take_part
from fedkd.protocol.files import forget, has_state
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from tests.small import (
    LABELLED,
    OWN,
    TRAINING,
    UNLABELLED,
    Outcome,
    every_method,
    federate,
    load,
    same_knowledge,
    same_outcome,
    small,
)
from tests.small import own_cache as own_cache

FILES = sorted(file for file in Path(fedkd.methods.__path__[0]).glob("*.py") if file.stem != "__init__")
EVERY = pytest.mark.parametrize("name", [file.stem for file in FILES])
RUNNING = pytest.mark.parametrize(("spec", "transfer"), every_method())


def entry(name: str) -> type[Method]:
    """The class behind a name."""
    return METHODS.find(parse(name))


def fields(name: str) -> tuple[dataclasses.Field[object], ...]:
    """The parameters of a method."""
    return dataclasses.fields(typing.cast("typing.Any", entry(name)))


def choices() -> Iterator[str]:
    """A spec for every value that any method offers by name: what is offered must run."""
    for name in METHODS.names:
        hints = typing.get_type_hints(entry(name))
        for field in fields(name):
            if typing.get_origin(hints[field.name]) is typing.Literal:
                for value in typing.get_args(hints[field.name]):
                    yield str(Spec(name, {field.name: value}))
            elif hints[field.name] is bool:
                yield from (str(Spec(name, {field.name: value})) for value in (True, False))


class TestWriting:
    @EVERY
    def test_a_method_is_built_with_its_defaults(self, name: str) -> None:
        assert name in METHODS.names
        assert isinstance(METHODS.build(name), Method)

    @EVERY
    def test_it_is_a_value_frozen_equal_and_hashable(self, name: str) -> None:
        built = METHODS.build(name)
        assert built == METHODS.build(name)
        assert hash(built) == hash(METHODS.build(name))
        for field in fields(name):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(built, field.name, getattr(built, field.name))

    @EVERY
    def test_every_parameter_says_what_it_is(self, name: str) -> None:
        shown = parameters(entry(name))
        assert [parameter.name for parameter in shown] == [field.name for field in fields(name)]
        for parameter in shown:
            assert len(parameter.help) > 10, parameter
            assert parameter.type
            assert parameter.default != "required", "a name alone is a method"

    @EVERY
    def test_its_first_line_says_what_it_does(self, name: str) -> None:
        line = summary(entry(name))
        assert line.endswith(".")
        assert len(line) > 30
        assert not line.startswith(f"{entry(name).__name__}("), "a sentence, not a signature"

    @EVERY
    def test_its_defaults_written_out_are_the_same_method(self, name: str) -> None:
        built = METHODS.build(name)
        spec = Spec(name, {field.name: getattr(built, field.name) for field in fields(name)})
        assert METHODS.build(str(spec)) == built
        assert str(parse(str(spec))) == str(spec)

    @EVERY
    def test_an_unknown_parameter_is_refused(self, name: str) -> None:
        with pytest.raises(UserError, match="unknown parameter"):
            METHODS.build(f"{name}(no_such_thing=1)")

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_no_method_draws_from_a_global_stream_or_names_a_test_set(self, file: Path) -> None:
        tree = ast.parse(file.read_text())
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not {name for name in called if re.match(r"(np|numpy)\.random|random\.|torch\.manual_seed", name)}
        named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not named & {"judged", "evaluate", "test"}


class TestRunning:
    @EVERY
    def test_a_name_alone_runs_or_says_what_it_needs(self, name: str) -> None:
        assert _runs(name)

    @RUNNING
    def test_two_clients_and_two_rounds_end_in_finite_numbers(self, spec: str, transfer: str) -> None:
        outcome = federate(small(spec, transfer=transfer))
        assert all(math.isfinite(value) for value in outcome.rows.values())
        assert [len(judged) for judged in outcome.weights] == [3, 3]
        last = max(exchange for exchange, *_ in outcome.rows)
        for client in range(2):
            for split in ("test", "val", "transfer"):
                assert 0 <= outcome.rows[last, client, split, "accuracy"] <= 1
                assert outcome.rows[last, client, split, "loss"] >= 0

    @RUNNING
    def test_the_same_federation_gives_the_same_numbers_again(self, spec: str, transfer: str) -> None:
        federation = small(spec, transfer=transfer, clients=3)
        assert same_outcome(federate(federation), federate(federation))

    @RUNNING
    def test_a_repeated_exchange_gives_the_identical_reply(self, spec: str, transfer: str) -> None:
        federation = small(spec, transfer=transfer)
        assert same_outcome(federate(federation, twice=True), federate(federation))

    @RUNNING
    def test_another_seed_gives_other_numbers(self, spec: str, transfer: str) -> None:
        assert not same_outcome(
            federate(small(spec, transfer=transfer)), federate(small(spec, transfer=transfer, seed=1))
        )

    @RUNNING
    def test_what_travels_is_booked_to_the_byte_and_arrives_bit_for_bit(self, spec: str, transfer: str) -> None:
        for bag in _travelling(federate(small(spec, transfer=transfer))):
            record = to_arrays({0: bag})
            assert bag.nbytes == sum(len(array.data) for array in record.values())
            assert same_knowledge(from_arrays(record, [0])[0], bag)

    @RUNNING
    def test_nothing_is_uploaded_that_nobody_will_read(self, spec: str, transfer: str) -> None:
        outcome = federate(small(spec, transfer=transfer))
        method = METHODS.build(spec)
        judged = method.has_global_model
        assert bool(outcome.reports[-1]) is judged
        for exchange, (before, sent) in enumerate(zip(outcome.reports, outcome.knowledge[1:], strict=False)):
            prepares = exchange < method.preparations  # the server may have something of its own to begin with
            assert bool(before) or not sent or prepares, "nothing is sent that nobody reported"
            assert bool(sent) or judged or not before, "what was reported is answered, or judged"

    @pytest.mark.parametrize("spec", list(choices()))
    def test_every_value_that_is_offered_runs_or_says_what_it_needs(self, spec: str) -> None:
        assert _runs(spec)

    @RUNNING
    def test_no_rounds_are_a_start_and_no_more(self, spec: str, transfer: str) -> None:
        outcome = federate(small(spec, transfer=transfer, rounds=0))
        assert [len(judged) for judged in outcome.weights] == [1, 1]

    @RUNNING
    def test_the_settings_survive_as_json(self, spec: str, transfer: str) -> None:
        federation = small(spec, transfer=transfer)
        again = Federation.from_json(federation.to_json())
        assert again == federation
        assert schedule_of(again).method == schedule_of(federation).method

    def test_a_method_in_the_users_own_file_runs_like_any_other(self, tmp_path: Path) -> None:
        file = tmp_path / "own.py"
        file.write_text(OWN)
        outcome = federate(small(f"{file}:gentle(strength=2.0)"), twice=True)
        local = federate(small("local"))
        assert not any(outcome.reports), "by default nothing travels"
        assert outcome.rows[2, 0, "test", "loss"] == local.rows[2, 0, "test", "loss"], "and learn from labels alone"


class TestState:
    """A client's state lies on its own disk: the last exchange's, and the one before for a message that comes again."""

    def visit(self, exchange: int, store: Path, client: int = 0) -> None:
        federation = small("local", rounds=4, clients=11)
        take_part(federation, client, exchange, Knowledge(), load(federation, client), store)

    def test_two_exchanges_are_kept(self, tmp_path: Path) -> None:
        for exchange in range(4):
            self.visit(exchange, tmp_path)
        assert [has_state(tmp_path, 0, exchange) for exchange in range(5)] == [False, False, True, True, False]

    def test_the_last_exchange_leaves_none_of_its_own_but_its_input(self, tmp_path: Path) -> None:
        for exchange in range(5):
            self.visit(exchange, tmp_path)
        assert [has_state(tmp_path, 0, exchange) for exchange in range(5)] == [False, False, False, True, False]
        self.visit(4, tmp_path)

    def test_a_lost_or_damaged_state_is_said_and_never_made_up(self, tmp_path: Path) -> None:
        self.visit(0, tmp_path)
        (kept,) = tmp_path.iterdir()
        kept.write_bytes(kept.read_bytes()[:-1])
        with pytest.raises(StateLostError, match="client 0"):
            self.visit(1, tmp_path)
        kept.unlink()
        with pytest.raises(StateLostError, match="exchange 0"):
            self.visit(1, tmp_path)

    def test_forgetting_one_client_leaves_the_others(self, tmp_path: Path) -> None:
        for client in (1, 10):
            self.visit(0, tmp_path, client)
        forget(1, tmp_path)
        assert not has_state(tmp_path, 1, 0)
        assert has_state(tmp_path, 10, 0)


def _runs(spec: str) -> bool:
    """Whether a method that is not refused on some transfer set runs on it, one round, to finite numbers."""
    method, ran = METHODS.build(spec), False
    for transfer, steps in itertools.product((UNLABELLED, LABELLED), (0, 1)):
        of = small(spec, transfer=transfer, rounds=1, train=replace(TRAINING, steps=steps))
        try:
            method.check(of, transfer == LABELLED)
        except UserError:
            continue
        outcome = federate(of)
        assert all(math.isfinite(value) for value in outcome.rows.values())
        ran = True
    return ran


def _travelling(outcome: Outcome) -> Iterator[Knowledge]:
    for bags in outcome.reports + outcome.knowledge:
        yield from bags.values()


def test_the_walk_finds_every_method() -> None:
    assert {file.stem for file in FILES} == set(METHODS.names)
    assert len(FILES) >= 5
    assert torch.get_num_threads() == 1

"""What makes a comparison fair: one start, equal work, and nobody learns from what they are judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkd.base.streams import stream
from fedkd.data import load as load_dataset
from fedkd.node.holdings import Holdings
from fedkd.node.node import SERVER, Node
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.settings.training import Training
from fedkd.tensors.evaluate import accuracy
from fedkd.tensors.samples import Data
from simulations.data import load_holdings
from simulations.splits import split_of
from tests.small import (
    CLASSES,
    LABELLED,
    TRAINING,
    UNLABELLED,
    Outcome,
    every_method,
    federate,
    load,
    model,
    same_outcome,
    same_weights,
    samples,
    small,
)
from tests.small import own_cache as own_cache

EVERY = pytest.mark.parametrize(("spec", "transfer"), every_method())
UNLABELLED_ONLY = pytest.mark.parametrize("spec", [spec for spec, transfer in every_method() if transfer == UNLABELLED])

Change = Callable[[Data], Data]


def permuted(data: Data) -> Data:
    """The same samples under each other's labels."""
    assert data.y is not None
    return Data(data.x, data.y[torch.randperm(len(data), generator=stream("permuted"))])


def all_of_one_class(data: Data) -> Data:
    """The same samples, all called class 0."""
    assert data.y is not None
    return Data(data.x, torch.zeros_like(data.y))


def others(data: Data) -> Data:
    """As many other samples."""
    return samples(len(data), "others")


def with_judged(split: str, change: Change) -> Callable[[Federation, int], Holdings]:
    """A loader under which one judged split is another."""

    def changed(federation: Federation, client: int) -> Holdings:
        held = load(federation, client)
        if client == SERVER:
            return held
        return replace(held, evaluation={**held.evaluation, split: change(held.evaluation[split])})

    return changed


class Unreadable(Tensor):
    """A tensor that gives nothing away, not even its shape, unless somebody is judging."""

    judging: ClassVar[bool] = False

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        if not cls.judging:
            raise AssertionError(f"{getattr(func, '__name__', func)} of a tensor that only a judge may read")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


@contextmanager
def judging() -> Iterator[None]:
    """While somebody judges, everything can be read."""
    Unreadable.judging = True
    try:
        yield
    finally:
        Unreadable.judging = False


def hidden(data: Data) -> Data:
    """The same samples for a judge's eyes only."""
    assert data.y is not None
    return Data(data.x.as_subclass(Unreadable), data.y.as_subclass(Unreadable))


def hidden_labels(data: Data) -> Data:
    """The same samples, of which only a judge can read the labels."""
    assert data.y is not None
    return Data(data.x, data.y.as_subclass(Unreadable))


@pytest.fixture
def only_judges_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens what is unreadable for as long as `Holdings` judges, and for nothing else."""

    def opened(judge: Callable[..., Any]) -> Callable[..., Any]:
        def openly(*given: Any, **named: Any) -> Any:
            with judging():
                return judge(*given, **named)

        return openly

    for judge in ("evaluate", "evaluate_teacher"):
        monkeypatch.setattr(Holdings, judge, opened(getattr(Holdings, judge)))


class TestStart:
    def test_every_method_starts_from_the_same_weights_with_the_same_scores(self) -> None:
        local = federate(small("local"))
        for spec, transfer in every_method():
            outcome = federate(small(spec, transfer=transfer))
            for client in range(2):
                assert same_weights(outcome.weights[client][0], local.weights[client][0])
            judged = {key: value for key, value in local.rows.items() if key[0] == 0 and key[3] in ("accuracy", "loss")}
            assert judged.items() <= outcome.rows.items()

    def test_a_common_init_is_shared_and_a_clients_own_is_not(self) -> None:
        common, own = (federate(small("local", init=init, start="random")) for init in ("common", "per_client"))
        assert same_weights(common.weights[0][0], common.weights[1][0])
        assert not same_weights(own.weights[0][0], own.weights[1][0])


class TestEqualWork:
    @EVERY
    @pytest.mark.parametrize(
        "training",
        [TRAINING, replace(TRAINING, epochs=2), replace(TRAINING, steps=3), replace(TRAINING, batch_size=100)],
        ids=["epoch", "epochs", "steps", "whole"],
    )
    def test_every_client_takes_the_same_steps_in_every_round(
        self, spec: str, transfer: str, training: Training
    ) -> None:
        federation = small(spec, transfer=transfer, train=training)
        preparations = schedule_of(federation).method.preparations
        outcome = federate(federation)
        for client in range(2):
            taken = [outcome.rows[exchange, client, "", "steps"] for exchange in range(preparations + 3)]
            expected = training.steps_a_round(10 + 3 * client)
            assert taken == [0] * (1 + preparations) + [expected] * 2

    @EVERY
    def test_no_step_propagates_more_than_one_batch_of_each_kind(self, spec: str, transfer: str) -> None:
        federation = small(spec, transfer=transfer)
        outcome = federate(federation)
        prepared = schedule_of(federation).method.preparations
        for round in range(prepared + 1, prepared + 3):
            for client in range(2):
                steps, propagated = (outcome.rows[round, client, "", metric] for metric in ("steps", "samples"))
                assert 0 < propagated <= steps * 2 * TRAINING.batch_size


class TestUnseen:
    """Nothing but its own rows depends on the labels that a split is judged by."""

    @staticmethod
    def outcomes(spec: str, transfer: str, split: str, change: Change) -> tuple[Outcome, Outcome]:
        """The federation as it is, and with one judged split changed."""
        federation = small(spec, transfer=transfer)
        return federate(federation), federate(federation, with_judged(split, change))

    @EVERY
    @pytest.mark.parametrize("change", [permuted, all_of_one_class, others])
    def test_the_test_set_changes_nothing_but_test_rows(self, spec: str, transfer: str, change: Change) -> None:
        plain, changed = self.outcomes(spec, transfer, "test", change)
        assert same_outcome(changed, plain, but="test")
        assert changed.rows != plain.rows, "the test rows do change"

    @UNLABELLED_ONLY
    @pytest.mark.parametrize("change", [permuted, all_of_one_class])
    def test_labels_of_an_unlabelled_transfer_set_change_nothing_but_transfer_rows(
        self, spec: str, change: Change
    ) -> None:
        plain, changed = self.outcomes(spec, UNLABELLED, "transfer", change)
        assert same_outcome(changed, plain, but="transfer")
        assert changed.rows != plain.rows, "the transfer rows do change"

    @EVERY
    def test_validation_labels_choose_but_never_train(self, spec: str, transfer: str) -> None:
        def changed(federation: Federation, client: int) -> Holdings:
            held = load(federation, client)
            if held.val is None:
                return held
            val = permuted(held.val)
            return replace(held, val=val, evaluation={**held.evaluation, "val": val})

        federation = small(spec, transfer=transfer)
        if schedule_of(federation).method.preparations:
            # Which cell is chosen may change, and with it everything after; the cells' training must not.
            federation = replace(federation, rounds=0)
        assert same_outcome(federate(federation, changed), federate(federation), but="val")

    @EVERY
    @pytest.mark.usefixtures("only_judges_read")
    def test_test_samples_cannot_be_read_outside_of_judging(self, spec: str, transfer: str) -> None:
        federation = small(spec, transfer=transfer)
        assert same_outcome(federate(federation, with_judged("test", hidden)), federate(federation))

    @UNLABELLED_ONLY
    @pytest.mark.usefixtures("only_judges_read")
    def test_labels_of_an_unlabelled_transfer_set_cannot_be_read_outside_of_judging(self, spec: str) -> None:
        federation = small(spec)
        assert same_outcome(federate(federation, with_judged("transfer", hidden_labels)), federate(federation))

    def test_what_is_unreadable_can_indeed_not_be_read(self) -> None:
        secret = hidden(samples(5, "secret"))
        assert secret.y is not None
        reads: list[Callable[[Tensor], object]] = [
            lambda y: y.shape,
            lambda y: y + 1,
            lambda y: y[0],
            lambda y: y.sum(),
            lambda y: torch.stack([y]),
            lambda y: y.tolist(),
            lambda y: y.numpy(),
            len,
            str,
            list,
        ]
        for read in reads:
            with pytest.raises(AssertionError, match="only a judge"):
                read(secret.y)
        with judging():
            assert len(secret.y.tolist()) == 5
        with pytest.raises(AssertionError, match="only a judge"):
            federate(small("local"), with_judged("test", hidden))


class TestNode:
    @EVERY
    def test_no_node_holds_what_it_is_judged_by(
        self, spec: str, transfer: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nodes: list[Node] = []

        def noted(*arguments: Any, **named: Any) -> Node:
            nodes.append(Node(*arguments, **named))
            return nodes[-1]

        monkeypatch.setattr("fedkd.protocol.participant.Node", noted)
        held = {client: load(small(spec, transfer=transfer), client) for client in range(2)}
        federate(small(spec, transfer=transfer), lambda federation, client: held.get(client, load(federation, client)))
        assert nodes
        for each in nodes:
            reachable = {tensor.untyped_storage().data_ptr() for tensor in _tensors(each)}
            assert _storage(held[each.id].data) & reachable, "private samples are found"
            assert not _storage(held[each.id].evaluation["test"]) & reachable
            if transfer == UNLABELLED:
                labels = held[each.id].evaluation["transfer"].y
                assert labels is not None
                assert labels.untyped_storage().data_ptr() not in reachable


class TestRealData:
    """The loader of every engine deals digits so that nobody holds twice, or sees, what they are judged by."""

    @pytest.mark.parametrize("partition", ["iid", "dirichlet(alpha=0.3)"])
    def test_private_validation_transfer_and_test_samples_are_disjoint(self, partition: str) -> None:
        federation = small("local", dataset="digits", partition=partition, clients=4)
        source, dealt = load_dataset("digits"), split_of(federation)
        assert isinstance(dealt.val, tuple)
        parts = [*dealt.clients, *dealt.val, dealt.transfer]
        positions = np.concatenate(parts)
        assert len(set(positions.tolist())) == len(positions)
        held = [load_holdings(federation, client) for client in range(4)]
        for client, each in enumerate(held):
            for data, part in ((each.data, dealt.clients[client]), (each.val, dealt.val[client])):
                assert data is not None
                assert data.y is not None
                index = source.train[torch.from_numpy(part)]
                assert torch.equal(data.x, source.pixels(index))
                assert torch.equal(data.y, source.labels[index])
            test = each.evaluation["test"]
            assert test.y is not None
            assert torch.equal(test.x, source.pixels(source.test))
            assert torch.equal(test.y, source.labels[source.test])

    @pytest.mark.parametrize("client", [0, SERVER])
    def test_transfer_labels_are_given_only_where_the_study_gives_them(self, client: int) -> None:
        unlabelled, labelled = (
            load_holdings(small("local", transfer=transfer), client).transfer for transfer in (UNLABELLED, LABELLED)
        )
        assert unlabelled is not None
        assert labelled is not None
        assert unlabelled.y is None
        assert labelled.y is not None
        assert torch.equal(unlabelled.x, labelled.x)

    def test_the_server_holds_nobodys_samples(self) -> None:
        held = load_holdings(small("local"), SERVER)
        assert held.data is None
        assert held.val is None
        assert set(held.evaluation) == {"test", "transfer"}


class TestJudging:
    def test_gained_minus_lost_is_the_change_in_accuracy(self) -> None:
        for spec in ("local", "kd", "dml"):
            outcome = federate(small(spec, rounds=3))
            for client in range(2):
                at_start = outcome.rows[0, client, "test", "accuracy"]
                for exchange in range(4):
                    row = {metric: outcome.rows[exchange, client, "test", metric] for metric in ("gained", "lost")}
                    now = outcome.rows[exchange, client, "test", "accuracy"]
                    assert row["gained"] - row["lost"] == pytest.approx(now - at_start, abs=1e-12)
                    assert min(row.values()) >= 0

    # Around the 4096 samples that go through a network at once.
    @pytest.mark.parametrize("sizes", [(9, 14, 40), (5000, 3, 4096), (4095, 2, 9000), (0, 1, 5)])
    def test_accuracy_and_loss_are_those_of_each_split(self, sizes: tuple[int, int, int]) -> None:
        splits = {name: samples(n, name) for name, n in zip(("val", "transfer", "test"), sizes, strict=True)}
        held = replace(load(small("local"), 0), evaluation=splits)
        fixed = model(3)
        found = held.evaluate(fixed, None).metrics
        for split, data in held.evaluation.items():
            if not len(data):
                assert (split, "accuracy") not in found
                continue
            assert data.y is not None
            predicted = fixed(data.x).detach()
            right = [int(z.argmax()) == int(label) for z, label in zip(predicted, data.y, strict=True)]
            assert found[split, "accuracy"] == pytest.approx(sum(right) / len(right))
            surprise = [-float(z.double().log_softmax(0)[label]) for z, label in zip(predicted, data.y, strict=True)]
            assert found[split, "loss"] == pytest.approx(sum(surprise) / len(surprise), rel=1e-5)

    def test_predictions_that_are_not_numbers_are_never_right(self) -> None:
        # A diverged model must not score the share of whichever class arg max answers with.
        nothing = torch.full((6, CLASSES), math.nan)
        for label in range(CLASSES):
            assert not accuracy(nothing, torch.full((6,), label)) > 0

    def test_who_is_judged_by_nothing_has_no_scores(self) -> None:
        held = replace(load(small("local"), 0), evaluation={})
        assert held.evaluate(model(), None).metrics == {}


def _storage(data: Data | None) -> set[int]:
    assert data is not None
    assert data.y is not None
    return {data.x.untyped_storage().data_ptr(), data.y.untyped_storage().data_ptr()}


def _tensors(root: object) -> Iterator[Tensor]:
    """Every tensor that can be reached from an object through attributes, lists and mappings."""
    seen: set[int] = set()
    open_ends = [root]
    while open_ends:
        found = open_ends.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, Tensor):
            yield found
        elif isinstance(found, Mapping):
            open_ends.extend(found.values())
        elif isinstance(found, list | tuple | set):
            open_ends.extend(found)
        elif hasattr(found, "__dict__") and not isinstance(found, type):
            open_ends.extend(vars(found).values())

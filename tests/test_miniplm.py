"""MiniPLM in a federation of text: what is kept, what travels, equal steps, and what the student learns from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.difference_sampling import difference, refinement
from fedkd.difference_sampling.samplers import SELECTED, SOFT, TEXT, Score, combined, learnt_from
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.weights import packed
from fedkd.method import METHODS
from fedkd.methods.miniplm import MiniPLM
from fedkd.models import Model, build_model
from fedkd.node.holdings import Holdings
from fedkd.node.moment import in_round
from fedkd.node.node import SERVER, Node
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining, Training
from fedkd.tensors import top_k
from fedkd.tensors.ranking import highest as top_share
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch
from tests.small import LABELLED, UNLABELLED, Outcome, distance, federate, own_cache, preparing, same_weights, small
from tests.test_fairness import hidden, only_judges_read

__all__ = ["only_judges_read", "own_cache"]

LENGTH, VOCABULARY = 6, 11
STUDENT, TEACHER, REFERENCE = (f"gpt(layers=1, width={width}, heads=2)" for width in (8, 12, 4))
TRAINING = Training(optimizer="sgd", lr=0.2, batch_size=4)
BOTH = f"teacher={TEACHER!r}, reference={REFERENCE!r}, teacher_epochs=3, reference_epochs=1"


def chunks(n: int, *name: int | str) -> Data:
    """`n` chunks of counting up, half of them shuffled."""
    rng = stream("counting", *name)
    text = (torch.randint(VOCABULARY, (n, 1), generator=rng) + torch.arange(LENGTH + 1)) % VOCABULARY
    for row in range(0, n, 2):
        text[row] = text[row, torch.randperm(LENGTH + 1, generator=rng)]
    return Data(text[:, :-1], text[:, 1:].flatten())


def held(federation: Federation, client: int) -> Holdings:
    """Clients with 10, 15, … chunks; the transfer set is text without labels unless the federation gives them."""
    transfer = chunks(12, "transfer")
    public = transfer if federation.transfer == LABELLED else Data(transfer.x, None)
    if client == SERVER:
        return Holdings((LENGTH,), VOCABULARY, None, None, public)
    val = chunks(5, "val", client)
    judged = {"val": val, "transfer": transfer, "test": chunks(9, "test")}
    return Holdings((LENGTH,), VOCABULARY, chunks(10 + 5 * client, "private", client), val, public, judged)


def text(method: str, **settings: Any) -> Federation:
    """A federation of text that starts untrained."""
    plain: dict[str, Any] = {"models": STUDENT, "pretrain": Pretraining(epochs=0), "train": TRAINING}
    return small(method, **(plain | settings))


def miniplm(**settings: Any) -> str:
    """The spec of the method with small models."""
    return f"miniplm({', '.join([BOTH, *(f'{key}={value!r}' for key, value in settings.items())])})"


def ran(spec: str, **settings: Any) -> Outcome:
    """The federation, run."""
    return federate(text(spec, **settings), held)


def node(client: int = 0, round: int = 0, exchange: int = 1) -> Node:
    """A client of that federation."""
    own = held(text("local"), client)
    made = Node(
        client, 2, 0, TRAINING, VOCABULARY, own.data, own.val, own.transfer,
        specs=(STUDENT, STUDENT), shape=(LENGTH,), moment=in_round(round) if round else preparing(exchange),
    )  # fmt: skip
    made.models["student"] = network(STUDENT)
    return made


def network(spec: str, seed: int = 0) -> Model:
    """An untrained network of text."""
    return build_model(spec, (LENGTH,), VOCABULARY, seed, "init")


def sharp(model: Model) -> Model:
    """The same network, surer of itself: its losses differ between chunks."""
    model.head.weight.data *= 12
    return model


def sent(**models: Model) -> Knowledge:
    """What the server sends of some models."""
    return Knowledge(
        {f"miniplm/{r}/{name}": value for r, model in models.items() for name, value in packed(model).items()}
    )


def bare_losses(model: Model, data: Data) -> list[float]:
    """The mean loss of each chunk, chunk by chunk."""
    assert data.y is not None
    labels = data.y.view(len(data), -1)
    with torch.no_grad():
        return [float(F.cross_entropy(model(x[None])[0], y)) for x, y in zip(data.x, labels, strict=True)]


def selected(method: str, client: Node, **models: Model) -> list[int]:
    """Which chunks a client keeps."""
    METHODS.build(method).prepare(client, sent(**models))
    found: list[int] = client.state[SELECTED].tolist()
    return found


class TestSelection:
    @pytest.mark.parametrize("keep", [0.3, 0.5, 1.0])
    def test_it_keeps_the_chunks_that_a_loop_would(self, keep: float) -> None:
        client, teacher, reference = node(1), sharp(network(TEACHER)), sharp(network(REFERENCE))
        pairs = zip(*(bare_losses(model, client.private) for model in (reference, teacher)), strict=True)
        scores = [poor - good for poor, good in pairs]
        wanted = sorted(sorted(range(15), key=lambda place: -scores[place])[: math.floor(15 * keep)])
        assert selected(miniplm(keep=keep), client, teacher=teacher, reference=reference) == wanted

    def test_it_is_a_difference_and_no_ratio(self) -> None:
        losses = {"reference": torch.tensor([4.0, 1.0, 2.5]), "teacher": torch.tensor([3.0, 0.5, 2.75])}
        names: tuple[Score, ...] = ("difference", "bottom", "reference")
        found = {score: combined(score, losses, 3, stream("")).tolist() for score in names}
        assert found == {"difference": [1.0, 0.5, -0.25], "bottom": [-1.0, -0.5, 0.25], "reference": [4.0, 1.0, 2.5]}

    def test_the_controls_are_what_they_are_called(self) -> None:
        teacher, reference = network(TEACHER), network(REFERENCE)
        both = {"teacher": teacher, "reference": reference}
        kept = {name: selected(miniplm(score=name), node(), **both) for name in ("difference", "bottom")}
        assert sorted(kept["difference"] + kept["bottom"]) == list(range(10)), "halves"
        hard = bare_losses(reference, node().private)
        highest = sorted(sorted(range(10), key=lambda place: -hard[place])[:5])
        assert selected(miniplm(score="reference"), node(), reference=reference) == highest
        assert selected(miniplm(score="all"), node()) == list(range(10))
        assert len(selected(miniplm(score="random"), node())) == 5
        assert len({tuple(selected(miniplm(score="random"), node(client))) for client in (0, 1)}) == 2

    def test_a_good_teacher_keeps_the_text_that_can_be_predicted(self) -> None:
        spec = miniplm(teacher_epochs=40, reference_epochs=1).replace("teacher_epochs=3, reference_epochs=1, ", "")
        outcome = ran(spec, rounds=1, train=replace(TRAINING, optimizer="adam", lr=0.02))
        assert (
            outcome.rows[0, SERVER, "transfer", "teacher_loss"] < outcome.rows[0, SERVER, "transfer", "reference_loss"]
        )

    def test_big_models_process_each_token_once(self) -> None:
        rows = ran(miniplm(), rounds=1).rows
        for client, n in ((0, 10), (1, 15)):
            for role in ("teacher", "reference"):
                assert rows[1, client, "", f"{role}_tokens"] == n * LENGTH
        assert rows[0, SERVER, "", "teacher_trained_tokens"] == 3 * 12 * (LENGTH - 1)

    def test_the_training_is_done_once_for_all_federations(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ran(miniplm(), rounds=1)
        monkeypatch.setattr(refinement, "fit", lambda *_, **__: pytest.fail("trained again"))
        monkeypatch.setattr(refinement, "sample_losses", lambda *_, **__: pytest.fail("scored again"))
        ran(miniplm(score="bottom", keep=0.3), rounds=2)

    @pytest.mark.usefixtures("only_judges_read")
    @pytest.mark.parametrize("cut", ["client", "global"])
    def test_test_text_cannot_be_read_while_chunks_are_selected(self, cut: str) -> None:
        def secret(federation: Federation, client: int) -> Holdings:
            own = held(federation, client)
            return (
                own
                if client == SERVER
                else replace(own, evaluation={**own.evaluation, "test": hidden(own.evaluation["test"])})
            )

        spec = miniplm(cut=cut)
        assert same_weights(federate(text(spec), secret).final(0), ran(spec).final(0))


class TestGlobalCut:
    def test_it_keeps_the_best_of_all_clients(self) -> None:
        method = miniplm(cut="global", keep=0.4)
        built = METHODS.build(method)
        clients, at = [node(0), node(1)], Node(SERVER, 2, 0, TRAINING, VOCABULARY, moment=preparing(1))
        models = {"teacher": network(TEACHER), "reference": network(REFERENCE)}
        told = sent(**models)
        for exchange in (1, 2):
            at.moment = preparing(exchange)
            for client in clients:
                client.moment = preparing(exchange)
                built.prepare(client, told)
            reports = {client.id: report for client in clients if (report := built.report(client))}
            told = built.merge(at, reports)[0]
        everything = Data(
            torch.cat([c.private.x for c in clients]),
            torch.cat([c.private.y for c in clients if c.private.y is not None]),
        )
        pairs = zip(
            bare_losses(models["reference"], everything), bare_losses(models["teacher"], everything), strict=True
        )
        best = top_share(torch.tensor([poor - good for poor, good in pairs]), 0.4).tolist()
        found = []
        for client, first in zip(clients, (0, 10), strict=True):
            client.round = 1
            built.learn(client, told)
            found += [first + place for place in client.state[SELECTED].tolist()]
        assert found == best
        assert "miniplm/scores" not in clients[0].state, "what only the cut needed is forgotten"

    def test_histograms_go_up_and_a_threshold_comes_down(self) -> None:
        outcome = ran(miniplm(cut="global"), rounds=1)
        size = 4 * (difference.BINS + 2) + 128
        for exchange in (1, 2):
            assert [bag.nbytes for bag in outcome.reports[exchange].values()] == [size, size]
        assert [sorted(bags[0]) for bags in outcome.knowledge[2:]] == [["miniplm/range"], ["miniplm/threshold"]]
        kept = [outcome.rows[3, client, "", "kept"] * n for client, n in ((0, 10), (1, 15))]
        assert sum(kept) == pytest.approx(12)

    def test_whoever_has_nothing_good_keeps_the_best_of_it(self) -> None:
        client = node()
        built = METHODS.build(miniplm(cut="global", score="random"))
        built.prepare(client, Knowledge())
        best = int(client.state["miniplm/scores"].argmax())
        client.state["miniplm/range"] = torch.zeros(2, dtype=torch.float64)
        client.round = 1
        built.learn(client, Knowledge({"miniplm/threshold": torch.tensor(9.0)}))
        assert client.state[SELECTED].tolist() == [best]


class TestLedger:
    def test_both_models_travel_once_and_nothing_after(self) -> None:
        outcome = ran(miniplm())
        models = sum(Knowledge(packed(network(spec))).nbytes for spec in (TEACHER, REFERENCE))
        assert [bag.nbytes for bag in outcome.knowledge[1].values()] == [models, models]
        assert not any(outcome.knowledge[2:])
        assert not any(outcome.reports[1:])

    def test_only_what_a_score_asks_for_travels(self) -> None:
        one = Knowledge(packed(network(REFERENCE))).nbytes
        assert ran(miniplm(score="reference"), rounds=1).knowledge[1][0].nbytes == one
        assert not any(ran(miniplm(score="random"), rounds=1).knowledge)

    def test_models_do_not_stay_on_the_clients_disks(self) -> None:
        client = node()
        selected(miniplm(distil=0.5), client, teacher=network(TEACHER), reference=network(REFERENCE))
        assert set(client.state) == {SELECTED, SOFT}


def every_form() -> Iterator[str]:
    """All that the study compares, and the federated forms."""
    yield from (miniplm(score=score) for score in ("difference", "random", "bottom", "reference", "all"))
    yield miniplm(score="all", distil=0.5)
    yield miniplm(distil=0.5)
    yield miniplm(distil=0.5, cut="global")
    yield miniplm(generated=0.5)
    yield from (miniplm(then=then) for then in ("fedavg", "kd", "dml", "dp_kd", 'kd(teachers="self")'))
    yield miniplm(cut="global", then="fedavg")


class TestRounds:
    @pytest.mark.parametrize("spec", [*every_form()])
    def test_steps_are_those_of_the_data_as_they_were(self, spec: str) -> None:
        outcome, local = ran(spec), ran("local")
        before = METHODS.build(spec).preparations
        for client, n in ((0, 10), (1, 15)):
            for round in (1, 2):
                taken = outcome.rows[before + round, client, "", "steps"]
                assert taken == local.rows[round, client, "", "steps"] == math.ceil(n / TRAINING.batch_size)
        assert all(math.isfinite(value) for value in outcome.rows.values())

    def test_keeping_all_is_training_as_ever(self) -> None:
        assert same_weights(ran(miniplm(score="all")).final(0), ran("local").final(0))
        assert distance(ran(miniplm(keep=1.0, then="fedavg")).final(1), ran("fedavg").final(1)) == 0

    def test_what_is_left_out_changes_nothing(self) -> None:
        spec = miniplm(score="random")
        kept = set(selected(spec, node(0)))

        def spoilt(federation: Federation, client: int) -> Holdings:
            own = held(federation, client)
            if client or own.data is None:
                return own
            x = own.data.x.clone()
            x[[place for place in range(10) if place not in kept]] = 0
            return replace(own, data=Data(x, own.data.y))

        assert same_weights(federate(text(spec), spoilt).final(0), ran(spec).final(0))

    def test_the_method_of_the_rounds_sees_only_what_was_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[int] = []
        monkeypatch.setattr("fedkd.methods.local.Local.learn", lambda _, client, __: seen.append(len(client.private)))
        ran(miniplm(keep=0.4))
        assert seen == [4, 6, 4, 6]

    def test_soft_predictions_on_public_text_still_travel(self) -> None:
        alone, peers = ran(miniplm()), ran(miniplm(then="kd"))
        rows = 12 * LENGTH * VOCABULARY * 2 + 128
        assert peers.reports[0][0].nbytes - alone.reports[0][0].nbytes == rows
        assert not same_weights(alone.final(0), peers.final(0))

    def test_dml_and_fedavg_exchange_in_every_round(self) -> None:
        for then in ("dml", "fedavg"):
            outcome = ran(miniplm(then=then), rounds=3)
            assert [bool(bags) for bags in outcome.reports] == [True, False, True, True, then == "fedavg"]

    def test_those_who_only_teach_go_on_teaching(self) -> None:
        def exchange(told: Callable[[Tensor], Tensor]) -> Knowledge:
            built, at = (
                METHODS.build(miniplm(then="dml")),
                Node(SERVER, 2, 0, TRAINING, VOCABULARY, moment=in_round(1)),
            )
            at.transfer = held(text("local"), SERVER).transfer
            logits = torch.zeros(12 * LENGTH, VOCABULARY)
            return built.merge(
                at, {0: Knowledge({"then/logits": logits}), 1: Knowledge({"then/logits": told(logits)})}
            )[0]

        assert not torch.equal(
            exchange(lambda z: z + torch.arange(VOCABULARY))["logits"], exchange(lambda z: z)["logits"]
        )


class TestDistilling:
    def test_the_loss_is_that_of_an_online_teacher(self) -> None:
        client, teacher = node(), network(TEACHER, 5)
        method = METHODS.build(miniplm(score="all", distil=0.3, top_k=VOCABULARY))
        assert isinstance(method, MiniPLM)
        method.prepare(client, sent(teacher=teacher))
        z = torch.randn(2 * LENGTH, VOCABULARY, generator=stream("z"))
        own = learnt_from(client)
        assert own.y is not None
        y = own.y[: 2 * LENGTH]
        found = method.loss(Batch(client, z, y, z, client.state[SOFT][: 2 * LENGTH], known=True))
        with torch.no_grad():
            p = teacher(own.x[:2]).flatten(0, 1).double().softmax(1)
        by_hand = 0.0
        for row, target, label in zip(z.double().log_softmax(1), p, y, strict=True):
            by_hand += 0.7 * -float(row[label]) + 0.3 * float((target * (target.log() - row)).sum())
        assert float(found) == pytest.approx(by_hand / len(z), rel=1e-3)

    def test_its_predictions_are_made_once_for_what_is_kept(self) -> None:
        client = node()
        selected(miniplm(distil=0.5, top_k=4), client, teacher=network(TEACHER), reference=network(REFERENCE))
        assert client.state[SOFT].shape == (5 * LENGTH, 3 * 4 + 2)
        x = learnt_from(client).x
        with torch.no_grad():
            logits = network(TEACHER)(x).flatten(0, 1)
        assert torch.equal(client.state[SOFT], top_k.pack(logits, 4))

    def test_after_a_global_cut_they_are_those_of_what_was_kept(self) -> None:
        client, built = node(), METHODS.build(miniplm(distil=0.5, cut="global"))
        built.prepare(client, sent(teacher=network(TEACHER), reference=network(REFERENCE)))
        middle = client.state["miniplm/scores"].median()
        client.state["miniplm/range"] = torch.zeros(2, dtype=torch.float64)
        client.round = 1
        built.learn(client, Knowledge({"miniplm/threshold": middle.double()}))
        with torch.no_grad():
            logits = network(TEACHER)(learnt_from(client).x).flatten(0, 1)
        assert torch.equal(client.state[SOFT], top_k.pack(logits, 16))

    def test_no_share_is_no_distillation(self) -> None:
        assert same_weights(ran(miniplm(distil=0.0)).final(0), ran(miniplm()).final(0))
        assert not same_weights(ran(miniplm(distil=0.5)).final(0), ran(miniplm()).final(0))


class TestGenerated:
    def test_the_teachers_text_takes_the_place_of_the_clients_own(self) -> None:
        outcome = ran(miniplm(generated=0.5))
        texts = [outcome.knowledge[1][client][TEXT] for client in (0, 1)]
        assert [each.shape for each in texts] == [(5, LENGTH + 1), (7, LENGTH + 1)]
        assert texts[0].dtype == torch.uint8
        assert int(texts[1].max()) < VOCABULARY
        assert set(outcome.knowledge[1][0]) == {TEXT}, "the teacher stays where it is"
        assert outcome.rows[0, SERVER, "", "teacher_tokens"] == 12 * LENGTH

        def other(federation: Federation, client: int) -> Holdings:
            own = held(federation, client)
            return own if client == SERVER else replace(own, data=chunks(10 + 5 * client, "other", client))

        assert same_weights(federate(text(miniplm(generated=0.5)), other).final(1), outcome.final(1))

    def test_it_is_drawn_as_the_teacher_predicts(self) -> None:
        teacher = network(TEACHER)
        for parameter in teacher.parameters():
            parameter.data *= 3
        first = torch.zeros(4000, dtype=torch.int64)
        drawn = refinement.written(teacher, TEACHER, first, 2, "law")
        with torch.no_grad():
            law = teacher(first[:1, None])[0, 0].softmax(0)
        shares = torch.bincount(drawn[:, 1], minlength=VOCABULARY) / len(drawn)
        assert float((shares - law).abs().max()) < 4 * math.sqrt(0.25 / len(drawn))
        assert torch.equal(drawn, refinement.written(teacher, TEACHER, first, 2, "law"))
        assert not torch.equal(drawn, refinement.written(teacher, TEACHER, first, 2, "another law"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ("miniplm(keep=0.0)", "keep"),
            ("miniplm(keep=1.5)", "keep"),
            ("miniplm(teacher_epochs=6)", "same"),
            ('miniplm(then="tuned_kd")', "preparations"),
            ('miniplm(then="kd", distil=0.5)', "distil needs"),
            ("miniplm(generated=0.5, distil=0.5)", "distil needs"),
        ],
    )
    def test_settings_that_cannot_be_are_refused_by_name(self, spec: str, said: str) -> None:
        with pytest.raises(UserError, match=said):
            METHODS.build(spec)

    @pytest.mark.parametrize(
        ("spec", "settings", "said"),
        [
            (miniplm(), {"transfer": "private"}, "transfer"),
            ("miniplm", {"models": "mlp"}, "no labels"),
            (miniplm(), {"models": "mlp"}, "does not take images"),
            ('miniplm(teacher="mlp")', {}, "does not take text"),
            ("miniplm(generated=0.5)", {"models": "mlp", "transfer": LABELLED}, "written text"),
            (miniplm(then="fedavg"), {"init": "per_client"}, "common start"),
        ],
    )
    def test_federations_that_cannot_be_are_refused(self, spec: str, settings: dict[str, Any], said: str) -> None:
        federation = text(spec, **settings)
        with pytest.raises(UserError, match=said):
            schedule_of(federation).method.check(federation, federation.transfer != UNLABELLED)

    def test_a_teacher_with_too_short_a_context_is_told(self) -> None:
        spec = miniplm().replace(TEACHER, "gpt(layers=1, width=8, heads=2, context=4)")
        with pytest.raises(UserError, match="context=4"):
            ran(spec)

    def test_labelled_text_is_learnt_as_it_is_told(self) -> None:
        public = chunks(3, "public")
        assert refinement.learnable(public) is public
        cut = refinement.learnable(Data(public.x, None))
        assert torch.equal(cut.x, public.x[:, :-1])
        assert cut.y is not None
        assert torch.equal(cut.y.view(3, -1), public.x[:, 1:])

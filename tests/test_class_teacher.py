"""An autoencoder as the teacher of any method: alone, beside peers, and where it cannot be."""

from __future__ import annotations

import pytest
import torch

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.distillation import autoencoder
from fedkd.distillation.class_teacher import SOFT_LABELS, ClassTeacher
from fedkd.distillation.distilling import Distilling
from fedkd.distillation.teachers import choose, class_teacher_in, peers_in
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS
from fedkd.node.node import Node
from fedkd.protocol.schedule import schedule_of
from fedkd.training.batch import Target
from tests.small import LABELLED, Outcome, distilling, federate, node, same_outcome, server, small
from tests.small import own_cache as own_cache

ALONE = 'kd(teachers="autoencoder(epochs=2)")'
BESIDE = 'kd(teachers="others+autoencoder(epochs=2)")'


def run(spec: str, **settings: object) -> Outcome:
    """A small federation with a labelled transfer set."""
    return federate(small(spec, transfer=LABELLED, **settings))


class TestNames:
    def test_peers_and_autoencoder_are_told_apart(self) -> None:
        assert (peers_in("others"), class_teacher_in("others")) == ("others", None)
        assert (peers_in("autoencoder"), class_teacher_in("autoencoder")) == ("", ClassTeacher())
        assert peers_in("k(2)+autoencoder(tau=0.5)") == "k(2)"
        assert class_teacher_in("autoencoder(tau=0.5, samples=0)+one(1)") == ClassTeacher(samples=0, tau=0.5)
        assert choose("autoencoder", 0, [0, 1, 2], stream("t")) == []
        assert choose("others+autoencoder", 0, [0, 1, 2], stream("t")) == [1, 2]

    @pytest.mark.parametrize(
        "teachers",
        ["others+k(2)", "autoencoder+autoencoder", "self+autoencoder", "autoencoder(width=3)", "autoencoder(tau=0.0)"],
    )
    def test_others_are_refused(self, teachers: str) -> None:
        with pytest.raises(UserError, match="teachers"):
            METHODS.build(f"kd(teachers='{teachers}')")


class TestAlone:
    def test_it_is_asked_once_and_no_peer_is(self) -> None:
        outcome = run(ALONE, rounds=3)
        assert [sorted(each) for each in outcome.reports] == [[], [0, 1], [], [], []]
        assert set(outcome.knowledge[2][0]) == {SOFT_LABELS}
        assert not outcome.knowledge[3]

    def test_every_sample_is_taught_the_soft_label_of_its_class(self) -> None:
        method, client = distilling(ALONE), node(labelled=True)
        client.state[SOFT_LABELS] = torch.randn(3, 3, generator=stream("q")).log_softmax(1)
        target = method.target(client, method.joined(client, None))
        assert target is not None
        assert client.public.y is not None
        assert torch.equal(target.logits, client.state[SOFT_LABELS][client.public.y])

    def test_its_soft_labels_are_those_of_reffakd(self) -> None:
        q = run(ALONE).knowledge[2][0][SOFT_LABELS]
        assert torch.equal(q, run("reffakd(epochs=2)").knowledge[2][0][SOFT_LABELS])


class TestBeside:
    @pytest.mark.parametrize("spec", [BESIDE, BESIDE.replace("kd(", "dp_kd("), BESIDE.replace("kd(", "dml(")])
    def test_the_peers_are_sent_apart_and_it_is_the_last_teacher(self, spec: str) -> None:
        outcome = run(spec, clients=3)
        for student in range(3):
            peers = [outcome.reports[0][peer]["logits"] for peer in range(3) if peer != student]
            assert torch.equal(outcome.knowledge[1][student]["logits"], torch.stack(peers))
        method, client = distilling(spec), node(labelled=True)
        client.state[SOFT_LABELS] = torch.randn(3, 3, generator=stream("q")).log_softmax(1)
        stack = torch.randn(2, 14, 3, generator=stream("peers"))
        joined = method.joined(client, stack)
        assert joined is not None
        assert client.public.y is not None
        assert torch.equal(joined[:2], stack)
        assert torch.equal(joined[2], client.state[SOFT_LABELS][client.public.y])

    def test_kd_learns_the_mean_over_all_of_them(self) -> None:
        method, client = distilling(BESIDE), node(labelled=True)
        client.state[SOFT_LABELS] = torch.randn(3, 3, generator=stream("q")).log_softmax(1)
        stack = torch.randn(2, 14, 3, generator=stream("peers"))
        joined = method.joined(client, stack)
        assert joined is not None
        target = method.target(client, joined)
        assert target is not None
        torch.testing.assert_close(target.logits, joined.mean(0))

    @pytest.mark.parametrize("spec", [BESIDE, 'dml(teachers="others+autoencoder(epochs=2)")'])
    def test_an_exchange_asked_for_twice_is_the_same(self, spec: str) -> None:
        federation = small(spec, rounds=3, transfer=LABELLED)
        assert same_outcome(federate(federation), federate(federation, twice=True))

    def test_peers_that_learn_on_are_heard_in_every_round(self) -> None:
        outcome = run('kd(teachers="others+autoencoder(epochs=2)", refresh="every round")', rounds=3)
        assert ["logits" in (each.get(0) or {}) for each in outcome.reports] == [True, False, True, True, False]
        first, second = (outcome.knowledge[exchange][0]["logits"] for exchange in (1, 3))
        assert not torch.equal(first, second)

    def test_it_changes_what_is_learnt(self) -> None:
        assert not same_outcome(run("kd"), run(BESIDE))
        sums = [run(f"dml(reduce='{reduce}', teachers='others+autoencoder(epochs=2)')") for reduce in ("mean", "sum")]
        assert not same_outcome(*sums), "beside one peer it is the second"

    def test_what_peers_said_first_is_heard_in_round_1(self) -> None:
        method, client = distilling('kd(teachers="others+autoencoder", refresh="every round")'), node(labelled=True)
        encoder = {f"encoder/{name}": value for name, value in autoencoder.encoder(1).state_dict().items()}
        peers = torch.randn(2, 14, 3, generator=stream("peers"))
        method.prepare(client, Knowledge(encoder, logits=peers.half()))
        heard: list[torch.Tensor] = []

        def listening(at: Node, said: torch.Tensor) -> Target | None:
            heard.append(said)
            return Distilling.target(method, at, said)

        object.__setattr__(method, "target", listening)
        method.learn(client, Knowledge({SOFT_LABELS: torch.zeros(3, 3)}))
        assert torch.equal(heard[0][:2], peers.half().float())
        assert len(heard[0]) == 3

    def test_dp_kd_may_be_taught_by_it_alone(self) -> None:
        outcome = run('dp_kd(teachers="autoencoder(epochs=2)")')
        assert not same_outcome(outcome, run("dp_kd"))


class TestLimits:
    def test_text_is_no_image(self) -> None:
        at = server(labelled=True)
        at.shape = (16,)
        with pytest.raises(UserError, match="embeds images"):
            ClassTeacher().offer(at)

    def test_logits_are_not_compared_with_soft_labels_that_have_none(self) -> None:
        for inside in ("objective='mse'", "revise='labels(form=\"mse\")'"):
            with pytest.raises(UserError, match="an autoencoder has none of"):
                METHODS.build(f"kd(teachers='others+autoencoder', {inside})")

    def test_a_grid_cannot_bring_it_in(self) -> None:
        with pytest.raises(UserError, match="preparations"):
            METHODS.build("tuned(method='kd', grid={'teachers': ['others', 'others+autoencoder']})")

    @pytest.mark.parametrize("spec", [ALONE, BESIDE])
    def test_labels_and_a_transfer_set_are_needed(self, spec: str) -> None:
        method = distilling(spec)
        for federation, labelled in ((small(spec), False), (small(spec, transfer="private"), True)):
            with pytest.raises(UserError, match=r"teachers.*labelled=true"):
                method.check(federation, labelled)

    @pytest.mark.parametrize("spec", ["dp_kd(form='soup', teachers='{}')", "dml(order='alternating', teachers='{}')"])
    def test_teachers_in_turn_leave_no_turn_for_it(self, spec: str) -> None:
        spec = spec.format("others+autoencoder")
        with pytest.raises(UserError, match="autoencoder"):
            METHODS.build(spec).check(small(spec, clients=3, transfer=LABELLED), True)

    def test_it_is_no_start(self) -> None:
        federation = small("fedavg", start=BESIDE, transfer=LABELLED)
        plan = schedule_of(federation).consolidation
        assert plan is not None
        with pytest.raises(UserError, match="all other clients"):
            plan.check(federation, True)

    def test_its_bytes_stand_apart_from_those_of_a_search(self) -> None:
        from fedkd.protocol.ledger import added

        rows = added([], [(0, "", "bytes_up", 3.0), (0, "", "bytes_down", 4.0)], METHODS.build(ALONE).preparation)
        assert (0, "", "encoder_bytes", 7.0) in rows

"""ReffAKD through the rounds: one encoder for all, similarities that no cut changes, and its loss at the limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import analysis
from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.distillation import autoencoder
from fedkd.distillation.autoencoder import OPTIMISATION, embed, restored_encoder
from fedkd.distillation.class_teacher import SOFT_LABELS
from fedkd.distillation.similarity import soft_labels
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS
from fedkd.methods.label_smoothing import LabelSmoothing
from fedkd.methods.reffakd import ReffAKD
from fedkd.node.holdings import Holdings
from fedkd.node.moment import AT_START
from fedkd.node.node import SERVER, Node
from fedkd.settings.federation import Federation
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch
from simulations.recipe import SHIPPED, read
from simulations.study import Study
from tests.small import (
    CLASSES,
    LABELLED,
    UNLABELLED,
    Outcome,
    distance,
    federate,
    load,
    node,
    preparing,
    same_weights,
    samples,
    server,
    small,
)
from tests.small import own_cache as own_cache

SHARED = "reffakd(epochs=2, samples=0)"
LOCAL = 'reffakd(epochs=2, encoder="local")'
BOTH = pytest.mark.parametrize("spec", [SHARED, LOCAL], ids=["shared", "local"])
SEEDS = pytest.mark.parametrize("seed", range(3))


def found(outcome: Outcome, at: int) -> Tensor:
    """(classes, classes) similarities in the server's rows of one exchange."""
    matrix = torch.zeros(CLASSES, CLASSES, dtype=torch.float64)
    for a in range(CLASSES):
        for b in range(a, CLASSES):
            matrix[a, b] = matrix[b, a] = outcome.rows[at, SERVER, "", f"similarity/{a}/{b}"]
    return matrix


def holder(number: int, data: Data, clients: int = 3) -> Node:
    """A client of given private samples, at the start."""
    return replace(node(number, clients=clients), data=data, moment=AT_START)


def merged(method: ReffAKD, shards: Sequence[Data]) -> tuple[dict[tuple[str, str], float], Tensor]:
    """The server's records, and the soft labels, where clients hold these shards: start and preparation by hand."""
    clients = [holder(number, shard, len(shards)) for number, shard in enumerate(shards)]
    at = server(clients=len(shards))
    told: Mapping[int, Knowledge] = {}
    for exchange in range(method.preparations + 1):
        reports = {}
        # Replies come in any order.
        for client in reversed(clients):
            client.moment = preparing(exchange)
            if exchange:
                method.prepare(client, told[client.id])
            report = method.report(client)
            assert (report is None) == (exchange < method.preparations)
            if report is not None:
                reports[client.id] = report
        at.moment = preparing(exchange)
        told = method.merge(at, reports)
    assert len({id(bag) for bag in told.values()}) == 1, "all are told the same"
    return at.records, told[0][SOFT_LABELS]


def cut(data: Data, whose: Tensor, parties: int) -> list[Data]:
    """The samples, dealt out."""
    assert data.y is not None
    return [Data(data.x[whose == party], data.y[whose == party]) for party in range(parties)]


def matrix_of(records: Mapping[tuple[str, str], float]) -> list[float]:
    """The similarities among a server's records."""
    return [value for (_, metric), value in records.items() if metric.startswith("similarity/")]


class TestRounds:
    def test_one_encoder_goes_down_once_and_sums_go_up_once_and_nothing_travels_in_the_rounds(self) -> None:
        outcome = federate(small(SHARED, rounds=3))
        assert [sorted(each) for each in outcome.reports] == [[], [0, 1], [], [], []]
        assert [sorted(each) for each in outcome.knowledge] == [[], [0, 1], [0, 1], [], []]
        assert {name: tuple(each.shape) for name, each in outcome.reports[1][0].items()} == {
            "class_sums": (CLASSES, 768),
            "class_counts": (CLASSES,),
        }
        assert outcome.reports[1][0]["class_sums"].dtype == torch.float32
        assert all(name.startswith("encoder/") for name in outcome.knowledge[1][0])
        assert sum(map(Tensor.numel, outcome.knowledge[1][0].values())) == 23_316
        assert {name: tuple(each.shape) for name, each in outcome.knowledge[2][1].items()} == {
            SOFT_LABELS: (CLASSES, CLASSES)
        }

    def test_a_client_s_own_encoder_stays_with_it(self) -> None:
        outcome = federate(small(LOCAL))
        assert [sorted(each) for each in outcome.reports] == [[0, 1], [], []]
        assert {name: each.numel() for name, each in outcome.reports[0][0].items()} == {
            "pair_sums": CLASSES**2,
            "counts": CLASSES,
        }
        assert outcome.reports[0][0]["pair_sums"].dtype == torch.float32

    @pytest.mark.parametrize(("spec", "who", "images"), [(SHARED, [SERVER], [14]), (LOCAL, [0, 1, 2], [10, 13, 16])])
    def test_an_encoder_is_trained_once_and_its_cost_stands_apart(
        self, spec: str, who: list[int], images: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("FEDKD_CACHE", str(tmp_path))
        trained: list[Tensor] = []

        def noted(x: Tensor, *rest: Any) -> autoencoder.Trained:
            trained.append(x)
            return train(x, *rest)

        train = autoencoder.train
        monkeypatch.setattr(autoencoder, "train", noted)
        outcome = federate(small(spec, clients=3))
        assert list(map(len, trained)) == images
        again = federate(small(spec.replace("(", "(alpha=0.7, "), clients=3))
        assert list(map(len, trained)) == images, "nor again for other settings of the rounds"
        assert {k: v for k, v in again.rows.items() if "encoder_" in k[3]} == {
            k: v for k, v in outcome.rows.items() if "encoder_" in k[3]
        }
        booked = {key: value for key, value in outcome.rows.items() if key[3] == "encoder_steps"}
        assert booked == {
            (0, client, "", "encoder_steps"): 2 * math.ceil(n / OPTIMISATION.batch_size)
            for client, n in zip(who, images, strict=True)
        }
        assert [outcome.rows[0, client, "", "encoder_samples"] for client in who] == [2 * n for n in images]
        assert all(0 < outcome.rows[0, client, "", "encoder_loss"] < 0.5 for client in who)

    def test_the_shared_encoder_sees_transfer_inputs_and_nothing_else(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("FEDKD_CACHE", str(tmp_path))
        seen: dict[str, Tensor] = {}
        train = autoencoder.train
        monkeypatch.setattr(autoencoder, "train", lambda x, *rest: train(seen.setdefault("x", x), *rest))
        federate(small(SHARED))
        assert torch.equal(seen["x"], samples(14, "transfer").x)

    @BOTH
    def test_the_similarities_are_those_of_the_clients_images(self, spec: str) -> None:
        outcome = federate(small(spec))
        at = METHODS.build(spec).preparations
        if spec == SHARED:
            weights = {name.removeprefix("encoder/"): value for name, value in outcome.knowledge[1][0].items()}
            encoders = [restored_encoder(1, weights)] * 2
            together = [torch.cat([private(client).x for client in range(2)])], [labels_of(0, 1)]
        else:
            rngs = [stream(0, "autoencoder", client) for client in range(2)]
            encoders = [autoencoder.train(private(c).x, 2, rng).network.encoder for c, rng in enumerate(rngs)]
            together = [private(client).x for client in range(2)], [labels_of(client) for client in range(2)]
        totals, pairs = np.zeros((CLASSES, CLASSES)), np.zeros((CLASSES, CLASSES))
        for x, y, half in zip(*together, encoders, strict=False):
            z = torch.nn.functional.normalize(embed(half, x).double(), dim=1)
            cosines = (z @ z.T).numpy()
            for i in range(len(x)):
                for j in range(len(x)):
                    if i != j:
                        totals[y[i], y[j]] += cosines[i, j]
                        pairs[y[i], y[j]] += 1
        np.testing.assert_allclose(found(outcome, at).numpy(), totals / pairs, rtol=1e-5)

    @BOTH
    def test_every_client_is_taught_by_the_soft_labels_of_the_similarities(self, spec: str) -> None:
        outcome = federate(small(spec))
        at = METHODS.build(spec).preparations
        boost = outcome.rows[at, SERVER, "", "boost"]
        q = outcome.knowledge[at + 1][0][SOFT_LABELS]
        torch.testing.assert_close(q, soft_labels(found(outcome, at), boost).float())
        assert torch.equal(q.argmax(1), torch.arange(CLASSES))
        torch.testing.assert_close(q.exp().sum(1), torch.ones(CLASSES))

    def test_a_boost_that_is_given_is_used(self) -> None:
        plain, given = (federate(small(spec)) for spec in (SHARED, "reffakd(epochs=2, samples=0, boost=0.5)"))
        assert torch.equal(found(plain, 1), found(given, 1))
        assert given.rows[1, SERVER, "", "boost"] == 0.5
        expected = soft_labels(found(plain, 1), 0.5).float()
        torch.testing.assert_close(given.knowledge[2][0][SOFT_LABELS], expected)
        assert not same_weights(plain.final(0), given.final(0))

    def test_who_only_teaches_has_nothing_to_say_and_who_only_learns_has(self) -> None:
        method, roles = ReffAKD(epochs=1), {"students": (0, 1), "teachers": (1, 2)}
        clients = [replace(node(client), moment=preparing(1), **roles) for client in range(3)]  # type: ignore[arg-type]
        encoder = {f"encoder/{name}": value for name, value in autoencoder.encoder(1).state_dict().items()}
        for client in clients:
            method.prepare(client, Knowledge(encoder))
        said = [method.report(client) for client in clients]
        assert [report is not None for report in said] == [True, True, False]

    @pytest.mark.parametrize("samples", [1, 2, 40])
    def test_of_each_class_a_client_embeds_no_more_than_it_may(self, samples: int) -> None:
        outcome = federate(small(f"reffakd(epochs=1, samples={samples})"))
        for client in range(2):
            there = torch.bincount(labels_of(client), minlength=CLASSES)
            assert torch.equal(outcome.reports[1][client]["class_counts"], there.clamp(max=samples))

    def test_above_20_classes_similarities_are_not_rows_and_soft_labels_are_taught_all_the_same(self) -> None:
        def many(federation: Federation, client: int) -> Holdings:
            return replace(load(federation, client), classes=21)

        outcome = federate(small("reffakd(epochs=1)"), many)
        assert (1, SERVER, "", "boost") in outcome.rows
        assert not [key for key in outcome.rows if key[3].startswith("similarity/")]
        assert outcome.knowledge[2][0][SOFT_LABELS].shape == (21, 21)
        assert outcome.knowledge[2][0][SOFT_LABELS].isfinite().all()


def private(client: int) -> Data:
    """The private samples of a client of a small federation."""
    data = load(small("local"), client).data
    assert data is not None
    return data


def labels_of(*clients: int) -> Tensor:
    """The private labels of some clients, one after the other."""
    found = [private(client).y for client in clients]
    return torch.cat([y for y in found if y is not None])


class TestCut:
    @SEEDS
    @pytest.mark.parametrize("parties", [1, 2, 5])
    def test_similarities_are_the_same_for_every_cut_and_order_of_clients(self, parties: int, seed: int) -> None:
        method, data = ReffAKD(epochs=1, samples=0), samples(24, "cut", seed)
        reference, q = merged(method, [data])
        whose = torch.randint(parties, (24,), generator=stream("whose", seed))
        shards = cut(data, whose, parties)
        for order in (shards, shards[::-1]):
            records, its = merged(method, order)
            np.testing.assert_allclose(matrix_of(records), matrix_of(reference), rtol=2e-6)  # float32 sums travel
            assert len(matrix_of(records)) == CLASSES * (CLASSES + 1) // 2
            torch.testing.assert_close(its, q, rtol=2e-6, atol=0)

    @BOTH
    def test_the_order_in_which_replies_come_changes_no_bit(self, spec: str) -> None:
        method = METHODS.build(spec)
        assert isinstance(method, ReffAKD)
        outcome = federate(small(spec, clients=3))
        at = server()
        if method.preparations:
            method.merge(at, outcome.reports[0])
            at.moment = preparing(1)
        one, other = (
            method.merge(at, dict(order))
            for order in (
                outcome.reports[method.preparations].items(),
                reversed(outcome.reports[method.preparations].items()),
            )
        )
        assert torch.equal(one[0][SOFT_LABELS], other[0][SOFT_LABELS])

    def test_each_client_s_own_encoder_makes_the_cut_matter(self) -> None:
        method, data = ReffAKD(epochs=1, samples=0, encoder="local"), samples(24, "cut", 0)
        whole, halves = (
            matrix_of(merged(method, cut(data, torch.arange(24) % parties, parties))[0]) for parties in (1, 2)
        )
        assert not np.allclose(whole, halves, rtol=1e-6)


def loss_of(method: ReffAKD | LabelSmoothing, q: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """The method's loss of a batch, under given soft labels."""
    at = node()
    return method.loss(Batch(at, logits, labels, None, None, None, fixed={SOFT_LABELS: q}))


class TestLoss:
    @SEEDS
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_it_is_a_loop_over_samples_and_classes(self, temperature: float, seed: int) -> None:
        logits, labels, q = drawn(seed)
        total = 0.0
        for row, label in zip(logits.numpy(), labels.tolist(), strict=True):
            p, softened = (np.exp(z) / np.exp(z).sum() for z in (row, row / temperature))
            soft = q[label].exp().numpy()  # as it is, whatever the temperature
            total += 0.7 * -math.log(p[label]) + 0.3 * temperature**2 * float((soft * np.log(soft / softened)).sum())
        value = loss_of(ReffAKD(0.3, temperature), q, logits, labels)
        assert float(value) == pytest.approx(total / len(labels), rel=1e-12)

    @SEEDS
    @pytest.mark.parametrize(("alpha", "temperature"), [(0.1, 1.0), (0.5, 4.0), (1.0, 20.0)])
    def test_under_uniform_soft_labels_it_is_label_smoothing(self, alpha: float, temperature: float, seed: int) -> None:
        logits, labels, q = drawn(seed)
        logits.requires_grad_()
        uniform = torch.full_like(q, -math.log(q.shape[1]))
        ours = loss_of(ReffAKD(alpha, temperature), uniform, logits, labels)
        its = loss_of(LabelSmoothing(alpha, temperature), uniform, logits, labels)
        torch.testing.assert_close(ours, its, rtol=1e-12, atol=0)
        one, other = (torch.autograd.grad(loss, logits)[0] for loss in (ours, its))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)

    def test_its_defaults_are_those_of_label_smoothing(self) -> None:
        ours, its = ReffAKD(), LabelSmoothing()
        assert (ours.alpha, ours.temperature) == (its.alpha, its.temperature)

    @SEEDS
    def test_a_student_that_predicts_its_soft_label_loses_nothing_by_it(self, seed: int) -> None:
        _, labels, q = drawn(seed)
        logits = (q[labels] * 4.0).requires_grad_()
        loss = loss_of(ReffAKD(1.0, 4.0), q, logits, labels)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert abs(float(loss.detach())) < 1e-12
        assert float(gradient.abs().max()) < 1e-12

    @BOTH
    @pytest.mark.parametrize("transfer", [UNLABELLED, LABELLED], ids=["unlabelled", "labelled"])
    def test_without_soft_labels_it_is_local_training_to_the_bit(self, spec: str, transfer: str) -> None:
        none, local = (
            federate(small(method, transfer=transfer)) for method in (spec.replace("(", "(alpha=0.0, "), "local")
        )
        for client in range(2):
            assert same_weights(none.final(client), local.final(client))
            assert distance(local.final(client), local.weights[client][0]) > 0.01

    def test_as_tau_grows_a_federation_becomes_one_of_label_smoothing(self) -> None:
        smooth = federate(small("label_smoothing(alpha=0.5)"))
        far, near = (federate(small(f"reffakd(alpha=0.5, epochs=1, tau={tau})")) for tau in (0.1, 10_000.0))
        for client in range(2):
            assert distance(near.final(client), smooth.final(client)) < 1e-4
            assert distance(far.final(client), smooth.final(client)) > 1e-3


def drawn(seed: int, n: int = 6, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """(n, classes) float64 logits, (n,) labels and (classes, classes) log soft labels."""
    rng = stream("reffakd", seed)
    logits = torch.randn(n, classes, generator=rng, dtype=torch.float64) * 2
    q = torch.randn(classes, classes, generator=rng, dtype=torch.float64).log_softmax(1)
    return logits, torch.randint(classes, (n,), generator=rng), q


class TestInput:
    @pytest.mark.parametrize(
        "arguments",
        ["alpha=1.1", "temperature=0.0", "boost=-0.1", "tau=0.0", "samples=-1", "epochs=0", "encoder='own'"],
    )
    def test_values_out_of_range_are_refused(self, arguments: str) -> None:
        with pytest.raises(UserError, match=arguments.split("=")[0]):
            METHODS.build(f"reffakd({arguments})")

    def test_without_a_transfer_set_there_is_nothing_to_train_a_shared_encoder_on(self) -> None:
        with pytest.raises(UserError, match=r'transfer = "private".*encoder = "local"'):
            METHODS.build("reffakd").check(small("reffakd", transfer="private"), True)
        METHODS.build(LOCAL).check(small(LOCAL, transfer="private"), True)

    def test_local_encoders_need_no_transfer_set(self) -> None:
        def alone(federation: Federation, client: int) -> Holdings:
            return replace(load(federation, client), transfer=None)

        outcome = federate(small(LOCAL, transfer="private"), alone)
        assert (0, SERVER, "", "boost") in outcome.rows

    def test_text_is_refused(self) -> None:
        with pytest.raises(UserError, match="embeds images"):
            ReffAKD().setup(replace(node(), shape=(16,)))

    def test_local_encoders_can_be_tuned_and_a_shared_one_says_why_not(self) -> None:
        grid = '{"alpha": [0.1, 0.5]}'
        outcome = federate(small(f"tuned(method='reffakd(epochs=1, encoder=\"local\")', grid={grid}, rounds=1)"))
        assert all(math.isfinite(value) for value in outcome.rows.values())
        with pytest.raises(UserError, match="preparations"):
            METHODS.build(f"tuned(method='reffakd', grid={grid})").check(small("local"), False)


class TestStudy:
    def test_the_recipe_is_read_and_every_reffakd_has_its_control(self) -> None:
        recipe = read("reffakd", ["dataset=digits"])
        methods = {federation.method for federation in recipe.federations}
        assert len(recipe.federations) == len(methods) * 2 * 5
        built = [METHODS.build(method) for method in methods]
        controls = {(each.alpha, each.temperature) for each in built if isinstance(each, LabelSmoothing)}
        assert {(each.alpha, each.temperature) for each in built if isinstance(each, ReffAKD)} == controls
        assert (SHIPPED / "reffakd.toml").is_file()

    def test_a_small_one_runs_on_digits(self, tmp_path: Path) -> None:
        few = ["dataset=digits(limit=200)", "partition=iid", "clients=2", "rounds=1", "seed=0", "pretrain.epochs=1"]
        methods = 'method=["reffakd(epochs=2)", "reffakd(epochs=2, encoder=\\"local\\")", "label_smoothing"]'
        Study(read("reffakd", [*few, methods]), tmp_path).run("inline", lanes=1)
        table = analysis.load(tmp_path)
        assert table["federation"].nunique() == 3
        rows = table[(table["metric"] == "similarity/3/5") & (table["client"] == SERVER)]
        assert rows["round"].tolist() == [0, 0]
        assert rows["value"].between(0, 1).all()

"""Predictions of tokens are rows like those of images: losses, methods, measures and whole federations are the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import analysis
from fedkd.base.streams import stream
from fedkd.data import load
from fedkd.data.tokens import decode
from fedkd.knowledge.weights import average
from fedkd.method import METHODS
from fedkd.models import build_model
from fedkd.node.holdings import Holdings
from fedkd.node.moment import in_round
from fedkd.node.node import SERVER, Node
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining, Training
from fedkd.tensors.evaluate import bits_per_byte, calibration_error, mean_loss
from fedkd.tensors.losses import cross_entropy, kl
from fedkd.tensors.samples import Data, rows_a_sample, rows_of
from fedkd.training.batch import Batch, Fit, Target
from fedkd.training.fit import fit
from fedkd.training.pretrain import pretrain
from simulations.recipe import expand
from simulations.study import Study
from tests.small import (
    LABELLED,
    UNLABELLED,
    Outcome,
    Watched,
    distance,
    federate,
    own_cache,
    same_outcome,
    same_weights,
    weights,
)

__all__ = ["own_cache"]


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holdings whose models are kept, with everything that text holds."""
    monkeypatch.setattr("tests.small._watched", lambda held: Watched(**vars(held)))


LENGTH, VOCABULARY = 4, 7
MODEL = "gpt(layers=1, width=8, heads=2)"


def chunks(n: int, *name: int | str, length: int = LENGTH) -> Data:
    """`n` chunks of a text in which each token depends on the one before it, in another way at each `name`."""
    rng = stream("text", *name)
    follows = torch.rand(VOCABULARY, VOCABULARY, generator=rng).pow(3)
    text = [0]
    for _ in range(n * length):
        text.append(int(torch.multinomial(follows[text[-1]], 1, generator=rng)))
    whole = torch.tensor(text)
    return Data(whole[:-1].view(n, length), whole[1:])


def held(federation: Federation, client: int) -> Holdings:
    """Clients with text of their own, 10, 13, … chunks; the transfer set and the test are common."""
    transfer, test = chunks(6, "transfer"), chunks(12, "test")
    public = {LABELLED: transfer, UNLABELLED: Data(transfer.x, None), "private": None}[federation.transfer]
    bytes_of = torch.arange(VOCABULARY) % 3 + 1
    if client == SERVER:
        return Holdings((LENGTH,), VOCABULARY, None, None, public, {}, bytes_of)
    val = chunks(5, "val", client)
    judged = {"val": val, "test": test} | ({"transfer": transfer} if public else {})
    private = chunks(10 + 3 * client, "private", client)
    return Holdings((LENGTH,), VOCABULARY, private, val, public, judged, bytes_of)


def federation(method: str, **settings: Any) -> Federation:
    """Two clients, two rounds."""
    plain: dict[str, Any] = {
        "models": MODEL,
        "clients": 2,
        "rounds": 2,
        "transfer": UNLABELLED,
        "pretrain": Pretraining(epochs=2, lr=0.3, batch_size=4),
        "train": Training(lr=0.2, batch_size=4, steps=3),
    }
    return Federation(method, **plain | settings)


def client(labelled: bool = False, training: Training | None = None) -> Node:
    """A client that holds text, with an untrained model."""
    of = federation("local", transfer=LABELLED if labelled else UNLABELLED)
    own = held(of, 1)
    model = build_model(MODEL, (LENGTH,), VOCABULARY, 0, "init")
    return Node(
        1, 2, 0, training or of.train, VOCABULARY, data=own.data, val=own.val, transfer=own.transfer,
        moment=in_round(1), specs=(MODEL,) * 2, shape=(LENGTH,), models={"student": model},
    )  # fmt: skip


class TestRows:
    @pytest.mark.parametrize("shape", [(), (VOCABULARY,)])
    def test_those_of_some_samples_come_sample_by_sample(self, shape: tuple[int, ...]) -> None:
        values = torch.rand(5 * LENGTH, *shape, generator=stream("rows"))
        index = torch.tensor([3, 0, 3])
        wanted = [values[sample * LENGTH + place] for sample in index.tolist() for place in range(LENGTH)]
        assert torch.equal(rows_of(values, index, 5), torch.stack(wanted))

    def test_an_image_has_one(self) -> None:
        values, index = torch.rand(5, 3, generator=stream("rows")), torch.tensor([4, 1])
        assert torch.equal(rows_of(values, index, 5), values[index])
        assert rows_a_sample(torch.rand(5, 1, 4, 4)) == 1

    def test_a_chunk_has_one_a_token(self) -> None:
        assert rows_a_sample(chunks(3).x) == LENGTH

    def test_predictions_are_rows_however_many_at_once(self) -> None:
        node = client()
        logits = node.predict(node.private.x)
        assert logits.shape == (len(node.private) * LENGTH, VOCABULARY)
        torch.testing.assert_close(logits, node.student(node.private.x).detach().flatten(0, 1))
        torch.testing.assert_close(node.compute.predicted(node.student, [node.private.x], 1), logits)


class TestSteps:
    """What a loss is given at each step, held against the samples themselves."""

    @pytest.mark.parametrize("labelled", [False, True])
    @pytest.mark.parametrize("on", ["transfer", "private"])
    def test_every_row_stands_beside_its_label_its_soft_label_and_its_weight(self, labelled: bool, on: Any) -> None:
        node = client(labelled)
        data = node.public if on == "transfer" else node.private
        rows = len(data) * LENGTH
        target = Target(torch.rand(rows, VOCABULARY), torch.arange(rows) / rows, data)
        # A model that shows which token it was given: its logit is the highest.
        body = torch.nn.Embedding(VOCABULARY, VOCABULARY)
        node.student.body, node.student.head = body, torch.nn.Linear(VOCABULARY, VOCABULARY, bias=False)
        for layer in (body, node.student.head):
            layer.weight = torch.nn.Parameter(torch.eye(VOCABULARY))
        seen: list[Batch] = []

        def loss(batch: Batch) -> Tensor:
            seen.append(batch)
            assert batch.student is not None
            return batch.student.sum() * 0

        fit(node, Fit(loss, target))
        assert len(seen) == 3
        known = follows(node.private) | (follows(node.public) if labelled else set())
        for batch in seen:
            given = batch.labelled.argmax(1)
            assert {*zip(chunked(given), chunked(batch.labels), strict=True)} <= known
            assert len(given) == len(batch.labels) == 4 * LENGTH * (1 + labelled)
            assert batch.student is not None
            assert batch.teacher is not None
            assert batch.weights is not None
            place = (batch.weights * rows).round().long()
            assert torch.equal(place % LENGTH, torch.arange(LENGTH).repeat(4))
            assert torch.equal(batch.teacher, target.logits[place])
            assert torch.equal(batch.student.argmax(1), data.x.flatten()[place])

    def test_examples_are_chunks(self) -> None:
        node = client()
        fit(node, Fit(lambda batch: cross_entropy(batch.labelled, batch.labels)))
        assert (node.steps, node.samples) == (3, 12)

    @pytest.mark.parametrize(
        ("method", "value"),
        [
            ("kd(weight=0.3, temperature=2.0)", lambda ce, soft, _: 0.7 * ce + 0.3 * soft(2.0)),
            ("dml", lambda ce, soft, _: ce + soft(1.0)),
            ("dp_kd", lambda _, soft, __: soft(1.0)),
            ("local", lambda ce, *_: ce),
        ],
    )
    def test_a_loss_is_the_mean_over_all_places_of_all_chunks(self, method: str, value: Callable[..., float]) -> None:
        draw = stream("loss")
        student, teacher = torch.randn(2, 5, LENGTH, VOCABULARY, generator=draw)
        y = torch.randint(VOCABULARY, (5, LENGTH), generator=draw)
        ce = float(F.cross_entropy(student.transpose(1, 2), y))

        def soft(temperature: float) -> float:
            """T²·KL, one chunk and place after the other."""
            each = [
                kl(student[n, place].unsqueeze(0), teacher[n, place].unsqueeze(0), temperature)
                for n in range(5)
                for place in range(LENGTH)
            ]
            return float(torch.stack(each).mean())

        rows = student.flatten(0, 1)
        batch = Batch(client(), rows, y.flatten(), rows, teacher.flatten(0, 1))
        assert float(METHODS.build(method).loss(batch)) == pytest.approx(value(ce, soft, None), rel=1e-5)


def follows(data: Data) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every chunk with the tokens that follow."""
    assert data.y is not None
    return {*zip(chunked(data.x.flatten()), chunked(data.y), strict=True)}


def chunked(rows: Tensor) -> list[tuple[int, ...]]:
    return [tuple(chunk) for chunk in rows.view(-1, LENGTH).tolist()]


IMAGE_FORM = """
import torch
from pydantic.dataclasses import dataclass

from fedkd.models import Architecture, LanguageModel, Model
from fedkd import STRICT


def table(classes):
    places = torch.arange(classes * 6, device="cpu").view(classes, 6).float()
    return torch.nn.Embedding.from_pretrained(torch.sin(places), freeze=False)


class Pixels(Model):
    def centred(self, x):
        return (x.flatten(1).squeeze(1) * 255).round().long()


@dataclass(frozen=True, config=STRICT)
class Bigram(Architecture):
    '''The next token from this one alone.'''

    image: bool = False

    @property
    def takes(self):
        return "images" if self.image else "text"

    def build(self, shape, classes):
        model = (Pixels if self.image else LanguageModel)(table(classes), 6, classes)
        with torch.no_grad():
            model.head.weight.copy_(torch.cos(torch.arange(classes * 6)).view(classes, 6))
            model.head.bias.zero_()
        return model
"""
"""A model to which a token is the same as an image of one pixel."""


def as_images(held: Holdings) -> Holdings:
    """Every place of every chunk as an image of one pixel, whose class is the next token."""

    def images(data: Data | None) -> Data | None:
        return data and Data(data.x.reshape(-1, 1, 1, 1) / 255, data.y)

    judged = {split: image for split, data in held.evaluation.items() if (image := images(data))}
    return Holdings((1, 1, 1), held.classes, images(held.data), images(held.val), images(held.transfer), judged)


class TestImageForm:
    """With batches of all samples, text is as many images as it has places: whole federations are equal."""

    @pytest.mark.parametrize(
        ("method", "transfer"),
        [
            ("local", UNLABELLED),
            ("kd(wire='float32')", UNLABELLED),
            ("kd(wire='float32', temperature=3.0, refresh='every round')", LABELLED),
            ("dml(wire='float32')", UNLABELLED),
            ("dp_kd(wire='float32')", UNLABELLED),
            ("dp_kd(wire='float32', mask='supervised')", LABELLED),
            ("dp_kd", "private"),
            ("fedavg", UNLABELLED),
        ],
    )
    def test_a_federation_on_tokens_is_that_on_their_images(self, method: str, transfer: str, tmp_path: Path) -> None:
        (tmp_path / "own.py").write_text(IMAGE_FORM)
        whole = {"pretrain": Pretraining(epochs=3, lr=0.5, batch_size=1000)} | {
            "train": Training(lr=0.3, batch_size=1000, steps=3)
        }
        text, images = (
            federate(federation(method, models=f"{tmp_path}/own.py:bigram{image}", transfer=transfer, **whole), load)
            for image, load in (("", held), ("(image=true)", lambda of, client: as_images(held(of, client))))
        )
        for one, other in zip(text.weights, images.weights, strict=True):
            for mine, its in zip(one, other, strict=True):
                assert distance(mine, its) < 1e-4
            assert distance(one[0], one[-1]) > 1e-2, "it has learned"
        names = ("accuracy", "loss", "gained", "lost", "ece", "teacher_accuracy", "teacher_loss", "agreement")
        compared = [key for key in images.rows if key[3] in names]
        assert len(compared) > 10
        for key in compared:
            assert text.rows[key] == pytest.approx(images.rows[key], abs=1e-4), key
        for one_sent, other_sent in zip(text.knowledge, images.knowledge, strict=True):
            for receiver, bag in one_sent.items():
                for name, tensor in bag.items():
                    torch.testing.assert_close(tensor, other_sent[receiver][name], rtol=1e-3, atol=1e-4)


class TestFederations:
    @pytest.mark.parametrize(
        ("method", "transfer"),
        [
            *((name, UNLABELLED) for name in ("local", "kd", "dml", "dp_kd", "fedavg", "fedprox", "label_smoothing")),
            *((name, "private") for name in ("kd", "dml", "dp_kd")),
            ("tuned_kd(temperatures=[1.0], weights=[0.1, 0.9], rounds=1)", UNLABELLED),
            ("dp_kd(mask='supervised', form='sequential')", LABELLED),
            ("kd(teachers='self')", LABELLED),
        ],
    )
    def test_every_exchange_is_repeatable_and_every_split_judged(self, method: str, transfer: str) -> None:
        outcome = federate(federation(method, transfer=transfer), held, twice=True)
        last = max(key[0] for key in outcome.rows)
        for split in ("test", "val") if transfer == "private" else ("test", "val", "transfer"):
            for metric in ("accuracy", "loss", "bits_per_byte"):
                assert math.isfinite(outcome.rows[last, 0, split, metric])
        assert outcome.rows[last, 0, "", "steps"] == 3
        assert not [key for key in outcome.rows if key[3].startswith("accuracy/")], "a vocabulary has too many classes"

    def test_logits_travel_one_row_a_token(self) -> None:
        outcome = federate(federation("kd"), held)
        for bag in outcome.reports[0].values():
            assert bag["logits"].shape == (6 * LENGTH, VOCABULARY)
            assert bag["logits"].dtype == torch.float16

    def test_distillation_brings_the_student_nearer_to_its_teacher(self) -> None:
        settings = {"train": Training(lr=0.5, batch_size=6, steps=40)}
        gaps = []
        for method in ("local", "kd(weight=0.9)"):
            outcome = federate(federation(method, **settings), held)
            gaps.append(disagreement(outcome))
        assert gaps[1] < 0.7 * gaps[0]

    def test_pretraining_is_kept_and_taken_up(self) -> None:
        settings = Pretraining(epochs=2, lr=0.3, batch_size=4)
        nodes = [client(), client()]
        for node in nodes:
            assert pretrain(node, node.student, MODEL, settings).epochs == 2
        assert same_weights(weights(nodes[0].student), weights(nodes[1].student))
        assert nodes[1].steps == 0
        assert distance(weights(nodes[0].student), weights(client().student)) > 1e-3
        other = client()
        other.data = Data(other.private.x, other.private.x.flatten())
        pretrain(other, other.student, MODEL, settings)
        assert distance(weights(nodes[0].student), weights(other.student)) > 1e-3, "targets are part of its name"

    def test_fedavg_averages_models_of_text(self) -> None:
        outcome = federate(federation("fedavg"), held)
        mean = average([of_client[0] for of_client in outcome.weights], [10.0, 13.0])
        for sent in outcome.knowledge[1].values():
            for name, value in mean.items():
                torch.testing.assert_close(sent[f"weight/{name}"], value)

    def test_equal_settings_give_equal_numbers(self) -> None:
        assert same_outcome(federate(federation("dml"), held), federate(federation("dml"), held))


def disagreement(outcome: Outcome) -> float:
    """Mean KL of the two clients' last predictions on the transfer set."""
    models = [build_model(MODEL, (LENGTH,), VOCABULARY, 0, "init").eval() for _ in range(2)]
    for number, model in enumerate(models):
        model.load_state_dict(outcome.final(number))
    one, other = (model(chunks(6, "transfer").x).flatten(0, 1).detach() for model in models)
    return float(kl(one, other))


class TestMeasures:
    def test_accuracy_loss_and_bits_per_byte_are_those_of_every_token(self) -> None:
        own, model = held(federation("local"), 0), build_model(MODEL, (LENGTH,), VOCABULARY, 0, "init")
        judged = own.evaluate(model, None, detailed=True)
        for split, data in own.evaluation.items():
            assert data.y is not None
            right, nats, size = 0, 0.0, 0
            for chunk, after in zip(data.x, data.y.view(-1, LENGTH), strict=True):
                logs = model(chunk.unsqueeze(0)).detach()[0].double().log_softmax(1)
                for place, token in enumerate(after.tolist()):
                    right += int(logs[place].argmax()) == token
                    nats -= float(logs[place, token])
                    size += token % 3 + 1
            tokens = data.y.numel()
            assert judged.metrics[split, "accuracy"] == pytest.approx(right / tokens)
            assert judged.metrics[split, "loss"] == pytest.approx(nats / tokens, rel=1e-6)
            assert judged.metrics[split, "bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)
        assert judged.right.shape == (12 * LENGTH,)
        assert judged.transfer_logits is not None
        assert not judged.transfer_logits.is_inference(), "it can be learned from"

    def test_a_uniform_guess_of_bytes_takes_eight_bits_each(self) -> None:
        y = torch.arange(256)
        loss = mean_loss(torch.zeros(256, 256), y)
        assert bits_per_byte(loss, y, torch.ones(256, dtype=torch.int64)) == pytest.approx(8)

    def test_of_bytes_they_are_the_loss_in_bits(self) -> None:
        y = torch.randint(256, (90,), generator=stream("bytes"))
        assert bits_per_byte(1.7, y, torch.ones(256, dtype=torch.int64)) == pytest.approx(1.7 / math.log(2))

    def test_the_bytes_of_the_tokens_are_those_of_the_text(self, tmp_path: Path) -> None:
        (tmp_path / "file.txt").write_text("the cat and the other cat are in thé house\n" * 60, encoding="utf-8")
        dataset = load(f"text:{tmp_path}/file.txt(length=8, vocabulary=280)")
        _, y = dataset.pairs(dataset.train)
        assert dataset.token_bytes is not None
        size = len(decode(y.numpy(), dataset.vocabulary))
        assert int(dataset.token_bytes[y].sum()) == size > 2 * len(y)
        assert bits_per_byte(1.5, y, dataset.token_bytes) == pytest.approx(1.5 * len(y) / math.log(2) / size)

    def test_images_have_none(self) -> None:
        own = replace(held(federation("local"), 0), token_bytes=None)
        metrics = own.evaluate(build_model(MODEL, (LENGTH,), VOCABULARY, 0, "init"), None).metrics
        assert not [metric for _, metric in metrics if metric == "bits_per_byte"]

    def test_large_predictions_are_measured_in_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        logits = torch.randn(1000, 5, generator=stream("large"))
        y = torch.randint(5, (1000,), generator=stream("large", "y"))
        whole = mean_loss(logits, y), calibration_error(logits, y)
        monkeypatch.setattr("fedkd.tensors.evaluate.LARGEST", 5 * 64)
        assert (mean_loss(logits, y), calibration_error(logits, y)) == pytest.approx(whole, rel=1e-12)


def test_a_study_of_text_runs_from_recipe_to_table(tmp_path: Path) -> None:
    recipe = expand(
        "text",
        {
            "dataset": "python_text(limit=80, length=8)",
            "method": ["local", "kd"],
            "partition": "by_column(name='domain')",
            "models": f"{MODEL}|gru(width=8)",
            "clients": 2,
            "rounds": 1,
            "pretrain": {"epochs": 1},
            "train": {"steps": 2},
        },
    )
    Study(recipe, tmp_path / "out").run("inline", lanes=1)
    table = analysis.load(tmp_path / "out")
    assert table.query("metric == 'bits_per_byte' and split == 'test' and client >= 0").value.between(5, 12).all()
    assert {*table[table["split"] == "local_test"].metric} >= {"accuracy", "loss", "bits_per_byte"}
    assert {*table.method} == {"local", "kd"}

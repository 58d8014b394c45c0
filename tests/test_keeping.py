"""Kept models, pre-training that stops early or at a target, augmented batches: what a recipe asks of a client."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from fedkd.knowledge.knowledge import Knowledge
from fedkd.models import build_model
from fedkd.node.node import Node
from fedkd.protocol.client import take_part
from fedkd.protocol.keeping import keep, saved_model
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining, Training
from fedkd.tensors.evaluate import accuracy, mean_loss
from fedkd.tensors.losses import cross_entropy
from fedkd.tensors.samples import Data
from fedkd.training.augment import augmentation
from fedkd.training.batch import Batch, Fit, Target
from fedkd.training.fit import fit
from fedkd.training.pretrain import pretrain
from tests import small
from tests.small import own_cache

__all__ = ["own_cache"]


def kept(store: Path, client: int) -> small.Weights:
    """The tensors of a kept model."""
    with safe_open(saved_model(store, client), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def federation(**settings: Any) -> Federation:
    return small.small("kd", rounds=4, **settings)


class TestSave:
    def test_nothing_is_kept_unless_asked_for(self, tmp_path: Path) -> None:
        small.federate(federation(), store=tmp_path)
        assert not list(tmp_path.glob("model-*"))

    def test_last_is_the_model_after_the_last_round(self, tmp_path: Path) -> None:
        outcome = small.federate(federation(save="last"), store=tmp_path)
        for client in range(2):
            assert small.same_weights(kept(tmp_path, client), outcome.final(client))

    @pytest.mark.parametrize("seed", range(4))
    def test_best_is_the_one_of_best_validation_accuracy_then_loss_then_the_earliest(
        self, tmp_path: Path, seed: int
    ) -> None:
        outcome = small.federate(federation(save="best", seed=seed, train=Training(lr=1.0)), store=tmp_path)
        for client in range(2):
            scores = [
                (outcome.rows[number, client, "val", "accuracy"], -outcome.rows[number, client, "val", "loss"])
                for number in range(5)
            ]
            best = scores.index(max(scores))
            assert small.same_weights(kept(tmp_path, client), outcome.weights[client][best])

    def test_scores_that_differ_in_the_last_bit_alone_are_a_tie(self, tmp_path: Path) -> None:
        node = small.node(0)
        shared = {("val", "accuracy"): 0.1 + 0.2, ("val", "loss"): 0.5}
        keep(federation(save="best"), node, {**shared, ("val", "accuracy"): 0.3}, tmp_path, last=False)
        first = kept(tmp_path, 0)
        node.models["student"] = small.model(seed=1)
        keep(federation(save="best"), node, shared, tmp_path, last=True)
        assert small.same_weights(kept(tmp_path, 0), first)
        keep(federation(save="best"), node, {**shared, ("val", "loss"): 0.4}, tmp_path, last=True)
        assert not small.same_weights(kept(tmp_path, 0), first)

    def test_a_repeated_message_keeps_the_same_model(self, tmp_path: Path) -> None:
        small.federate(federation(save="best"), store=tmp_path / "once")
        of = federation(save="best")
        small.federate(of, store=tmp_path / "twice", twice=True)
        for client in range(2):
            assert small.same_weights(kept(tmp_path / "once", client), kept(tmp_path / "twice", client))

    def test_a_client_that_only_teaches_keeps_its_start(self, tmp_path: Path) -> None:
        of = federation(save="last", students=(0,))
        for client in range(2):
            take_part(of, client, 0, Knowledge(), small.load(of, client), tmp_path)
        assert not saved_model(tmp_path, 0).exists()
        start = small.federate(federation())
        assert small.same_weights(kept(tmp_path, 1), start.weights[1][0])

    def test_a_kept_model_is_taken_up_again(self, tmp_path: Path) -> None:
        outcome = small.federate(federation(save="last"), store=tmp_path)
        again = small.federate(federation(models=f"checkpoint:{tmp_path}/model-{{client}}.safetensors", start="random"))
        for client in range(2):
            assert small.same_weights(again.weights[client][0], outcome.final(client))

    def test_the_file_says_what_it_holds(self, tmp_path: Path) -> None:
        small.federate(federation(save="last"), store=tmp_path)
        with safe_open(saved_model(tmp_path, 0), "pt") as file:
            said = json.loads(file.metadata()["fedkd"])
        assert said == {"model": small.MODEL, "shape": list(small.SHAPE), "classes": small.CLASSES}


def trained(settings: Pretraining) -> tuple[Node, int]:
    """A client after pre-training, and its epochs."""
    node = small.node()
    return node, pretrain(node, node.student, small.MODEL, settings).epochs


def by_hand(epochs: int, settings: Pretraining) -> list[tuple[float, float, small.Weights]]:
    """Validation accuracy, loss and weights after each epoch of plain training."""
    node, found = small.node(), []
    assert node.val is not None
    assert node.val.y is not None
    steps = -(-len(node.private) // settings.batch_size)
    for epoch in range(epochs):
        fit(
            node,
            Fit(
                lambda batch: cross_entropy(batch.labelled, batch.labels),
                labels="private",
                steps=steps,
                first=epoch * steps,
                optimisation=settings,
                purpose="pretrain",
            ),
        )
        logits = node.predict(node.val.x)
        found.append((accuracy(logits, node.val.y), mean_loss(logits, node.val.y), small.weights(node.student)))
    return found


class TestPretraining:
    def test_early_stopping_goes_back_to_the_lowest_validation_loss(self) -> None:
        settings = Pretraining(epochs="early_stopping", patience=5, lr=0.5, batch_size=4)
        node, epochs = trained(settings)
        history = by_hand(epochs + 5, settings)
        losses = [loss for _, loss, _ in history]
        assert epochs == 1 + losses.index(min(losses))
        assert min(losses[: epochs - 1], default=float("inf")) > losses[epochs - 1]
        assert small.same_weights(small.weights(node.student), history[epochs - 1][2])

    def test_patience_is_how_long_it_looks_further(self) -> None:
        epochs = [trained(Pretraining(epochs="early_stopping", patience=p, lr=1.0, batch_size=4))[1] for p in (1, 40)]
        losses = [loss for _, loss, _ in by_hand(60, Pretraining(lr=1.0, batch_size=4))]
        falls = [a > b for a, b in itertools.pairwise(losses)]
        assert epochs[0] == 1 + falls.index(False)
        assert losses[epochs[1] - 1] <= losses[epochs[0] - 1]

    def test_a_target_ends_training_in_the_first_epoch_that_reaches_it(self) -> None:
        plain = Pretraining(epochs=60, lr=0.2, batch_size=4)
        history = by_hand(60, plain)
        target = sorted({correct for correct, _, _ in history})[-2]
        first = next(number for number, (correct, _, _) in enumerate(history, start=1) if correct >= target)
        node, epochs = trained(Pretraining(epochs=60, target=target, lr=0.2, batch_size=4))
        assert epochs == first
        assert small.same_weights(small.weights(node.student), history[first - 1][2])

    def test_a_target_out_of_reach_leaves_the_other_ends(self) -> None:
        assert trained(Pretraining(epochs=3, target=1.0, lr=0.001))[1] == 3

    def test_validation_samples_are_part_of_what_is_remembered(self) -> None:
        settings = Pretraining(epochs="early_stopping", lr=0.5, batch_size=4)
        first, _ = trained(settings)
        other = small.node()
        assert other.val is not None
        other.val = Data(other.val.x.flip(0), other.val.y)
        pretrain(other, other.student, small.MODEL, settings)
        assert not small.same_weights(small.weights(first.student), small.weights(other.student))

    def test_it_never_reads_validation_unless_told_to(self) -> None:
        node = small.node()
        node.val = None
        pretrain(node, node.student, small.MODEL, Pretraining(epochs=2))


class TestAugmentation:
    def test_only_private_labelled_images_are_changed_and_by_the_client_s_own_stream(self) -> None:
        settings = Training(lr=0.1, batch_size=4, augment="crop(padding=1)+flip")
        plain, changed = small.node(training=small.TRAINING), small.node(training=settings)
        seen: dict[str, list[torch.Tensor]] = {"plain": [], "changed": []}
        for name, node in (("plain", plain), ("changed", changed)):
            body = node.student.forward

            def spy(x: torch.Tensor, name: str = name, body: Any = body) -> torch.Tensor:
                seen[name].append(x.detach().clone())
                return body(x)  # type: ignore[no-any-return]

            node.student.forward = spy  # type: ignore[method-assign]
            target = Target(torch.zeros(len(node.public), small.CLASSES))
            fit(node, Fit(lambda batch: cross_entropy(batch.labelled, batch.labels), target, steps=3))
        change = augmentation("crop(padding=1)+flip")
        assert change is not None
        for step, (before, after) in enumerate(zip(seen["plain"], seen["changed"], strict=True)):
            assert torch.equal(before[4:], after[4:]), "what is distilled stays as it is"
            assert torch.equal(change(before[:4], changed.rng("batches/augment", step)), after[:4])
            assert not torch.equal(before[:4], after[:4])

    def test_images_that_are_distilled_themselves_are_left_alone(self) -> None:
        settings = Training(lr=0.1, batch_size=4, augment="flip(probability=1.0)")
        results = []
        for training in (small.TRAINING, settings):
            node = small.node(training=training)
            target = Target(torch.zeros(len(node.private), small.CLASSES), samples=node.private)

            def loss(batch: Batch) -> torch.Tensor:
                assert batch.student is not None
                return batch.student.square().mean()

            fit(node, Fit(loss, target, steps=3))
            results.append(small.weights(node.student))
        assert small.same_weights(*results)

    def test_a_whole_federation_is_augmented_alike_again(self) -> None:
        of = federation(train=Training(lr=0.1, batch_size=4, augment="crop(padding=1)"))
        assert small.same_outcome(small.federate(of), small.federate(of, twice=True))
        assert small.federate(of).rows != small.federate(federation()).rows


def test_models_of_one_spec_start_alike() -> None:
    one, other = (build_model(small.MODEL, small.SHAPE, small.CLASSES, 0, "init", client) for client in (0, 5))
    assert small.same_weights(small.weights(one), small.weights(other))

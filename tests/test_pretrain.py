"""Pre-training happens once for equal inputs, ends by its rule, and leaves no trace but the weights."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from fedkd.base.store import read_tensors
from fedkd.models import Model
from fedkd.models.checkpoint import save_checkpoint
from fedkd.node.node import Node
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining
from fedkd.tensors.losses import cross_entropy
from fedkd.tensors.samples import Data
from fedkd.training.fit import fit
from fedkd.training.pretrain import Spent, pretrain
from simulations.starting import announced
from tests.small import CLASSES, MODEL, SHAPE, Weights, federate, model, node, same_weights, small, weights
from tests.small import own_cache as own_cache

SHORT = Pretraining(epochs=3, lr=0.1, batch_size=4)


class Trainings:
    """How often something was trained: counts the calls of `fit`."""

    def __init__(self) -> None:
        self.epochs = 0

    def __call__(self, *arguments: Any, **named: Any) -> Tensor:
        self.epochs += 1
        return fit(*arguments, **named)


@pytest.fixture(autouse=True)
def cache(own_cache: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache for each test."""
    del own_cache
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """Watches what is trained."""
    watching = Trainings()
    monkeypatch.setattr("fedkd.training.stacked.fit", watching)
    return watching


def pretrained(settings: Pretraining = SHORT, client: Node | None = None, of: Model | None = None) -> Weights:
    """Weights after pre-training a fresh model."""
    trained = of or model()
    pretrain(client or node(), trained, MODEL, settings)
    return weights(trained)


def files(cache: Path) -> list[Path]:
    """What is kept."""
    return sorted(cache.rglob("*.safetensors"))


class TestCache:
    def test_a_second_call_takes_no_training_and_gives_the_same(self, trainings: Trainings) -> None:
        first = pretrained()
        assert trainings.epochs == 3
        assert not same_weights(first, weights(model()))
        assert same_weights(pretrained(), first)
        assert trainings.epochs == 3

    def test_what_it_took_is_the_same_number_wherever_the_start_came_from(self) -> None:
        first, second = (pretrain(node(), model(), MODEL, SHORT) for _ in range(2))
        assert first == second
        steps = math.ceil(len(node().private) / SHORT.batch_size)
        assert (first.epochs, first.steps, first.samples) == (3, 3 * steps, 3 * 4 * steps)
        assert first.seconds > 0

    @pytest.mark.parametrize(
        "change", [{"epochs": 4}, {"lr": 0.2}, {"momentum": 0.1}, {"weight_decay": 0.1}, {"batch_size": 5}]
    )
    def test_other_settings_are_trained_anew(self, trainings: Trainings, change: dict[str, Any]) -> None:
        first = pretrained()
        settings = replace(SHORT, **change)
        assert not same_weights(pretrained(settings), first)
        assert trainings.epochs == 3 + int(settings.epochs)

    def test_another_optimiser_is_trained_anew(self, trainings: Trainings) -> None:
        first = pretrained()
        assert not same_weights(pretrained(replace(SHORT, optimizer="adam")), first)
        assert trainings.epochs == 6

    @pytest.mark.parametrize("change", [{"seed": 1}, {"id": 1}])
    def test_another_seed_or_client_is_trained_anew(self, trainings: Trainings, change: dict[str, int]) -> None:
        first = pretrained()
        other = node()
        for name, value in change.items():
            setattr(other, name, value)
        assert not same_weights(pretrained(client=other), first)
        assert trainings.epochs == 6

    def test_other_initial_weights_are_trained_anew(self, trainings: Trainings) -> None:
        first = pretrained()
        assert not same_weights(pretrained(of=model(1)), first)
        assert trainings.epochs == 6

    def test_one_changed_pixel_or_label_is_trained_anew(self, trainings: Trainings) -> None:
        pretrained()
        for change in ("x", "y"):
            other = node()
            assert other.private.y is not None
            x, y = other.private.x.clone(), other.private.y.clone()
            if change == "x":
                x[-1, 0, 0, 0] += 1e-3
            else:
                y[-1] = (y[-1] + 1) % 3
            other.data = Data(x, y)
            pretrained(client=other)
        assert trainings.epochs == 9

    def test_the_same_bytes_in_another_shape_are_other_data(self, trainings: Trainings) -> None:
        one, other = node(), node()
        other.data = Data(one.private.x.reshape(-1, 1, 2, 8), one.private.y)
        pretrained(client=one)
        pretrained(client=other)
        assert trainings.epochs == 6

    def test_neither_transfer_nor_validation_data_matter(self, trainings: Trainings) -> None:
        first = pretrained(client=node(labelled=True))
        bare = node()
        bare.transfer = bare.val = None
        assert same_weights(pretrained(client=bare), first)
        assert trainings.epochs == 3

    @pytest.mark.parametrize("damage", ["emptied", "cut short", "one bit changed", "junk"])
    def test_a_damaged_file_is_trained_anew_to_the_same_numbers(
        self, trainings: Trainings, cache: Path, damage: str
    ) -> None:
        first = pretrained()
        (kept,) = files(cache)
        whole = kept.read_bytes()
        middle = len(whole) // 2
        content = {
            "emptied": b"",
            "cut short": whole[:-1],
            "one bit changed": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "junk": b"junk",
        }
        kept.write_bytes(content[damage])
        assert same_weights(pretrained(), first)
        assert trainings.epochs == 6
        again = read_tensors(kept)
        assert again is not None
        assert same_weights({name: again[name] for name in first}, first)
        assert same_weights(pretrained(), first)
        assert trainings.epochs == 6

    def test_no_epochs_are_no_training_and_no_file(self, trainings: Trainings, cache: Path) -> None:
        assert pretrain(node(), trained := model(), MODEL, replace(SHORT, epochs=0)) == Spent()
        assert same_weights(weights(trained), weights(model()))
        assert trainings.epochs == 0
        assert files(cache) == []

    def test_the_clients_counters_and_predictions_are_untouched(self) -> None:
        client = node()
        before = client.transfer_logits()
        pretrained(client=client, of=model(5))
        assert (client.steps, client.samples, client.records, client.state) == (0, 0, {}, {})
        assert client.transfer_logits() is before

    def test_training_is_cross_entropy_by_sgd_on_private_data(self) -> None:
        # One epoch of one batch holds every sample, whatever their order: one step of gradient descent.
        client, plain = node(), model()
        assert client.private.y is not None
        whole = Pretraining(epochs=1, lr=0.3, batch_size=len(client.private))
        parameters = list(plain.parameters())
        loss = cross_entropy(plain(client.private.x), client.private.y)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.sub_(gradient, alpha=0.3)
        found = pretrained(whole, client)
        for name, value in weights(plain).items():
            torch.testing.assert_close(found[name], value)

    def test_every_epoch_is_a_pass_in_an_order_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        order: list[int] = []

        def note(logits: Tensor, labels: Tensor) -> Tensor:
            order.extend(labels.tolist())
            return logits.sum() * 0

        monkeypatch.setattr("fedkd.training.pretrain.cross_entropy", note)
        client = node()
        client.data = Data(client.private.x[:8], torch.arange(8))
        pretrained(SHORT, client)
        passes = [order[start : start + 8] for start in (0, 8, 16)]
        assert all(sorted(part) == list(range(8)) for part in passes)
        assert len({tuple(part) for part in passes}) == 3


class TestConvergence:
    """It ends after ten epochs in a row in which the loss has not got 1 % below the best that counts."""

    @staticmethod
    def epochs(losses: Iterator[float], monkeypatch: pytest.MonkeyPatch) -> float:
        """How many epochs are trained where each ends with the next of `losses`."""
        monkeypatch.setattr("fedkd.training.stacked.fit", lambda *_, **__: torch.tensor(next(losses)))
        return pretrain(node(), model(), MODEL, Pretraining(epochs="converged")).epochs

    def test_a_loss_that_stands_still_ends_it_after_ten_more_epochs(self) -> None:
        assert pretrain(node(), model(), MODEL, Pretraining(lr=1e-12)).epochs == 11

    def test_a_loss_that_falls_for_ever_ends_at_the_cap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        falling = (0.98**epoch for epoch in range(10_000))
        assert self.epochs(falling, monkeypatch) == 300

    def test_what_counts_is_the_fall_over_ten_epochs_not_over_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # 0.2 % an epoch is 1.98 % over ten.
        slowly = (0.998**epoch for epoch in range(10_000))
        assert self.epochs(slowly, monkeypatch) == 300

    def test_a_fall_of_less_than_one_percent_over_ten_epochs_ends_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # 0.09 % an epoch is 0.9 % over ten: the first epoch sets the mark, ten more do not reach 1 % below.
        slower = (0.9991**epoch for epoch in range(10_000))
        assert self.epochs(slower, monkeypatch) == 11

    def test_a_fall_in_the_tenth_epoch_buys_ten_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        losses = iter([1.0] * 10 + [0.98] * 100)
        assert self.epochs(losses, monkeypatch) == 10 + 1 + 10

    def test_ups_and_downs_do_not_count_as_falls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        swinging = (1.0 + 0.5 * (epoch % 2) for epoch in range(10_000))
        assert self.epochs(swinging, monkeypatch) == 11

    def test_a_loss_that_is_not_a_number_ends_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.epochs(iter([1.0] + [math.nan] * 100), monkeypatch) == 11

    def test_a_number_of_epochs_is_that_number(self) -> None:
        assert pretrain(node(), model(), MODEL, Pretraining(lr=1e-12, epochs=17)).epochs == 17


def train_and_count(folder: Path, together: Barrier) -> None:
    """What each of two processes does: note every training in a file of its own, and keep the weights."""
    os.environ["FEDKD_CACHE"] = str(folder / "cache")
    torch.set_num_threads(1)

    def slowly(*arguments: Any, **named: Any) -> Tensor:
        with (folder / f"{os.getpid()}.trained").open("a") as file:
            file.write("epoch\n")
        time.sleep(0.2)
        return fit(*arguments, **named)

    together.wait(60)
    trained = model()
    with patch("fedkd.training.stacked.fit", slowly):
        pretrain(node(), trained, MODEL, SHORT)
    torch.save(weights(trained), folder / f"{os.getpid()}.weights")


def test_two_processes_at_once_train_once(tmp_path: Path, cache: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)
    others = [spawn.Process(target=train_and_count, args=(tmp_path, together)) for _ in range(2)]
    for process in others:
        process.start()
    for process in others:
        process.join(100)
    assert [process.exitcode for process in others] == [0, 0]
    (trained,) = tmp_path.glob("*.trained")
    assert trained.read_text().count("epoch") == 3
    one, other = (torch.load(file, weights_only=True) for file in tmp_path.glob("*.weights"))
    assert same_weights(one, other)
    (kept,) = files(cache)
    assert read_tensors(kept) is not None
    assert same_weights(pretrained(), one), "and so they are here"


class TestModelsThatBringWeights:
    @staticmethod
    def checkpoint(folder: Path) -> str:
        save_checkpoint(folder / "given.safetensors", MODEL, model(5), SHAPE, CLASSES)
        return f"checkpoint:{folder}/given.safetensors"

    def test_they_are_not_trained_unless_asked(self, trainings: Trainings, tmp_path: Path) -> None:
        spec, given = self.checkpoint(tmp_path), model(5)
        assert pretrain(node(), given, spec, Pretraining()).epochs == 0
        assert same_weights(weights(given), weights(model(5)))
        assert trainings.epochs == 0
        assert pretrain(node(), given, spec, SHORT).epochs == 3
        assert not same_weights(weights(given), weights(model(5)))

    def test_the_default_of_others_is_what_it_was_in_the_cache_too(self, trainings: Trainings) -> None:
        explicit = pretrained(Pretraining(epochs="converged", lr=0.2))
        before = trainings.epochs
        assert before > 3
        assert same_weights(pretrained(Pretraining(lr=0.2)), explicit)
        assert trainings.epochs == before, "the same start under the same key"

    def test_each_client_of_a_mixture_starts_by_its_own_rule(self, tmp_path: Path) -> None:
        mixed = f"0, 2: {self.checkpoint(tmp_path)} | {MODEL}"
        outcome = federate(small("local", models=mixed, clients=3, pretrain=Pretraining(lr=0.2), rounds=0))
        assert [outcome.rows[0, client, "", "pretrain_epochs"] == 0 for client in range(3)] == [True, False, True]

    @pytest.mark.parametrize(
        ("models", "settings", "said"),
        [
            ("{} | 1: cnn", {}, ["clients 0, 2, 3 bring weights: not pre-trained; [pretrain] epochs = 5, or"]),
            ("{}", {"epochs": "converged"}, ["all clients bring weights; [pretrain] epochs = 'converged' trains them"]),
            ("cnn|mlp", {}, []),
            ("torchvision:resnet18 | 1-3: torchvision:resnet18(weights='none')", {}, ["client 0 bring"]),
        ],
    )
    def test_it_is_said_whose_they_are(
        self, models: str, settings: dict[str, Any], said: list[str], tmp_path: Path
    ) -> None:
        models = models.format(self.checkpoint(tmp_path))
        asked = Federation("kd", models=models, clients=4, pretrain=Pretraining(**settings))
        lines = announced([asked, replace(asked, seed=1)])
        assert len(lines) == len(said)
        assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))

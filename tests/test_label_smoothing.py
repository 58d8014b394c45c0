"""Label smoothing: torch's own at T = 1, its formula at any other, and what it must leave alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS
from fedkd.methods.label_smoothing import LabelSmoothing
from fedkd.tensors.losses import cross_entropy
from fedkd.training.batch import Batch
from tests.small import LABELLED, UNLABELLED, distance, federate, node, same_weights, small
from tests.small import own_cache as own_cache

SEEDS = pytest.mark.parametrize("seed", range(5))
BOTH = pytest.mark.parametrize("transfer", [UNLABELLED, LABELLED], ids=["unlabelled", "labelled"])


def drawn(seed: int, n: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    """(n, classes) float64 logits that ask for gradients, and (n,) labels."""
    rng = stream("smoothing", seed)
    logits = torch.randn(n, classes, generator=rng, dtype=torch.float64) * 2
    return logits.requires_grad_(), torch.randint(classes, (n,), generator=rng)


def loss_of(method: LabelSmoothing, logits: Tensor, labels: Tensor) -> Tensor:
    """The method's loss of a batch on which nothing is distilled."""
    return method.loss(Batch(node(), logits, labels, None, None, None))


@SEEDS
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
def test_at_temperature_1_it_is_torch_s_up_to_a_constant(alpha: float, seed: int) -> None:
    # torch takes cross-entropy against the uniform label, KL + log C.
    logits, labels = drawn(seed)
    found = loss_of(LabelSmoothing(alpha=alpha), logits, labels)
    its = torch.nn.CrossEntropyLoss(label_smoothing=alpha)(logits, labels)
    torch.testing.assert_close(found + alpha * math.log(5), its)
    (own_gradient,), (its_gradient,) = (torch.autograd.grad(loss, logits) for loss in (found, its))
    torch.testing.assert_close(own_gradient, its_gradient)


@SEEDS
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_a_loop_over_samples_and_classes(temperature: float, seed: int) -> None:
    logits, labels = drawn(seed)
    total = 0.0
    for row, label in zip(logits.detach().numpy(), labels.tolist(), strict=True):
        p, softened = (np.exp(z) / np.exp(z).sum() for z in (row, row / temperature))
        from_uniform = sum(0.2 * math.log(0.2 / share) for share in softened)
        total += 0.7 * -math.log(p[label]) + 0.3 * temperature**2 * from_uniform
    found = loss_of(LabelSmoothing(0.3, temperature), logits, labels)
    assert float(found.detach()) == pytest.approx(total / len(labels), rel=1e-12)


@SEEDS
def test_at_high_temperature_it_shrinks_the_centred_logits(seed: int) -> None:
    # As every T²·KL: ‖centred z‖²/(2C), here of the distance to logits that are all alike.
    logits, labels = drawn(seed)
    found = float(loss_of(LabelSmoothing(1.0, 1e4), logits, labels).detach())
    centred = (logits - logits.mean(1, keepdim=True)).detach()
    assert found == pytest.approx(float(centred.square().sum(1).mean()) / (2 * 5), rel=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_a_uniform_prediction_is_smooth_enough(temperature: float) -> None:
    logits, labels = torch.full((4, 5), 3.0, requires_grad=True), torch.zeros(4, dtype=torch.int64)
    loss = loss_of(LabelSmoothing(1.0, temperature), logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert abs(float(loss.detach())) <= 1e-6 * temperature**2
    assert float(gradient.abs().max()) <= 1e-6 * temperature**2


@BOTH
def test_without_smoothing_it_is_local_training(transfer: str) -> None:
    none, local = (federate(small(spec, transfer=transfer)) for spec in ("label_smoothing(alpha=0.0)", "local"))
    for client in range(2):
        assert distance(none.final(client), local.final(client)) <= 1e-6
        assert distance(local.final(client), local.weights[client][0]) > 0.01


@BOTH
def test_it_takes_the_steps_and_samples_of_local_training_and_nothing_travels(transfer: str) -> None:
    smooth, local = (federate(small(spec, transfer=transfer)) for spec in ("label_smoothing", "local"))
    assert not any(smooth.reports)
    assert not any(smooth.knowledge)
    for key, value in local.rows.items():
        if key[3] in ("steps", "samples"):
            assert smooth.rows[key] == value
    assert distance(smooth.final(0), local.final(0)) > 1e-3


def test_it_smooths_the_labels_of_the_transfer_set_where_there_are_any() -> None:
    with_labels, without = (
        federate(small("label_smoothing", transfer=transfer)) for transfer in (LABELLED, UNLABELLED)
    )
    assert not same_weights(with_labels.final(0), without.final(0))


def test_predictions_become_less_sure() -> None:
    sure = []
    for alpha in (0.0, 0.3, 1.0):
        client = node()
        method = LabelSmoothing(alpha)
        for client.round in range(1, 20):
            method.learn(client, Knowledge())
        sure.append(float(client.predict(client.private.x).softmax(1).amax(1).mean()))
    assert sure[0] > sure[1] > sure[2]
    assert sure[2] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("arguments", ["alpha=-0.1", "alpha=1.1", "temperature=0.0"])
def test_values_out_of_range_are_refused(arguments: str) -> None:
    with pytest.raises(UserError, match=arguments.split("=")[0]):
        METHODS.build(f"label_smoothing({arguments})")


def test_true_labels_and_uniform_ones_share_the_loss() -> None:
    logits, labels = drawn(0)
    ends: list[Any] = [loss_of(LabelSmoothing(alpha), logits, labels) for alpha in (0.0, 1.0)]
    torch.testing.assert_close(ends[0], cross_entropy(logits, labels))
    torch.testing.assert_close(loss_of(LabelSmoothing(0.25), logits, labels), 0.75 * ends[0] + 0.25 * ends[1])

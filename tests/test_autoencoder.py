"""The autoencoder of ReffAKD: its size to the parameter, the images that it takes, and that it learns to copy them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reffakd import multiply_adds
from fedkd.base.streams import stream
from fedkd.distillation.autoencoder import (
    OPTIMISATION,
    Autoencoder,
    drawn,
    embed,
    encoder,
    fitted,
    restored_encoder,
    train,
)


def images(n: int, *shape: int) -> Tensor:
    """Random images in [0, 1], the same everywhere."""
    return torch.rand(n, *shape, generator=stream("images", n, *shape))


@pytest.mark.parametrize(("channels", "parameters"), [(1, 46_585), (3, 47_355)])
def test_it_has_as_many_parameters_as_the_paper_s(channels: int, parameters: int) -> None:
    assert sum(each.numel() for each in Autoencoder(channels).parameters()) == parameters


def test_a_pass_takes_the_multiplications_that_its_kernels_say() -> None:
    # Each of 16², 8² and 4² places of 12, 24 and 48 channels sums up 4×4 places of the channels before; back alike.
    down = 16**2 * 12 * 3 * 16 + 8**2 * 24 * 12 * 16 + 4**2 * 48 * 24 * 16
    network = Autoencoder(3)
    assert multiply_adds(network.encoder, (3, 32, 32)) == down
    assert multiply_adds(network, (3, 32, 32)) == 2 * down


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ((1, 28, 28), (1, 32, 32)),
        ((3, 32, 32), (3, 32, 32)),
        ((1, 8, 8), (1, 32, 32)),
        ((1, 1, 1), (1, 32, 32)),
        ((3, 64, 64), (3, 64, 64)),
        ((3, 33, 40), (3, 40, 40)),
        ((2, 20, 64), (2, 32, 64)),
        ((3, 224, 230), (3, 224, 232)),
    ],
)
def test_images_are_brought_to_a_size_that_can_be_halved_three_times(
    given: tuple[int, ...], taken: tuple[int, ...]
) -> None:
    x = images(2, *given)
    y = fitted(x)
    assert y.shape == (2, *taken)
    assert 0 <= float(y.min()) <= float(y.max()) <= 1
    network = Autoencoder(given[0])
    assert network(y).shape == y.shape
    assert embed(network.encoder, x).shape == (2, 48 * taken[1] * taken[2] // 64)


def test_padding_is_even_and_of_zeros_and_what_fits_is_left_alone() -> None:
    x = images(2, 1, 28, 28)
    y = fitted(x)
    assert torch.equal(y[..., 2:30, 2:30], x)
    assert torch.equal(y.sum(), x.sum())
    fits = images(2, 3, 40, 32)
    assert fitted(fits) is fits


def test_an_image_of_one_shade_keeps_it_when_it_grows() -> None:
    torch.testing.assert_close(fitted(torch.full((1, 1, 8, 8), 0.3)), torch.full((1, 1, 32, 32), 0.3))


def test_an_embedding_depends_on_its_image_alone() -> None:
    half, x = drawn(3, stream("w")).encoder.double(), images(9, 3, 32, 32)
    together = embed(half, x)
    assert together.dtype == torch.float64
    for number in range(9):
        torch.testing.assert_close(embed(half, x[number : number + 1])[0], together[number], rtol=1e-12, atol=1e-14)


def test_an_encoder_travels_without_its_other_half() -> None:
    network, x = drawn(1, stream("w")), images(3, 1, 28, 28)
    again = restored_encoder(1, network.encoder.state_dict())
    assert torch.equal(embed(again, x), embed(network.encoder, x))
    assert sum(map(Tensor.numel, encoder(1).parameters())) == 23_316


def test_signals_neither_fade_nor_grow() -> None:
    network, signal = drawn(3, stream("w")), torch.randn(64, 3, 32, 32, generator=stream("noise"))
    sizes = []
    for layer in [*network.encoder, *network.decoder][:-1]:
        signal = layer(signal)
        if isinstance(layer, nn.ReLU):
            sizes.append(float(signal.detach().square().mean()))
    assert all(0.3 < size < 2 for size in sizes), sizes


def test_it_learns_to_copy() -> None:
    # Bars and discs: their mean explains nothing of where they are.
    rng = stream("shapes")
    place = torch.randint(4, 28, (32, 2), generator=rng)
    grid = torch.arange(32)
    bars = (grid[None, None, :, None] - place[:, :1, None, None]).abs() < 4
    discs = (grid[None, None, None, :] - place[:, 1:, None, None]).abs() < 4
    x = (bars | discs).float().expand(-1, 1, 32, 32)
    variance = float((x - x.mean(0)).square().mean())
    short, long = train(x, 1, stream("a")), train(x, 40, stream("a"))
    assert long.loss < 0.25 * variance < short.loss
    assert (long.steps, long.samples) == (40 * 4, 40 * 32)


def test_the_loss_is_that_of_the_finished_network_on_all_images() -> None:
    x = images(40, 1, 28, 28)
    trained = train(x, 2, stream("a"))
    found = float(F.mse_loss(trained.network(fitted(x)), fitted(x)).detach())
    assert trained.loss == pytest.approx(found, rel=1e-5)


def test_a_stream_decides_everything() -> None:
    x = images(40, 1, 8, 8)
    one, same, other = (train(x, 2, stream(name)) for name in ("a", "a", "b"))
    assert (one.steps, one.samples) == (2 * math.ceil(40 / OPTIMISATION.batch_size), 2 * 40)
    assert one.loss == same.loss != other.loss
    for mine, its in zip(one.network.parameters(), same.network.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_training_is_plain_sgd_as_in_torch() -> None:
    x = images(20, 1, 32, 32)
    rng = stream("a")
    network = drawn(1, rng)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        for index in torch.split(torch.randperm(20, generator=rng), 8):
            optimiser.zero_grad()
            F.mse_loss(network(x[index]), x[index]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    for mine, its in zip(train(x, 3, stream("a")).network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine, its)

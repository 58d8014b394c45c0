"""The autoencoder of ReffAKD: it learns without labels to reconstruct images from small embeddings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.base.added import identity
from fedkd.base.errors import DivergedError
from fedkd.base.store import cached_tensors, content_key
from fedkd.data import cache_root
from fedkd.settings.training import Optimisation
from fedkd.tensors.compute import Compute
from fedkd.training.descent import Descent

SCHEMA = 1
"""Increase it when the same settings train to other weights. Older cache files are then not used any more."""
SIDE = 32
"""Smallest height and width without padding."""
PADDED = 28
"""Smallest height and width that are padded; smaller images are resized."""
OPTIMISATION = Optimisation(lr=0.1, momentum=0.9, weight_decay=5e-4, batch_size=8)
"""How it is trained: the paper's, but for the size of a batch, which is ours: it needs many steps to learn more
than the mean image, and 50 epochs of batches of 32 are too few on 400 images of CIFAR-10 under some seeds."""
CHUNK = 1024
"""Images in one forward pass outside training."""
_WIDTHS = (12, 24, 48)


class Autoencoder(nn.Module):
    """Three 4×4 convolutions of stride 2 to 12, 24 and 48 channels, and three transposed ones back.

    Doshi & Kim, arXiv 2404.09886: ReLU after each, a sigmoid at the end. 46,585 parameters for one channel, 47,355 for
    three. Inputs are (n, channels, height, width) in [0, 1], because nothing else can come out of a sigmoid; how they
    are brought to a size that can be halved three times is ours (`fitted`).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = encoder(channels)
        up: list[nn.Module] = []
        for wide, narrow in itertools.pairwise((*reversed(_WIDTHS), channels)):
            up += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1), nn.ReLU()]
        self.decoder = nn.Sequential(*up[:-1], nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) reconstructions of images that are `fitted`."""
        reconstruction: Tensor = self.decoder(self.encoder(x))
        return reconstruction


def encoder(channels: int) -> nn.Sequential:
    """The encoder alone, which is enough for embeddings."""
    down: list[nn.Module] = []
    for narrow, wide in itertools.pairwise((channels, *_WIDTHS)):
        down += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*down)


def drawn(channels: int, rng: torch.Generator) -> Autoencoder:
    """An untrained autoencoder whose signals neither fade nor grow from layer to layer: He et al., arXiv 1502.01852.

    Ours. Torch's own initial weights are so weak that 5000 steps on 400 images of MNIST learn one shade of grey.
    """
    with torch.device("meta"):
        network = Autoencoder(channels)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for layer in [*network.encoder, *network.decoder]:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                # Each output of a transposed 4×4 convolution of stride 2 uses a quarter of the kernel.
                reach = 4 if isinstance(layer, nn.ConvTranspose2d) else 16
                bound = math.sqrt(6 / (layer.in_channels * reach))
                layer.weight.uniform_(-bound, bound, generator=rng)
                assert layer.bias is not None
                layer.bias.zero_()
    return network


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained autoencoder, its loss and its cost."""

    network: Autoencoder
    loss: float
    """mean squared error of its reconstructions of the images that it was trained on"""
    steps: int
    """optimiser steps"""
    samples: int
    """examples back-propagated"""


def train(x: Tensor, epochs: int, rng: torch.Generator) -> Trained:
    """Train an autoencoder on images, (n, channels, height, width) in [0, 1], by the mean squared error.

    Everything that is drawn, initial weights and the order of the images, comes from `rng`.

    Raises:
        DivergedError: the loss is not finite.
    """
    network, compute = drawn(x.shape[1], rng).to(x.device), Compute(x.device)
    descent = Descent(network, OPTIMISATION, compute)
    images, steps = fitted(x), 0
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(images), generator=rng), OPTIMISATION.batch_size):
            batch = images[index.to(x.device)]
            descent.step(F.mse_loss(descent.outputs(batch), batch))
            steps += 1
    parts = torch.split(images, CHUNK)
    errors = [F.mse_loss(compute.outputs(network, part), part, reduction="sum") for part in parts]
    loss = float(torch.stack(errors).sum()) / images.numel()
    if not math.isfinite(loss):
        raise DivergedError("the loss of its autoencoder is not finite")
    return Trained(network, loss, steps, epochs * len(images))


def train_once(x: Tensor, epochs: int, rng: torch.Generator) -> Trained:
    """`train` with a cache, whose key is a hash of images, epochs and the seed of `rng`.

    Steps and samples are those of the training, also when the result comes from the cache. `rng` must be fresh.
    """
    settings = repr((SCHEMA, torch.__version__, epochs, rng.initial_seed(), identity(OPTIMISATION)))
    key = content_key(settings, repr((x.dtype, tuple(x.shape))), x.cpu().contiguous().numpy().data)

    def make() -> dict[str, Tensor]:
        trained = train(x, epochs, rng)
        facts = {"loss": trained.loss, "steps": trained.steps, "samples": trained.samples}
        numbers = {name: torch.tensor(value, dtype=torch.float64) for name, value in facts.items()}
        return {**trained.network.state_dict(), **numbers}

    tensors = cached_tensors(cache_root() / "autoencoders" / f"{key}.safetensors", make, x.device)
    loss, steps, samples = (float(tensors.pop(name)) for name in ("loss", "steps", "samples"))
    with torch.device("meta"):
        network = Autoencoder(x.shape[1])
    network.load_state_dict(tensors, assign=True)
    return Trained(network, loss, int(steps), int(samples))


def restored_encoder(channels: int, weights: Mapping[str, Tensor]) -> nn.Sequential:
    """An encoder with the given weights, which are not copied."""
    with torch.device("meta"):
        network = encoder(channels)
    network.load_state_dict(weights, assign=True)
    return network


def fitted(x: Tensor) -> Tensor:
    """Images at a size that can be halved three times, at least 32×32.

    A height or width below 28 is resized to 32 (bilinear); then zeros are added, evenly on both sides, up to 32 or
    the next multiple of 8.
    """
    height, width = (side if side >= PADDED else SIDE for side in x.shape[2:])
    if x.shape[2:] != (height, width):
        x = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    missing = [max(SIDE, -(-side // 8) * 8) - side for side in (width, height)]
    return F.pad(x, [part for each in missing for part in (each // 2, each - each // 2)]) if any(missing) else x


def embed(encoder: nn.Module, x: Tensor) -> Tensor:
    """(n, latent) embeddings of images, 768 numbers for one of 32×32, in the encoder's own precision."""
    dtype = next(encoder.parameters()).dtype
    compute = Compute(x.device)
    return torch.cat([compute.outputs(encoder, fitted(part.to(dtype))).flatten(1) for part in torch.split(x, CHUNK)])

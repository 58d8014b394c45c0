"""Which client holds which model, and how models start."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from fedkd.errors import UserError
from fedkd.models.architecture import Architecture, Model, Shape
from fedkd.spec import Catalogue
from fedkd.streams import seed_of

ARCHITECTURES: Catalogue[Architecture] = Catalogue("model", "fedkd.models", Architecture)  # type: ignore[type-abstract]

# Layers draw their initial weights from torch's global generator: one model is built at a time.
_BUILDING = threading.Lock()


def assigned(models: str, client: int) -> str:
    """The model of one client: `"cnn|mlp"` gives cnn to clients 0, 2, 4 … and mlp to 1, 3, 5 …

    Raises:
        UserError: an alternative is empty.
    """
    names = [name.strip() for name in models.split("|")]
    if not all(names):
        raise UserError(f'models = {models!r}: an alternative is empty; write for example "cnn|mlp"')
    return names[client % len(names)]


def build_model(spec: str, shape: Shape, classes: int, seed: int, purpose: str) -> Model:
    """A model whose initial weights depend on (seed, purpose, spec) alone."""
    architecture = _architecture(spec)
    with _BUILDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, purpose, spec))
        return _laid_out(architecture.build(shape, classes))


def restored_model(spec: str, shape: Shape, classes: int, weights: Mapping[str, Tensor]) -> Model:
    """A model with given weights, which it takes over: nothing is drawn or allocated twice."""
    with torch.device("meta"):
        model = _architecture(spec).build(shape, classes)
    model.load_state_dict(weights, assign=True)
    return _laid_out(model.requires_grad_(True))


def _laid_out(model: Model) -> Model:
    # Channels last: convolutions and pooling of small images take a third to two thirds of the time.
    return model.to(memory_format=torch.channels_last)


@lru_cache(maxsize=64)
def _architecture(spec: str) -> Architecture:
    return ARCHITECTURES.build(spec)

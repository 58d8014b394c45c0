"""Which client holds which model, and how models start."""

from __future__ import annotations

import threading
from functools import lru_cache

import torch

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
        return architecture.build(shape, classes)


def empty_model(spec: str, shape: Shape, classes: int) -> Model:
    """A model whose weights are about to be loaded: nothing is drawn or allocated twice."""
    with torch.device("meta"):
        return _architecture(spec).build(shape, classes)


@lru_cache(maxsize=64)
def _architecture(spec: str) -> Architecture:
    return ARCHITECTURES.build(spec)

"""torchvision's classifiers without their last layer: built, measured, and filled with published weights."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedkd.base.errors import UserError, nearest
from fedkd.models.architecture import Model
from fedkd.models.blocks.tensors import check_fit

SIDES = (32, 64, 96, 128, 224, 299)
"""Sides to which images are enlarged where a network cannot take them as they are: the first that it can take."""

RENAMED = (
    (re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(\.mlp)\.linear_2\."), r"\1.3."),
)
"""Names in densenets and vision transformers that are older than the layers."""

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Classifiers on the way, which helped to train googlenet and inception_v3; published weights still have them."""


@dataclass(frozen=True)
class Headless:
    """A network whose last layer was taken away."""

    body: nn.Module
    """images (n, 3, side, side) → features (n, width)"""
    head: str
    """name of the layer that was taken away: a linear one, or a 1×1 convolution in front of a global mean"""
    width: int
    """of the features"""


def known_models() -> list[str]:
    """Names of all of torchvision's classifiers, sorted."""
    import torchvision

    return [str(name) for name in torchvision.models.list_models(module=torchvision.models)]


def published_weights(name: str, weights: str) -> Any:
    """The member `weights` of the model's own enum; it knows its `url` and its `transforms`.

    Raises:
        UserError: there is no such model, or it has no such weights.
    """
    import torchvision

    if name not in (models := known_models()):
        raise UserError(f"model torchvision:{name}: torchvision has no classifier {name!r}; {nearest(name, models)}")
    if weights == "none":
        return None
    # Without aliases: DEFAULT would mean other weights in other versions of torchvision.
    members = {member.name: member for member in torchvision.models.get_model_weights(name)}
    if weights not in members:
        hint = nearest(weights, [*members, "none"])
        raise UserError(f"model torchvision:{name}: weights = {weights!r} are unknown; {hint}")
    return members[weights]


def headless(name: str, side: int, *, published: bool) -> Headless:
    """The network `name` with freshly drawn weights, as published ones need it, without its last layer.

    `side` is that of the images, which matters to vision transformers alone. Whatever draws random numbers in
    training (dropout, stochastic depth) is switched off, as it is in every architecture here.
    """
    import torchvision

    settings: dict[str, Any] = {}
    if name.startswith("vit_"):
        settings["image_size"] = side
    elif name in ("googlenet", "inception_v3"):
        # The published weights expect inputs that are centred another way, to which they turn theirs themselves.
        settings = {"aux_logits": False, "init_weights": True, "transform_input": published}
    with _RealIndices():
        network: Any = torchvision.models.get_model(name, weights=None, num_classes=1, **settings)
    if name.startswith("mnasnet"):
        # The original refuses every state that does not carry its version, as no plain one does.
        network = nn.Sequential(
            OrderedDict(
                layers=network.layers, mean=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), classifier=network.classifier
            )
        )
    head, layer = [
        (path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ][-1]
    width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    _replace(network, head, nn.Identity())
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.Dropout):
            _replace(network, path, nn.Identity())
        elif isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0
        for name, buffer in module.named_buffers(recurse=False):
            # Tables that are not part of the state would stay behind where a model is restored on another device.
            module.register_buffer(name, buffer)
    return Headless(network, head, width)


@lru_cache(maxsize=256)
def fitting_side(name: str, height: int, width: int, wanted: int, fixed: int, *, published: bool) -> int:
    """The side to which images are brought: `wanted`, or 0 for images as they are, or the smallest of `SIDES`.

    `fixed` is the only side that published weights of a vision transformer can take, or 0. A forward
    pass on the meta device tests the shapes without computing.

    Raises:
        UserError: the network cannot take images of this side.
    """

    def takes(height: int, width: int) -> bool:
        # The meta device draws no numbers, but nothing here may: what follows must not depend on this cache.
        with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
            try:
                network = headless(name, fixed or height, published=published)
                return tuple(network.body.to("meta")(torch.empty(2, 3, height, width)).shape) == (2, network.width)
            except (RuntimeError, ValueError, AssertionError, IndexError):
                return False

    def smallest(least: int) -> int | None:
        sizes = [side for side in sorted({*SIDES, fixed}) if side >= least]
        return next((side for side in [*sizes, least] if takes(side, side)), None)

    if wanted:
        if takes(wanted, wanted):
            return wanted
        other = smallest(wanted)
        raise UserError(
            f"model torchvision:{name}: it cannot take images of size = {wanted}; "
            + (f"{other} will do" if other else f"try {fixed or SIDES[-1]}")
        )
    if takes(height, width):
        return 0
    side = smallest(max(height, width))
    if side is None:
        raise UserError(
            f"model torchvision:{name}: images are {height}×{width}, and it takes neither these nor larger ones; give "
            f"the size to which they are to be brought, as in size={fixed or SIDES[-1]}"
        )
    return side


def renamed(tensors: Mapping[str, Tensor], head: str, model: Model, whose: str) -> dict[str, Tensor]:
    """torchvision's own state of a network, by the names in `model`; `head` is what its last layer is called there.

    Raises:
        UserError: `tensors` are another network's; begins with `whose`.
    """
    state: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith(AUXILIARY):
            continue
        if key.startswith(f"{head}."):
            # A 1×1 convolution is a linear layer at each position.
            state[f"head.{key.removeprefix(f'{head}.')}"] = tensor.flatten(1) if tensor.ndim > 1 else tensor
            continue
        for old, new in RENAMED:
            key = old.sub(new, key)
        state[f"body.{key}"] = tensor
    # Statistics have to be there; other buffers are tables and counters, which the network sets up itself.
    for key, buffer in model.named_buffers():
        if not key.endswith(("running_mean", "running_var")):
            state.setdefault(key, buffer)
    check_fit(state, model.state_dict(), whose)
    return state


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


class _RealIndices(TorchFunctionMode):
    """Small numbers that a network computes while it is built are real ones, on the meta device too."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        settings = kwargs or {}
        if func in (torch.arange, torch.tensor):
            settings = {"device": "cpu"} | settings
        return func(*args, **settings)

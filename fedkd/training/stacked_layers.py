"""Networks of several clients as one: (k, n, …) inputs and (k, …) parameters give (k, n, …) outputs.

The layers that most small networks are made of are computed for all clients by one operation each: a batched matrix
product, a convolution with as many groups as clients. All others run under `torch.func.vmap`, layer by layer, or the
whole network where it is not a plain sequence.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedkd.models.architecture import Model

Tensors = Mapping[str, Tensor]
# Operations that torch.func cannot batch run client by client. That is right, and often still faster than one by one.
warnings.filterwarnings("ignore", "There is a performance drop because we have not yet implemented", UserWarning)


class StackedNetwork(nn.Module):
    """The networks of the first k clients as one: (k, n, …) inputs → (k, n, …) outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.tensors: dict[str, Tensor] = {}
        """parameters and buffers by their names in one network, (k, …)"""
        # In a tuple, because they are no parameters of this module.
        self._network = (network,)

    def forward(self, x: Tensor) -> Tensor:
        return _run(self._network[0], self.tensors, x)


def _run(module: nn.Module, tensors: Tensors, x: Tensor) -> Tensor:
    """(k, n, …) outputs of a module, whose `tensors` have their names in it."""
    kind = type(module)
    if isinstance(module, Model) and tuple(getattr(kind, name) for name in _PARTS) == _PLAIN:
        features = _run(module.body, _inside("body", tensors), module.centred(x))
        return _run(module.head, _inside("head", tensors), features)
    if kind is nn.Sequential:
        for name, layer in cast(nn.Sequential, module).named_children():
            x = _run(layer, _inside(name, tensors), x)
        return x
    if kind in _ALIKE:
        return cast(Tensor, module(x))
    if kind in _EACH_SAMPLE:
        made = module(x.flatten(0, 1))
        return cast(Tensor, made.view(*x.shape[:2], *made.shape[1:]))
    if kind in _LAYERS and (outputs := _LAYERS[kind](module, tensors, x)) is not None:
        return outputs

    def one(tensors: Tensors, x: Tensor) -> Tensor:
        return cast(Tensor, functional_call(module, dict(tensors), (x,)))

    return vmap(one)(dict(tensors), x)


def _inside(name: str, tensors: Tensors) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


class _Product(torch.autograd.Function):
    """x·wᵀ + b of each client, with the gradient of w in the order of w in memory, which optimisers are faster with."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if bias is None:
            return torch.bmm(x, weight.transpose(1, 2))
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if wanted[0] else None,
            torch.bmm(gradient.transpose(1, 2), x) if wanted[1] else None,
            gradient.sum(1) if wanted[2] else None,
        )


def _linear(_: nn.Module, tensors: Tensors, x: Tensor) -> Tensor | None:
    if torch.is_autocast_enabled(x.device.type):
        return None
    flat = x.flatten(1, -2) if x.dim() > 3 else x
    made = cast(Tensor, _Product.apply(flat, tensors["weight"], tensors.get("bias")))
    return made.reshape(*x.shape[:-1], -1)


def _convolution(module: nn.Module, tensors: Tensors, x: Tensor) -> Tensor | None:
    layer = cast(nn.Conv2d, module)
    if layer.padding_mode != "zeros" or torch.is_autocast_enabled(x.device.type):
        return None
    bias, clients = tensors.get("bias"), len(x)
    made = F.conv2d(
        x.transpose(0, 1).flatten(1, 2),
        tensors["weight"].flatten(0, 1),
        None if bias is None else bias.flatten(),
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups * clients,
    )
    return made.view(len(made), clients, -1, *made.shape[2:]).transpose(0, 1)


def _group_norm(module: nn.Module, tensors: Tensors, x: Tensor) -> Tensor | None:
    layer = cast(nn.GroupNorm, module)
    made = F.group_norm(x.flatten(0, 1), layer.num_groups, eps=layer.eps).view(x.shape)
    if not layer.affine:
        return made
    weight, bias = (tensors[name].view(len(x), 1, -1, *[1] * (x.dim() - 3)) for name in ("weight", "bias"))
    return torch.addcmul(bias, made, weight)


_LAYERS: dict[type[nn.Module], Callable[[nn.Module, Tensors, Tensor], Tensor | None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
}
"""Layers with parameters; None where a layer cannot be computed in this way."""
_ALIKE = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity)
"""Layers that look at one number at a time."""
_EACH_SAMPLE = (nn.Flatten, nn.MaxPool2d, nn.AvgPool2d)
"""Layers without parameters that look at one sample at a time."""
_PARTS = ("forward", "features", "centred")
_PLAIN = tuple(getattr(Model, name) for name in _PARTS)
"""The methods of a `Model` that no architecture has changed: head after body after centring."""

"""Optimisers of stacked clients: they turn gradients (k, …) of k clients at once into a step of each.

Every client's arithmetic is that of `make_optimiser`, on its own rows of each tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fedkd.settings.training import Optimisation

_BETAS, _EPS = (0.9, 0.999), 1e-8
"""As torch.optim has them."""


class StackedOptimiser(Protocol):
    """Turns the gradients of the first k clients into a step of each. k never grows from one step to the next."""

    def step(self, parameters: list[Tensor], gradients: list[Tensor], lr: float | Tensor) -> None:
        """`parameters` and `gradients` are (k, …); `lr` is one for all, or (k,)."""
        ...


def make_stacked_optimiser(settings: Sequence[Optimisation], like: Tensor) -> StackedOptimiser:
    """The optimiser that the settings name, with fresh state; clients may differ in numbers, but not in its name."""
    decay = per_client([each.weight_decay for each in settings], like)
    if settings[0].optimizer == "sgd":
        return _SGD(per_client([each.momentum for each in settings], like), decay)
    return _Adam(decay, decoupled=settings[0].optimizer == "adamw")


def per_client(values: Sequence[float], like: Tensor) -> float | Tensor:
    """One number where all clients have the same, else a (clients,) tensor of the type and on the device of `like`."""
    if len(set(values)) == 1:
        return values[0]
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def clip_each(gradients: Sequence[Tensor], norms: float | Tensor) -> list[Tensor]:
    """The gradients (k, …), where those of one client together are longer than its norm scaled down to it."""
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients])
    shares = (norms / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)
    return _times(gradients, shares)


class _SGD:
    def __init__(self, momentum: float | Tensor, decay: float | Tensor) -> None:
        self._momentum, self._decay = momentum, decay
        self._velocity: list[Tensor] = []

    @torch.no_grad()
    def step(self, parameters: list[Tensor], gradients: list[Tensor], lr: float | Tensor) -> None:
        step = _plus(gradients, parameters, self._decay)
        if isinstance(self._momentum, Tensor) or self._momentum:
            if self._velocity:
                self._velocity = _first(self._velocity, len(parameters[0]))
                _scale(self._velocity, self._momentum)
                torch._foreach_add_(self._velocity, step)
            else:
                self._velocity = [gradient.clone() for gradient in step]
            step = self._velocity
        _move(parameters, step, lr)


class _Adam:
    def __init__(self, decay: float | Tensor, *, decoupled: bool) -> None:
        self._decay, self._decoupled, self._steps = decay, decoupled, 0
        self._mean: list[Tensor] = []
        self._square: list[Tensor] = []

    @torch.no_grad()
    def step(self, parameters: list[Tensor], gradients: list[Tensor], lr: float | Tensor) -> None:
        (beta1, beta2), clients = _BETAS, len(parameters[0])
        if not self._steps:
            self._mean = [torch.zeros_like(parameter) for parameter in parameters]
            self._square = [torch.zeros_like(parameter) for parameter in parameters]
        self._mean, self._square = _first(self._mean, clients), _first(self._square, clients)
        self._steps += 1
        step = gradients
        if self._decoupled:
            _scale(parameters, 1 - lr * _cut(self._decay, clients))
        else:
            step = _plus(step, parameters, self._decay)
        torch._foreach_lerp_(self._mean, step, 1 - beta1)
        torch._foreach_mul_(self._square, beta2)
        torch._foreach_addcmul_(self._square, step, step, 1 - beta2)
        below = list(torch._foreach_sqrt(self._square))
        torch._foreach_div_(below, (1 - beta2**self._steps) ** 0.5)
        torch._foreach_add_(below, _EPS)
        _move(parameters, list(torch._foreach_div(self._mean, below)), lr / (1 - beta1**self._steps))


def _first(tensors: Sequence[Tensor], clients: int) -> list[Tensor]:
    """The rows of the first clients. The others take no more steps."""
    return [tensor[:clients] for tensor in tensors]


def _cut(values: float | Tensor, clients: int) -> float | Tensor:
    return values[:clients] if isinstance(values, Tensor) else values


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(k,) values that multiply (k, …) tensors."""
    return values[: len(like)].view(-1, *[1] * (like.dim() - 1))


def _times(tensors: Sequence[Tensor], values: Tensor) -> list[Tensor]:
    return [tensor * _wide(values, tensor) for tensor in tensors]


def _scale(tensors: list[Tensor], values: float | Tensor) -> None:
    if isinstance(values, Tensor):
        for tensor in tensors:
            tensor.mul_(_wide(values, tensor))
    elif values != 1:
        torch._foreach_mul_(tensors, values)


def _plus(gradients: list[Tensor], parameters: list[Tensor], decay: float | Tensor) -> list[Tensor]:
    if isinstance(decay, Tensor):
        return [
            torch.addcmul(gradient, parameter, _wide(decay, parameter))
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ]
    return list(torch._foreach_add(gradients, parameters, alpha=decay)) if decay else gradients


def _move(parameters: list[Tensor], step: list[Tensor], lr: float | Tensor) -> None:
    if isinstance(lr, Tensor):
        for parameter, towards in zip(parameters, step, strict=True):
            parameter.addcmul_(towards, _wide(lr, parameter), value=-1)
    else:
        torch._foreach_add_(parameters, step, alpha=-lr)

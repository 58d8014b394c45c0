"""Optimisers: they turn gradients into a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fedkd.settings.training import Optimisation


class Optimiser(Protocol):
    """Turns gradients into a step."""

    def step(self, gradients: Sequence[Tensor], lr: float | None = None) -> None:
        """Take one step; `lr` replaces the learning rate of the settings."""
        ...


def make_optimiser(parameters: Sequence[Tensor], settings: Optimisation) -> Optimiser:
    """The optimiser that the settings name, with fresh state."""
    return SGD(parameters, settings) if settings.optimizer == "sgd" else _TorchOptimiser(parameters, settings)


class SGD:
    """Stochastic gradient descent with momentum and weight decay, as in torch.optim.

    Written here because the first optimiser of torch.optim imports torch's compiler, which takes two seconds in every
    worker.
    """

    def __init__(self, parameters: Sequence[Tensor], settings: Optimisation) -> None:
        self._parameters = list(parameters)
        self._settings = settings
        self._velocity: list[Tensor] = []

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr: float | None = None) -> None:
        settings, step = self._settings, list(gradients)
        if settings.weight_decay:
            step = list(torch._foreach_add(step, self._parameters, alpha=settings.weight_decay))
        if settings.momentum:
            if self._velocity:
                torch._foreach_mul_(self._velocity, settings.momentum)
                torch._foreach_add_(self._velocity, step)
            else:
                self._velocity = [gradient.clone() for gradient in step]
            step = self._velocity
        torch._foreach_add_(self._parameters, step, alpha=-(settings.lr if lr is None else lr))


class _TorchOptimiser:
    def __init__(self, parameters: Sequence[Tensor], settings: Optimisation) -> None:
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        self._parameters = parameters
        self._optimiser = kinds[settings.optimizer](
            parameters, lr=settings.lr, weight_decay=settings.weight_decay, foreach=True
        )

    def step(self, gradients: Sequence[Tensor], lr: float | None = None) -> None:
        if lr is not None:
            for group in self._optimiser.param_groups:
                group["lr"] = lr
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimiser.step()

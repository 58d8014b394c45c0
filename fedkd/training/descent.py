"""Gradient descent on one network, for any loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedkd.settings.training import Optimisation
from fedkd.tensors.compute import Compute
from fedkd.training.optimisers import make_optimiser


class Descent:
    """Forward passes, gradients and optimiser steps of one network. The optimiser starts with fresh state."""

    def __init__(self, model: nn.Module, settings: Optimisation, compute: Compute) -> None:
        self._model, self._compute = model, compute
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimiser, self._clip = make_optimiser(self._parameters, settings), settings.clip

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs of the network for a batch of inputs."""
        return self._compute(self._model, x)

    def step(self, loss: Tensor, lr: float | None = None) -> None:
        """Take one step that lowers `loss`, a scalar; `lr` replaces the learning rate of the settings."""
        gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        self._optimiser.step(clipped(gradients, self._clip) if self._clip else gradients, lr)


def clipped(gradients: tuple[Tensor, ...], norm: float) -> tuple[Tensor, ...]:
    """The gradients, scaled down where all of them together are longer than `norm`, as torch's clip_grad_norm_ does."""
    length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return tuple(torch._foreach_mul(gradients, (norm / (length + 1e-6)).clamp(max=1.0)))

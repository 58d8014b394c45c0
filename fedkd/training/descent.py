"""Steps downhill on one network, whatever the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedkd.settings.training import Optimisation
from fedkd.tensors.compute import Compute
from fedkd.training.optimisers import make_optimiser


class Descent:
    """Forward pass, loss, gradients, step: with an optimiser whose state is fresh."""

    def __init__(self, model: nn.Module, settings: Optimisation, compute: Compute) -> None:
        self._model, self._compute = model, compute
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimiser = make_optimiser(self._parameters, settings)

    def outputs(self, x: Tensor) -> Tensor:
        """What the network makes of its inputs."""
        return self._compute(self._model, x)

    def step(self, loss: Tensor) -> None:
        """Take one step down a scalar of the outputs."""
        self._optimiser.step(torch.autograd.grad(loss, self._parameters, materialize_grads=True))

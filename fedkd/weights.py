"""Models on the wire: their tensors as knowledge, and their average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedkd.errors import UserError
from fedkd.knowledge import Knowledge
from fedkd.models import Model, restored_model
from fedkd.node import Node

if TYPE_CHECKING:
    from fedkd.federation import Federation

TEACHER = "teacher/"
"""Prefix of a teacher's model, followed by its client's id."""
WEIGHT = "weight/"
"""Prefix of a tensor's name where a model travels."""


def packed(model: Model) -> dict[str, Tensor]:
    """All weights and buffers of a model, under the names that they travel by."""
    return {f"{WEIGHT}{name}": value for name, value in model.state_dict().items()}


def unpacked(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The state dict that was packed, found under a further `prefix`."""
    start = prefix + WEIGHT
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def bundled(reports: Mapping[int, Knowledge], teachers: Sequence[int]) -> Knowledge:
    """Several clients' models in one bag, each under its client's id, without what else they reported."""
    return Knowledge(
        {
            f"{TEACHER}{teacher}/{name}": value
            for teacher in teachers
            for name, value in reports[teacher].items()
            if name.startswith(WEIGHT)
        }
    )


def predicted(client: Node, knowledge: Knowledge) -> Knowledge:
    """Knowledge with the predictions of the models in it, (teachers, n, classes) on the client's own samples.

    A model is needed for that once: what a client keeps are its predictions.
    """
    teachers = dict.fromkeys(int(name.split("/")[1]) for name in knowledge if name.startswith(TEACHER))
    if not teachers:
        return knowledge
    x, predictions = client.private.x, []
    for teacher in teachers:
        state = {name: value.to(client.device) for name, value in unpacked(knowledge, f"{TEACHER}{teacher}/").items()}
        model = restored_model(client.specs[teacher], client.shape, client.classes, state)
        predictions.append(client.predict(x, model))
    rest = {name: value for name, value in knowledge.items() if not name.startswith(TEACHER)}
    return Knowledge(rest, logits=torch.stack(predictions))


def average(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Σ shareᵢ·stateᵢ / Σ share, buffers included, summed in the order given, in float64.

    Whole numbers, such as the batches that a normalisation layer has counted, are rounded.
    """
    total = sum(shares)
    averaged: dict[str, Tensor] = {}
    for name, first in states[0].items():
        mean = torch.zeros_like(first, dtype=torch.float64)
        for state, share in zip(states, shares, strict=True):
            mean += state[name].double() * (share / total)
        averaged[name] = (mean if first.is_floating_point() else mean.round()).to(first.dtype)
    return averaged


def check_alike(name: str, federation: Federation, force: bool) -> None:
    """Raise UserError, naming the clients, where averaging weights would average what does not belong together."""
    holders: dict[str, list[int]] = {}
    for client in federation.learners:
        holders.setdefault(federation.client_models[client], []).append(client)
    if len(holders) > 1:
        listed = "; ".join(f"{model} at clients {', '.join(map(str, ids))}" for model, ids in holders.items())
        raise UserError(f"{name} averages weights, which needs equal models, but clients hold {listed}")
    if federation.teachers and set(federation.teachers) != set(federation.learners):
        raise UserError(f"{name} averages the models of all that learn; leave the recipe key 'teachers' out")
    if federation.init == "per_client" and not force:
        raise UserError(
            f'{name} averages weights, which needs a common start: use init = "common", or, for a method, '
            f"{name}(force=true) to average nevertheless"
        )


class Ensemble(nn.Module):
    """The mean of several models' probabilities, as log-probabilities (n, …, classes)."""

    def __init__(self, members: Sequence[Model]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """(n, …, classes) logits of the mean probability."""
        logs = torch.stack([member(x).log_softmax(dim=-1) for member in self.members])
        mean: Tensor = logs.logsumexp(0) - torch.log(logs.new_tensor(float(len(logs))))
        return mean

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fedkd.errors import UserError
from fedkd.influence import last_layer_influence, second_moment, validation_gradient
from fedkd.selection import Every, Keep, Ranked
from fedkd.spec import STRICT
from fedkd.train import Batch

if TYPE_CHECKING:
    from fedkd.node import Data, Node
    from fedkd.train import Loss, Target


@dataclass(frozen=True, config=STRICT)
class Influence(Ranked):
    """Samples whose distillation, instead of learning from ground truth, helps the client's validation loss most.

    The selection by influence is that of Lan et al., arXiv 2404.03693, whose score is not published; this one is ours.
    It is the last-layer influence of the difference between the two losses of a sample: how the student's loss on its
    own validation samples would change if the sample were distilled rather than learnt from its label. The curvature is
    that of the loss of the samples that may be distilled.
    """

    keep: Keep = 0.7
    """share of samples that are distilled"""
    sign: Literal[1, -1] = 1
    """1: the most helpful samples; -1: the most harmful ones, a control"""
    every: Every = 1
    """rounds between two selections"""
    damping: Annotated[float, Gt(0)] = 0.01
    """what is added to the curvature, as a share of its mean"""

    needs_labels: ClassVar[bool] = True
    needs_validation: ClassVar[bool] = True

    def scores(self, client: Node, target: Target, loss: Loss) -> Tensor:
        head, val = client.student.head, client.val
        if not isinstance(head, nn.Linear):
            raise UserError(
                f"select = influence: the head of client {client.id}'s model is {type(head).__name__}; influence is "
                "that of a linear last layer (nn.Linear), so use another model, or another selection"
            )
        if val is None or val.y is None or not len(val):
            raise UserError(
                f"select = influence: client {client.id} has no validation samples; deal larger shards "
                "(min_size=…), or use another selection"
            )
        features, labels = _features(client, client.distilled)
        changes, curvature = _derivatives(client, head(features).detach(), labels, target, loss)
        held, truth = _features(client, val)
        residuals = torch.softmax(head(held), dim=1).detach()
        residuals = residuals - nn.functional.one_hot(truth, client.classes)
        mean = curvature.trace() * second_moment(features).trace() / (len(curvature) * (features.shape[1] + 1))
        gradient = validation_gradient(held, residuals)
        found = last_layer_influence(features, changes, curvature, gradient, max(self.damping * float(mean), 1e-12))
        return self.sign * found


def _features(client: Node, data: Data) -> tuple[Tensor, Tensor]:
    """(n, width) inputs of the student's head, and (n,) labels."""
    model = client.student.eval()
    with torch.no_grad():
        features = torch.cat([model.features(part).flatten(0, -2) for part in torch.split(data.x, 4096)])
    assert data.y is not None
    return features, data.y


def _derivatives(client: Node, logits: Tensor, labels: Tensor, target: Target, loss: Loss) -> tuple[Tensor, Tensor]:
    """(n, classes) gradient with respect to the logits when distilled minus when not, and (classes, classes) mean
    second derivative of the loss when all are distilled. Both come from the method's own loss, on batches as in
    training: beside as many private samples where the transfer set has labels, alone where samples are the student's
    own."""
    z = logits.requires_grad_()
    beside, twice = (z, labels) if target.on == "private" else (torch.cat([z.detach(), z]), labels.repeat(2))

    def gradient(weight: float) -> Tensor:
        weights = torch.full_like(z[:, 0], weight)
        batch = Batch(client, beside, twice, z, target.logits, weights, target.revised, known=True)
        (found,) = torch.autograd.grad(len(z) * loss(batch), z, create_graph=True, materialize_grads=True)
        return found

    distilled = gradient(1.0)
    rows = [
        torch.autograd.grad(column.sum(), z, retain_graph=True, materialize_grads=True)[0].mean(0)
        for column in distilled.unbind(dim=1)
    ]
    return (distilled - gradient(0.0)).detach(), torch.stack(rows)

"""Predictions of the models that a client received."""

from __future__ import annotations

import torch

from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import numbered
from fedkd.knowledge.weights import TEACHER, unpacked
from fedkd.models import restored_model
from fedkd.node.node import Node


def predicted(client: Node, knowledge: Knowledge) -> Knowledge:
    """Knowledge with the predictions of the models in it, (teachers, n, classes) on the client's own samples.

    The models are dropped afterwards: the client keeps their predictions only.
    """
    teachers = numbered(TEACHER, knowledge)
    if not teachers:
        return knowledge
    x, predictions = client.private.x, []
    for teacher, tensors in teachers.items():
        state = {name: value.to(client.device) for name, value in unpacked(tensors).items()}
        model = restored_model(client.specs[teacher], client.shape, client.classes, state)
        predictions.append(client.predict(x, model))
    rest = {name: value for name, value in knowledge.items() if not name.startswith(TEACHER)}
    return Knowledge(rest, logits=torch.stack(predictions))

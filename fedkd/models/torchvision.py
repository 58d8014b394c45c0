from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.models.architecture import Architecture, Model, Shape
from fedkd.models.blocks.classifier import Headless, fitting_side, headless, published_weights, renamed
from fedkd.models.blocks.hub import published_file
from fedkd.models.blocks.norm import BatchModel
from fedkd.models.blocks.tensors import read_weights, unprefixed


class Adapted(BatchModel):
    """A classifier made for large RGB images, on images of any size, grey or RGB."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Headless, classes: int, side: int, mean: list[float], std: list[float]) -> None:
        super().__init__(network.body, network.width, classes)
        self.side = side
        """side to which images are brought; 0: as they are"""
        self.origin = network.head
        """name of the last layer in torchvision's own network"""
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def centred(self, x: Tensor) -> Tensor:
        """(n, 3, side, side), standardised as the weights want it."""
        if self.side and x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        # Grey images become three equal channels here.
        return (x - self.mean) / self.std


@dataclass(frozen=True, config=STRICT)
class Torchvision(Architecture):
    """Any classifier of torchvision by its name there, with published weights and a new head.

    Grey images are repeated in three channels, and small ones enlarged where the network cannot take them as they
    are. With published weights, inputs are standardised as those want it. They are downloaded once, checked, and
    never unpickled beyond tensors. Batch normalisation keeps its running statistics, which are the publisher's at
    first, in the model's state. Published weights are not pre-trained unless [pretrain] epochs says so: the new head
    is as it was drawn until then. Dropout and stochastic depth are off, as in every other architecture here.
    """

    usage = "torchvision:NAME"

    argument: str
    """name in torchvision.models, for example resnet18"""
    weights: str = "IMAGENET1K_V1"
    """name of the published weights, or "none" for random ones"""
    size: Annotated[int, Ge(0)] = 0
    """side to which images are brought; 0: as they are if the network can take them, else the next of 32, 64, 96,
    128, 224 and 299 that it can"""

    @property
    def brings_weights(self) -> bool:
        return self.weights != "none"

    def build(self, shape: Shape, classes: int) -> Model:
        channels, height, width = shape
        member = published_weights(self.argument, self.weights)
        if channels not in (1, 3):
            raise UserError(f"{self._called}: images have {channels} channels; it takes 1 or 3 (cnn takes any number)")
        published, fixed = member is not None, self._fixed(member)
        side = fitting_side(self.argument, height, width, self.size, fixed, published=published)
        network = headless(self.argument, fixed or side or height, published=published)
        half = [0.5, 0.5, 0.5]
        seen = member.transforms() if member else None
        return Adapted(network, classes, side, seen.mean if seen else half, seen.std if seen else half)

    def initial(self, model: Model, client: int) -> Mapping[str, Tensor] | None:  # noqa: ARG002
        """The published weights, but for the head, which stays as it was drawn."""
        assert isinstance(model, Adapted)
        member = published_weights(self.argument, self.weights)
        if member is None:
            return None
        path = published_file(member.url, self._called)
        tensors = {key: value for key, value in read_weights(path).items() if not key.startswith(f"{model.origin}.")}
        head = {f"{model.origin}.{key}": value for key, value in model.head.state_dict().items()}
        return renamed(tensors | head, model.origin, model, f"{self._called}: {path}")

    def adopted(self, tensors: Mapping[str, Tensor], model: Model, whose: str) -> Mapping[str, Tensor]:
        """By the names of torchvision's own state dict, or by those of a model that fedkd has saved."""
        assert isinstance(model, Adapted)
        if any(name.startswith("body.") for name in tensors):
            return super().adopted(tensors, model, whose)
        return renamed(unprefixed(tensors, ()), model.origin, model, whose)

    @property
    def _called(self) -> str:
        return f"model torchvision:{self.argument}"

    def _fixed(self, member: Any) -> int:
        """The only side that the published weights of a vision transformer can take, or 0."""
        return int(member.meta["min_size"][0]) if member and self.argument.startswith("vit_") else 0

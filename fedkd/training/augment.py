"""Seeded augmentation of whole batches, on the device where they are: `augmentation("crop(padding=4)+flip")`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT, Catalogue
from fedkd.base.errors import UserError, nearest
from fedkd.base.spec import Spec, terms


class Step(ABC):
    """One change of a batch: a frozen pydantic dataclass whose fields are its parameters."""

    @abstractmethod
    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(b, c, h, w) on x's device, changed; x itself is left alone.

        Every random number comes from the CPU `generator`, so that the numbers are the same on every device. How
        many are drawn depends on b alone.
        """


@checked_dataclass(frozen=True, config=STRICT)
class Crop(Step):
    """A window of the image's own size, anywhere in the image with a border around it.

    He, Zhang, Ren & Sun, "Deep residual learning for image recognition", 2016, section 4.2 (padding 4).
    """

    padding: Annotated[int, Ge(0)] = 4
    """width of the border in pixels"""
    fill: Literal["zero", "reflect"] = "zero"
    """what is in the border: black, or the image mirrored at its edge"""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = x.shape
        corners = torch.randint(2 * self.padding + 1, (2, n), generator=generator)
        if not self.padding:
            return x
        if self.fill == "reflect" and self.padding >= min(height, width):
            raise UserError(
                f"crop(padding={self.padding}, fill='reflect'): images are {height}×{width}; a border that mirrors "
                f"them is at most {min(height, width) - 1} wide"
            )
        border = (self.padding,) * 4
        padded = F.pad(x, border, "reflect") if self.fill == "reflect" else F.pad(x, border)
        # A view of all windows; only the window that is chosen for each image is copied.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = corners.to(x.device, non_blocking=True)
        return windows[torch.arange(n, device=x.device), :, top, left]


@checked_dataclass(frozen=True, config=STRICT)
class Flip(Step):
    """Left and right exchanged, in a random part of the images."""

    probability: Annotated[float, Interval(ge=0, le=1)] = 0.5
    """share of images that are flipped"""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        chosen = torch.rand(len(x), generator=generator) < self.probability
        return torch.where(chosen.to(x.device, non_blocking=True)[:, None, None, None], x.flip(3), x)


KNOWN: dict[str, type[Step]] = {"crop": Crop, "flip": Flip}


@dataclass(frozen=True)
class _Steps(Catalogue[Step]):
    """The steps of this file."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(KNOWN)

    def find(self, spec: Spec) -> type[Step]:
        if spec.file or spec.name not in KNOWN:
            raise UserError(f"unknown {self.noun} {str(spec)!r}: {nearest(spec.name, KNOWN)}")
        return KNOWN[spec.name]


STEPS = _Steps("augmentation", __name__, Step)  # type: ignore[type-abstract]


@dataclass(frozen=True)
class Augmentation:
    """Steps applied one after the other. Crop and flip take 2 to 4 % of a training step of `cnn` (see tests)."""

    steps: tuple[Step, ...]

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(b, c, h, w) images → as many changed ones, on the same device, with numbers drawn from `generator`.

        The generator is a CPU one. x is left alone; what comes back may be x where nothing is to be changed.
        Raises UserError where the images are too small for a step.
        """
        for step in self.steps:
            x = step(x, generator)
        return x


def augmentation(text: str) -> Augmentation | None:
    """The augmentation that a text such as `crop(padding=4)+flip` describes; None for "".

    Raises:
        UserError: a step is unknown, misses between two signs, or has wrong parameters.
    """
    if not text.strip():
        return None
    parts = terms(text, "+")
    if not all(parts):
        raise UserError(f"augmentation {text!r}: a step is missing beside '+'; write it as in crop(padding=4)+flip")
    return Augmentation(tuple(STEPS.build(part) for part in parts))

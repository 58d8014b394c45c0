"""Images of many sizes and modes → one size, one mode."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from importlib.metadata import version
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.data.source import Source

SCHEMA = 2
"""Raise when images are framed in another way: those that were prepared before are then left alone."""
Mode = Literal["", "L", "RGB"]
Fit = Literal["crop", "pad", "stretch"]


@plain_dataclass(frozen=True)
class Framing:
    """What is done to each image when it is decoded."""

    size: int = 0
    mode: Mode = ""
    fit: Fit = "crop"
    offered: bool = True
    """whether the user can change it, so that messages may say how"""

    def pixels(self, image: Any, called: str) -> NDArray[np.uint8]:
        """(channels, height, width) of an image of Pillow's; `called` begins the messages."""
        from PIL import Image, ImageOps

        if image.mode.startswith(("I", "F")):
            raise UserError(f"{called} has mode {image.mode}, more than 8 bits a channel; convert it to 8 bits")
        mode = self.mode or image.mode
        if image.mode not in ("L", "RGB") and not (self.mode and self.offered):
            hint = 'convert them, or give mode="RGB" or mode="L"' if self.offered else "convert them"
            raise UserError(f"{called} has mode {image.mode}; images must be 8-bit grey (L) or RGB: {hint}")
        framed = image.convert(mode)
        if self.size and framed.size != (side := (self.size, self.size)):
            bilinear = Image.Resampling.BILINEAR
            if self.fit == "crop":
                framed = _cropped(framed, self.size)
            elif self.fit == "pad":
                framed = ImageOps.pad(framed, side, bilinear)
            else:
                framed = framed.resize(side, bilinear)
        pixels: NDArray[np.uint8] = np.asarray(framed)
        return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)

    def remedy(self, one: tuple[int, ...], other: tuple[int, ...]) -> str:
        """Which parameters would bring images of these shapes, (channels, height, width), to one."""
        if not self.offered:
            return ""
        size = f"size={min(*one[1:], *other[1:])}" if one[1:] != other[1:] else ""
        mode = 'mode="RGB"' if one[0] != other[0] else ""
        return f"; {' and '.join(filter(None, (size, mode)))} brings all of them to one"


def _cropped(image: Any, size: int) -> Any:
    """The middle of an image whose shorter side was brought to `size`: to the pixel what torchvision's Resize and
    CenterCrop give, so that a network sees what it was trained on.
    """
    from PIL import Image

    width, height = image.size
    longer = int(size * max(width, height) / min(width, height))
    scaled = (longer, size) if width > height else (size, longer)
    left, top = (round((side - size) / 2) for side in scaled)
    return image.resize(scaled, Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Framed(Source):
    """A source of encoded images, with the parameters that bring them to one size and mode."""

    size: Annotated[int, Ge(0)] = 0
    """side to which all images are brought, in pixels; 0: as they are, all of one size"""
    mode: Mode = ""
    """"RGB" or "L" (grey), to which all images are converted; empty: as they are, all of one mode"""
    fit: Fit = "crop"
    """how images become square: crop, the middle at the scale of the shorter side, as Resize and CenterCrop of
    torchvision cut it; pad, whole, with black around; stretch"""

    @property
    def framing(self) -> Framing:
        """What is done to each image."""
        return Framing(self.size, self.mode, self.fit)

    def framed(self) -> list[object]:
        """What `stamp` records about it; empty where images stay as they are."""
        return [SCHEMA, self.size, self.mode, self.fit, version("pillow")] if self.size or self.mode else []

"""The description of a saved model in the header of its file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fedkd.base.errors import UserError
from fedkd.base.files import located
from fedkd.models.architecture import Shape
from fedkd.models.blocks.tensors import is_pickled

KEY = "fedkd"
"""Name of our entry in the metadata of a safetensors file."""


@dataclass(frozen=True)
class Description:
    """Model and data of a saved model."""

    model: str
    """spec string"""
    shape: Shape
    """of the images or the text that it was made for"""
    classes: int

    @property
    def entry(self) -> dict[str, str]:
        """The description as metadata of a file."""
        content = {"model": self.model, "shape": self.shape, "classes": self.classes}
        return {KEY: json.dumps(content, ensure_ascii=False)}

    @property
    def data(self) -> str:
        """The data that it was made for, for messages."""
        return described_data(self.shape, self.classes)


def described_data(shape: Shape, classes: int) -> str:
    """Images and classes, or text and tokens, for messages.

    >>> described_data((1, 28, 28), 10)
    '1×28×28 images of 10 classes'
    """
    if len(shape) == 1:
        return f"chunks of {shape[0]} out of {classes} tokens"
    return f"{'×'.join(map(str, shape))} images of {classes} classes"


def read_description(path: Path) -> Description | None:
    """The description in the header of a file; None where there is none.

    Raises:
        UserError: the file is missing or damaged, or its description is not valid.
    """
    try:
        if is_pickled(located(path)):
            return None
        with safe_open(located(path), "pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of a saved model") from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is cut short, damaged or no safetensors file; give a saved model: .safetensors, .pt or .pth"
        ) from error
    return None if text is None else _described(text, path)


def _described(text: str, path: Path) -> Description:
    try:
        content: Any = json.loads(text)
        model, shape, classes = content["model"], content["shape"], content["classes"]
        if not isinstance(model, str) or any(type(size) is not int or size < 1 for size in (*shape, classes)):
            raise ValueError
        if len(shape) not in (1, 3):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}: its metadata {KEY!r} are {text[:200]}; they should be like "
            '{"model": "cnn", "shape": [1, 28, 28], "classes": 10}'
        ) from error
    return Description(model, tuple(shape), classes)

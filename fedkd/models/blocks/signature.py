"""Parameters of a user's own network, and which of them get their value from the data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fedkd.base.errors import UserError, nearest
from fedkd.models.architecture import Shape

CLASSES = "the number of classes, or of tokens"
CHANNELS = "channels of an image"
SIDE = "side of an image, or (height, width) where these differ"
VALUES = "values of an image: channels · height · width"
SHAPE = "(channels, height, width), or (length,) of text"
LENGTH = "tokens of a chunk of text"

ALWAYS: Mapping[str, str] = {
    **dict.fromkeys(("num_classes", "n_classes", "nb_classes", "number_of_classes", "classes", "num_labels"), CLASSES),
    **dict.fromkeys(("vocab_size", "vocabulary_size", "num_tokens", "n_tokens"), CLASSES),
    **dict.fromkeys(("in_channels", "in_chans", "in_ch", "input_channels", "image_channels", "img_channels"), CHANNELS),
    **dict.fromkeys(("image_size", "img_size"), SIDE),
    **dict.fromkeys(("input_shape", "image_shape", "img_shape"), SHAPE),
}
"""Parameters that say one thing wherever they stand: they are given even where they have a default."""

REQUIRED: Mapping[str, str] = {
    **dict.fromkeys(("outputs", "n_outputs", "num_outputs", "out_features", "out_dim", "output_dim"), CLASSES),
    **dict.fromkeys(("output_size", "n_out"), CLASSES),
    **dict.fromkeys(("channels", "num_channels", "n_channels"), CHANNELS),
    **dict.fromkeys(("inputs", "n_inputs", "num_inputs", "in_features", "in_dim", "input_dim"), VALUES),
    **dict.fromkeys(("input_size", "n_in"), VALUES),
    **dict.fromkeys(("length", "seq_len", "max_len", "max_length", "block_size", "context_length"), LENGTH),
}
"""Parameters that may mean a width inside as well: they are given only where they have no default."""


def check_given(make: Callable[..., object], given: Mapping[str, Any], name: str) -> None:
    """Raise UserError, beginning with `name`, where the user gave a parameter that `make` does not take."""
    taken = parameters(make)
    named = [key for key, each in taken.items() if each.kind in _BY_NAME]
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
        return
    for key in given:
        if key not in named:
            hint = nearest(key, named) if named else "it has no parameters"
            raise UserError(f"{name}: unknown parameter {key!r}; {hint}")


def passed(make: Callable[..., object], given: Mapping[str, Any], shape: Shape, classes: int) -> dict[str, Any]:
    """Arguments for `make`, a class or a function: those that the user gave, and those that follow from the data.

    Raises:
        UserError: a required argument is missing. Begins with the name of `make`.
    """
    name = getattr(make, "__name__", "it")
    arguments = dict(given)
    for key, each in parameters(make).items():
        if key in arguments or each.kind not in _BY_NAME:
            continue
        meaning = ALWAYS.get(key) or (REQUIRED.get(key) if each.default is inspect.Parameter.empty else None)
        value = _value(meaning, shape, classes) if meaning else None
        if value is not None:
            arguments[key] = value
        elif each.default is inspect.Parameter.empty:
            raise UserError(f"{name} asks for {key!r}; give it, as in {name}({key}=…)")
    return arguments


def parameters(make: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or a function, but for `self`."""
    try:
        return inspect.signature(make).parameters
    except (ValueError, TypeError):
        return {}


def _value(meaning: str, shape: Shape, classes: int) -> Any:
    """The value that follows from the data; None where there is none, such as the channels of text."""
    if meaning == CLASSES:
        return classes
    if meaning == SHAPE:
        return shape
    if len(shape) == 1:
        return shape[0] if meaning == LENGTH else None
    channels, height, width = shape
    side = height if height == width else (height, width)
    return {CHANNELS: channels, SIDE: side, VALUES: channels * height * width}.get(meaning)


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

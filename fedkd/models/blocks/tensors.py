"""Tensors of a saved model: read without unpickling anything else, and held against the model that takes them up."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedkd.errors import UserError

PICKLED = (".pt", ".pth")
"""Endings of files that torch.save wrote; they are read with its weights-only loader."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors, .pt or .pth file, on the CPU, by name; an OrderedDict keeps its versions.

    Raises:
        UserError: the file is not there, is cut short or damaged, or holds anything but tensors by name.
    """
    found: object
    try:
        found = torch.load(path, map_location="cpu", weights_only=True) if path.suffix in PICKLED else load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of a saved model") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is damaged, and nothing else is unpickled; save the model's "
            f"state_dict() alone"
        ) from error
    # What PyTorch raises for a damaged file depends on where the damage is.
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is cut short, damaged or no file of tensors; save the model again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}; tensors by name are needed: save a state_dict()")
    for name, value in found.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise UserError(
                f"{path} holds a {type(value).__name__} as {name!r}; tensors by name are needed: save a state_dict()"
            )
    return found


def check_fit(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], whose: str) -> None:
    """Raise UserError, beginning with `whose`, where `tensors` are not those `wanted`: names, shapes, finite values."""
    for name, tensor in wanted.items():
        if name not in tensors:
            raise UserError(f"{whose}: there is no tensor {name!r}, of shape {_shape(tensor)}; {_FIT}")
        found = tensors[name]
        if found.shape != tensor.shape:
            raise UserError(f"{whose}: {name!r} has shape {_shape(found)}, not {_shape(tensor)}; {_FIT}")
        if found.is_floating_point() != tensor.is_floating_point():
            raise UserError(f"{whose}: {name!r} has the type {_type(found)}, not {_type(tensor)}; {_FIT}")
        if not torch.isfinite(found).all():
            raise UserError(f"{whose}: {name!r} holds values that are not finite; take weights that are whole")
    for name in tensors:
        if name not in wanted:
            raise UserError(f"{whose}: there is no place for the tensor {name!r}; {_FIT}")


_FIT = "take weights of the same model, for as many classes and channels"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "()"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

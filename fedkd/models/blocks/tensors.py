"""Tensors of a saved model: read without unpickling anything else, and compared with the model that takes them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.files import located

STATES = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts save a state dict beside other things."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""

HOW = "save torch.save(model.state_dict(), FILE) and give that"


CLIENT = "{client}"
"""What stands for the client's id in the path of a file."""


def client_file(path: str, client: int) -> Path:
    """The file of one client, as it is named where a path may hold `CLIENT`; `located` finds it."""
    return Path(path.replace(CLIENT, str(client)))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of safetensors or of torch.save, on the CPU, by name; an OrderedDict keeps its versions.

    Where a saved dictionary holds a state dict under one of `STATES`, the state dict is read. Only tensors and plain
    values are unpickled.

    Raises:
        UserError: the file is not there, is cut short or damaged, or holds anything but tensors by name.
    """
    content: Any
    program = ""
    try:
        file = located(path)
        if is_pickled(file):
            program = _program(file)
            content = None if program else torch.load(file, map_location="cpu", weights_only=True)
        else:
            content = load_file(file)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of a saved model") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors{_what(str(error))}; nothing else is unpickled; {HOW}"
        ) from error
    # What PyTorch raises for a damaged file depends on where the damage is.
    except (
        *(OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError),
        zipfile.BadZipFile,
    ) as error:
        raise UserError(
            f"{path} is cut short, damaged or no file of tensors (.pt, .pth, .safetensors); save the model again"
        ) from error
    if program:
        raise UserError(f"{path} is {program}")
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; tensors by name are needed: {HOW}")
    for key in STATES:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise UserError(
                f"{path} holds a {type(value).__name__} as {name!r}; tensors by name are needed, alone or under "
                f"{', '.join(map(repr, STATES))}: {HOW}"
            )
    tensors: dict[str, Tensor] = content
    return tensors


def is_pickled(path: Path) -> bool:
    """Whether torch.save wrote a file, which its first bytes tell."""
    with path.open("rb") as file:
        start = file.read(2)
    return start == b"PK" or start[:1] == b"\x80"


def unprefixed(tensors: Mapping[str, Tensor], wanted: Container[str]) -> dict[str, Tensor]:
    """The same tensors without the `PREFIXES` that all their names have, unless such names are `wanted`."""
    state = dict(tensors)
    while prefix := next((each for each in PREFIXES if state and all(name.startswith(each) for name in state)), ""):
        if any(name in wanted for name in state):
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _program(path: Path) -> str:
    """For a message: the kind of program in a zip file of PyTorch, and a remedy; empty where it holds tensors."""
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name for name in names):
        return (
            "TorchScript, which is a program, and fedkd runs none from a file; save its tensors: "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), FILE), and give that"
        )
    if any(name.endswith(("/models/model.json", "serialized_exported_program.json")) for name in names):
        return f"an exported program, and fedkd runs none from a file; {HOW}"
    return ""


def _what(reason: str) -> str:
    """For a message: what a file holds besides tensors, from PyTorch's error message."""
    name = re.search(r"GLOBAL ([\w.]+)", reason)
    return f": a pickled {name[1]}" if name else ", or is damaged"


def check_fit(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], whose: str) -> None:
    """Raise UserError, beginning with `whose`, where `tensors` are not those `wanted`: names, shapes, finite values."""
    for name, tensor in wanted.items():
        if name not in tensors:
            raise UserError(f"{whose}: there is no tensor {name!r}, of shape {_shape(tensor)}; {_FIT}")
        given = tensors[name]
        if given.shape != tensor.shape:
            raise UserError(f"{whose}: {name!r} has shape {_shape(given)}, not {_shape(tensor)}; {_FIT}")
        if given.is_floating_point() != tensor.is_floating_point():
            raise UserError(f"{whose}: {name!r} has the type {_type(given)}, not {_type(tensor)}; {_FIT}")
        if not torch.isfinite(given).all():
            raise UserError(f"{whose}: {name!r} holds values that are not finite; take weights that are whole")
    for name in tensors:
        if name not in wanted:
            raise UserError(f"{whose}: there is no place for the tensor {name!r}; {_FIT}")


_FIT = "take weights of the same model, for as many classes and channels"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "()"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

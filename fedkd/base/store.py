"""Tensors on disk: written whole or not at all, checked when read, never unpickled."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedkd.base.errors import UserError

_DIGEST = 32


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace `path` by a safetensors file with a sha256 in front of it.

    Raises:
        UserError: the folder cannot be written.
    """
    body = save(
        {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    )
    write_whole(path, hashlib.sha256(body).digest() + body)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once or not at all; its folder is made where it is missing.

    Raises:
        UserError: the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another folder"
        ) from error


def read_tensors(path: Path, device: torch.device | None = None) -> dict[str, Tensor] | None:
    """The tensors in `path`, on `device`; None where it is missing or is not, to the last bit, what was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, body = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        return None
    try:
        tensors = load(body)
    except SafetensorError:
        return None
    return {name: tensor.to(device) for name, tensor in tensors.items()} if device else tensors


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path`: of several processes and threads, one at a time is inside."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}); set FEDKD_CACHE to a folder that can"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""Tensors on disk: written whole or not at all, checked when read, never unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedkd.base.disk import cached, write_whole

_DIGEST = 32


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace `path` by a safetensors file with a sha256 in front of it.

    Raises:
        UserError: the folder cannot be written.
    """
    body = save(
        {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    )
    write_whole(path, hashlib.sha256(body).digest(), body)


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


def cached_tensors(
    path: Path, make: Callable[[], Mapping[str, Tensor]], device: torch.device | None = None
) -> dict[str, Tensor]:
    """The tensors in `path`, on `device`; made and written first where the file is missing or damaged: see `cached`."""
    return cached(path, make, write_tensors, lambda file: read_tensors(file, device))


def content_key(*parts: str | Tensor | memoryview) -> str:
    """A name for a file of the cache: 40 hexadecimal digits of the sha256 over texts, tensors and raw memory."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(repr((part.dtype, part.shape)).encode())
            digest.update(part.cpu().contiguous().numpy().data)
        else:
            digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:40]

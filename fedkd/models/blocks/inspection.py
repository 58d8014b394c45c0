"""Output and head of a user's own network, from one forward pass of two samples."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.base.errors import UserError, nearest
from fedkd.base.streams import stream
from fedkd.models.architecture import Shape

SAMPLES = 2
"""As few as batch normalisation can be trained with."""


@dataclass(frozen=True)
class Seen:
    """Results of the forward pass."""

    head: str
    """name of the linear layer whose output is the network's"""
    gives: int
    """how wide the output is"""


def probe(shape: Shape, classes: int) -> Tensor:
    """(2, …) random samples of the shape of the data: pixels in [0, 1], or tokens."""
    rng = stream("probe")
    if len(shape) == 1:
        return torch.randint(classes, (SAMPLES, *shape), generator=rng)
    return torch.rand(SAMPLES, *shape, generator=rng)


def inspected(network: nn.Module, x: Tensor, named: str) -> Seen:
    """Find the head, or make sure that the layer called `named` is it.

    Raises:
        UserError: the output is no tensor with a row for each sample, or is not that of a linear layer.
    """
    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    if named and named not in linear:
        raise UserError(
            f"head={named!r} is no linear layer of it; {nearest(named, linear) if linear else 'it has none'}"
        )
    ran: list[tuple[str, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, given, out, name=name: ran.append((name, given[0], out)))
        for name, module in linear.items()
    ]
    try:
        output = _output(network.eval(), x)
    finally:
        for hook in hooks:
            hook.remove()
    if not x.is_floating_point():
        _check_causal(network, x, output)
    _output(copy.deepcopy(network).train(), x, " in training")
    candidates = [each for each in ran if not named or each[0] == named]
    if not candidates:
        raise UserError(f"{f'head={named!r} does not run' if named else 'it has no linear layer that runs'}; {_END}")
    name, given, out = candidates[-1]
    if not _equal(out, output):
        raise UserError(f"its output is not that of its linear layer {name!r}{_what_follows(out, output)}; {_END}")
    _check_features(network.eval(), linear[name], x, given)
    network.train()
    return Seen(name, output.shape[-1])


def _check_features(network: nn.Module, head: nn.Linear, x: Tensor, features: Tensor) -> None:
    """Raise UserError unless the network without its head gives what the head reads."""
    hook = head.register_forward_hook(lambda _, given, __: given[0])
    try:
        with torch.no_grad():
            left = network(x)
    except Exception as error:
        raise UserError(f"its last linear layer cannot be told from what follows it ({error}); {_END}") from error
    finally:
        hook.remove()
    if not _equal(left, features):
        raise UserError(f"its last linear layer runs more than once, or something follows it; {_END}")


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-6)


def _output(network: nn.Module, x: Tensor, when: str = "") -> Tensor:
    with torch.no_grad():
        output: Any = network(x)
    if not isinstance(output, Tensor):
        raise UserError(f"it returns a {type(output).__name__}{when}; return the logits alone, as one tensor")
    rows = (len(x),) if x.is_floating_point() else tuple(x.shape)
    if output.dim() != len(rows) + 1 or tuple(output.shape[:-1]) != rows:
        wanted = "×".join(map(str, (*rows, "classes" if x.is_floating_point() else "tokens")))
        raise UserError(
            f"it gives {'×'.join(map(str, output.shape)) or 'a single number'}{when} for {len(x)} samples; "
            f"logits are {wanted}"
        )
    return output


def _check_causal(network: nn.Module, x: Tensor, output: Tensor) -> None:
    """Raise UserError where predictions of text depend on later tokens."""
    changed = x.clone()
    changed[:, -1] = (x[:, -1] + 1) % output.shape[-1]
    if not torch.allclose(_output(network, changed)[:, :-1], output[:, :-1], atol=1e-5):
        raise UserError("its predictions for a token depend on later tokens; a model of text looks back only")


def _what_follows(last: Tensor, output: Tensor) -> str:
    """Which usual function turns the one into the other."""
    if last.shape != output.shape:
        return ""
    for name, function in (("log_softmax", torch.log_softmax), ("softmax", torch.softmax)):
        if _equal(function(last, -1), output):
            return f", but of a {name} after it"
    return ""


_END = "return the output of a linear layer (nn.Linear) as it is: these are the logits, and what it reads the features"

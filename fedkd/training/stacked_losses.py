"""The losses of stacked clients: one pass computes those of all clients that have the same loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap
from torch.overrides import TorchFunctionMode

from fedkd.node.node import Node
from fedkd.training.batch import Loss
from fedkd.training.batches import Batches

Tensors = Mapping[str, Tensor]


def function_of(loss: Loss) -> object:
    """What makes two losses the same function, but for the parameters of their method, which are values.

    A function that was made for one client may read that client's tensors, so it is like no other.
    """
    owner = getattr(loss, "__self__", None)
    return (type(owner), getattr(loss, "__func__", None)) if is_dataclass(owner) else id(loss)


class StackedLosses:
    """The losses of clients whose `function_of` is equal, as a (k,) tensor of the first k clients."""

    def __init__(self, clients: Sequence[tuple[Node, Loss, Batches]]) -> None:
        members: list[list[int]] = []
        for number, (_, loss, _) in enumerate(clients):
            alike = next((each for each in members if _equal(clients[each[0]][1], loss)), None)
            if alike is None:
                members.append([number])
            else:
                alike.append(number)
        self._parts = [_Part(each, _stacked([clients[number] for number in each])) for each in members]

    def __call__(self, outputs: Tensor, rows: Tensors, parameters: Tensors, fixed: Tensors) -> Tensor:
        """(k,) losses from outputs, `Batches.rows`, parameters and `Fit.fixed` of k clients, (k, …) each."""
        if len(self._parts) == 1:
            return self._parts[0].losses(outputs, rows, parameters, fixed)
        # Clients with different losses, such as cells of a search: each loss takes its own clients.
        losses, order = [], []
        for part in self._parts:
            if members := [member for member in part.members if member < len(outputs)]:
                index = torch.tensor(members, device=outputs.device)
                taken = [{name: each[index] for name, each in some.items()} for some in (rows, parameters, fixed)]
                losses.append(part.losses(outputs[index], *taken))
                order += members
        return torch.cat(losses)[torch.tensor(order, device=outputs.device).argsort()]


@dataclass(frozen=True, eq=False)
class _Part:
    """The clients with one loss."""

    members: list[int]
    losses: Callable[[Tensor, Tensors, Tensors, Tensors], Tensor]


def _equal(one: Loss, other: Loss) -> bool:
    """Whether two losses of the same function have the same parameters."""
    return one is other or bool(getattr(one, "__self__", one) == getattr(other, "__self__", other))


def _stacked(clients: Sequence[tuple[Node, Loss, Batches]]) -> Callable[[Tensor, Tensors, Tensors, Tensors], Tensor]:
    """The loss of several clients as one function of their stacked tensors."""
    node = cast(Node, SharedNode([node for node, _, _ in clients]))
    _, loss, batches = clients[0]

    def one(outputs: Tensor, rows: Tensors, parameters: Tensors, fixed: Tensors) -> Tensor:
        return loss(batches.batch(node, outputs, rows, parameters, fixed))

    each = vmap(one)

    def all_of_them(outputs: Tensor, rows: Tensors, parameters: Tensors, fixed: Tensors) -> Tensor:
        with _Gathering():
            return each(outputs, rows, parameters, fixed)

    return all_of_them


class _Gathering(TorchFunctionMode):
    """Mean cross-entropy by a `gather`: torch's own takes three times as long under `vmap`."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function is F.cross_entropy and _is_plain(args, given):
            each = -F.log_softmax(args[0], 1).gather(1, args[1].unsqueeze(1)).squeeze(1)
            reduction = given.get("reduction", "mean")
            return each if reduction == "none" else each.sum() if reduction == "sum" else each.mean()
        return function(*args, **given)


def _is_plain(args: tuple[Any, ...], given: dict[str, Any]) -> bool:
    """Whether it is the cross-entropy of (n, classes) logits and (n,) labels, without weights or smoothing."""
    return len(args) == 2 and (args[0].dim(), args[1].dim()) == (2, 1) and not any(map(given.get, _UNSET))


_UNSET = ("weight", "size_average", "reduce", "label_smoothing")
"""Other arguments of `cross_entropy`, which are None or 0 where they are not used."""


class SharedNode:
    """Several nodes read as one: the attributes that are equal at all of them.

    A loss that reads anything else of its node, such as a client's state or its model, depends on more than its batch.
    Then it raises, and the clients train one by one.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes

    def __getattr__(self, name: str) -> Any:
        first, *others = (getattr(node, name) for node in self._nodes)
        equal = all(other is first or (isinstance(first, _PLAIN) and other == first) for other in others)
        if name in _OF_ONE or callable(first) or not equal:
            raise TypeError(f"the loss reads {name!r} of the client's node; what differs between clients is in `fixed`")
        return first


_PLAIN = (int, float, str, tuple)
_OF_ONE = ("models", "student", "state", "records", "steps", "samples")
"""What belongs to one node, also where there is only one."""

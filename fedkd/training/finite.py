"""Checks after every exchange that weights, reports and results are finite: diverged training is an error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fedkd.base.errors import DivergedError, FederationError

_ADVICE = "training diverged: try a lower train.lr or pretrain.lr"


def check_weights(model: nn.Module) -> None:
    """Raise DivergedError where a weight or a running statistic of a model is not finite: one pass over them."""
    values = [value for value in model.state_dict().values() if value.is_floating_point() and value.numel()]
    # If a value is not finite, the smallest or the largest is not finite either. This is much faster than a test of
    # each value, and faster again in the order of the values in memory.
    laid = [value.permute(*sorted(range(value.dim()), key=value.stride, reverse=True)) for value in values]
    if laid and not bool(torch.stack([end for value in laid for end in value.aminmax()]).isfinite().all()):
        raise DivergedError("the weights of its model are not finite")


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those tensors that hold a value that is not finite."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]


def check_reports(reports: Mapping[int, Mapping[str, Tensor]], when: str) -> None:
    """Raise FederationError if a client sent values that are not finite: a merge would spread them to all clients."""
    diverged = {client: names for client, report in sorted(reports.items()) if (names := not_finite(report))}
    if diverged:
        clients = ", ".join(map(str, diverged))
        what = ", ".join(sorted({name for names in diverged.values() for name in names}))
        raise FederationError(f"clients {clients} sent {what} that are not finite {when}; {_ADVICE}")


def check_results(rows: Iterable[tuple[int, str, str, float]], when: str) -> None:
    """Raise FederationError where a measurement, (client or −1, split, metric, value), is not finite."""
    for client, split, metric, value in rows:
        if not math.isfinite(value):
            who, what = f"client {client}" if client >= 0 else "the server", f"{split} {metric}".strip()
            raise FederationError(f"{who}: {what} is not finite {when}; {_ADVICE}")

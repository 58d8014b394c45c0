"""Ray's start: its environment variables, a cluster that cannot be reached, and what is left out on one machine."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fedkd.base.errors import UserError

REACHABLE = 5.0
"""Seconds within which a cluster must answer. Ray itself tries for minutes."""


def prepare_environment() -> None:
    """Set the environment variables that Ray and its workers read when they are imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    # Workers without a GPU must not see one, because a client uses every GPU it sees. Ray will change its default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)


def reachable(address: str) -> str:
    """HOST:PORT of a cluster that answers; for "auto", that in RAY_ADDRESS, or that which `ray start` left here.

    Raises:
        UserError: none has been started here, or nothing answers there.
    """
    from ray._private.utils import read_ray_address

    there = address
    if address == "auto":
        # Not left to Ray, which would also join what other users have started for themselves.
        there = os.environ.get("RAY_ADDRESS") or read_ray_address() or ""
    host, _, port = there.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"recipe key 'ray.address': {address!r}: no cluster has been started on this machine"
            f"{f' (RAY_ADDRESS is {there!r})' if there else ''}; start one with `ray start --head`, or give HOST:PORT"
        )
    try:
        socket.create_connection((host, int(port)), REACHABLE).close()
    except OSError as error:
        raise UserError(
            f"recipe key 'ray.address': {address!r}: nothing answers at {there} ({error.strerror or error}); give what "
            "`ray start --head` printed there, usually HOST:6379"
        ) from error
    return there


@contextmanager
def lean() -> Iterator[None]:
    """Start Ray without its autoscaler, log monitor and dashboard server: a third of the work of its start.

    One machine does not grow, nobody reads the workers' logs, and there is no dashboard; Ray has no options for this.
    """
    from ray._private.node import Node

    unused = {name: getattr(Node, name) for name in ("start_monitor", "start_log_monitor", "start_api_server")}
    for name in unused:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in unused.items():
            setattr(Node, name, method)

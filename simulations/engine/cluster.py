"""Ray itself: connecting to it, its actors, and its end. All that touches Ray is in this folder."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp

from simulations.engine.dispatcher import Outcome
from simulations.engine.lanes import cpu_cores
from simulations.engine.resources import Need, Room, rooms_of
from simulations.engine.workers import Worker


class RayCluster:
    """Ray, and the workers that it runs.

    `connect` and `close` are called by one thread, which lives as long as the connection: Ray's processes end with the
    thread that started them.
    """

    def __init__(self, app: ClientApp, verbose: bool) -> None:
        self._app, self._verbose = app, verbose
        self._ours = False
        """whether this object made the connection, and so ends it"""

    def connect(self) -> None:
        """Start Ray on this machine. A Ray that this process is connected to already is used, and left running."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
        # Workers without a GPU must not see one, because a client uses every GPU it sees. Ray will change its default.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)
        import ray

        if ray.is_initialized():
            return
        with nullcontext() if self._verbose else _lean():
            # Without a runtime environment, which halves the start of workers; "local": whatever else runs here.
            ray.init(
                address="local",
                num_cpus=cpu_cores(),
                include_dashboard=False,
                log_to_driver=self._verbose,
                logging_level=logging.INFO if self._verbose else logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
        self._ours = True
        # Ray prints about workers that died, without any logger.
        ray._private.worker._worker_logs_enabled = self._verbose

    def seen(self) -> tuple[list[Room], str]:
        """What there is, and where, before `connect`: of a Ray that runs already, else of this machine."""
        import torch

        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            return rooms_of(ray.nodes()), "Ray's cluster"
        return [Room(cpu_cores(), torch.cuda.device_count())], "this machine"

    def rooms(self) -> list[Room]:
        """What the living nodes have."""
        import ray

        return rooms_of(ray.nodes())

    def room_for(self, need: Need) -> bool:
        """Whether a living node can hold a worker."""
        return any(room.holds(need) for room in self.rooms())

    def start(self, need: Need) -> Any:
        """A new worker. If it dies, Ray does not start it again: its message may go to another."""
        options = {"num_cpus": need.cpus, "num_gpus": need.gpus, "max_restarts": 0, "max_task_retries": 0}
        return self._worker.options(**options).remote(self._app, self._verbose)

    @cached_property
    def _worker(self) -> Any:
        import ray

        return ray.remote(Worker)

    def greet(self, actor: Any) -> Future[Any]:
        """Done when the worker is ready."""
        return _future(actor.greet.remote())

    def call(self, actor: Any, parcel: Any, context: Context) -> Future[Outcome]:
        """Have a worker answer a message."""
        return _future(actor.handle.remote(parcel, context))

    def kill(self, actor: Any) -> None:
        """End a worker."""
        import ray

        ray.kill(actor)

    def is_of_the_worker(self, error: BaseException) -> bool:
        """Whether an error means that the worker died, and not that its code raised."""
        from ray.exceptions import RayError, RayTaskError

        return isinstance(error, RayError) and not isinstance(error, RayTaskError)

    def close(self) -> None:
        """End Ray if it was started here."""
        import ray

        if self._ours:
            ray.shutdown()


@contextmanager
def _lean() -> Iterator[None]:
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


def stored(content: Any) -> Any:
    """A reference to something in Ray's object store, which spills to disk."""
    import ray

    return ray.put(content)


def _future(reference: Any) -> Future[Any]:
    future: Future[Any] = reference.future()
    return future

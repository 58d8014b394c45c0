"""Ray itself: connecting to it, its actors, and its end. All that touches Ray is in this folder."""

from __future__ import annotations

import logging
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

from fedkd.base.errors import UserError
from simulations.engine.jobs import Job, first
from simulations.engine.lanes import cpu_cores
from simulations.engine.resources import Need, Room, rooms_of
from simulations.engine.starting import lean, prepare_environment, reachable
from simulations.engine.travelling import Greeting, Probe, packed, state_came_back, state_to_send
from simulations.engine.workers import Answered, Meter, Worker
from simulations.ray_settings import RaySettings

STORE = 2**30
"""Bytes of the object store of a Ray of our own: messages on their way, which spill to disk where they are more."""


class RayCluster:
    """Ray, and the workers that it runs.

    `connect` and `close` are called by one thread, which lives as long as the connection: Ray's processes end with the
    thread that started them.
    """

    def __init__(
        self, app: ClientApp, settings: RaySettings, verbose: bool = False, meter: Meter | None = None
    ) -> None:
        self._app, self._settings, self._verbose, self._meter = app, settings, verbose, meter
        self._ours = False
        """whether this object made the connection, and so ends it"""
        self.probe = Probe()
        self.travelling: tuple[list[Path], dict[str, Path]] = ([], {})
        """files and prepared data sets for workers that do not see them"""
        self._bundle: Any = None
        self._packing = threading.Lock()
        self._threads = ThreadPoolExecutor(256, "ray")

    def connect(self) -> None:
        """Connect to the cluster that the recipe names, or start Ray on this machine.

        A Ray that this process is connected to already is used, and left running.

        Raises:
            UserError: there is no such cluster, or it cannot be used.
        """
        prepare_environment()
        import ray

        if ray.is_initialized():
            return
        address = self._settings.address
        options = {
            "log_to_driver": self._verbose,
            "logging_level": logging.INFO if self._verbose else logging.ERROR,
        }
        if address:
            address = reachable(address)
            try:
                ray.init(address=address, **options)
            except Exception as error:
                raise UserError(f"recipe key 'ray.address': {address!r} cannot be used: {first(error)}") from error
        else:
            with nullcontext() if self._verbose else lean():
                # Without a runtime environment, which halves the start of workers; "local": whatever else runs here.
                ray.init(
                    "local",
                    num_cpus=cpu_cores(),
                    object_store_memory=STORE,
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    **options,
                )
        self._ours = True
        # Ray prints about workers that died, without any logger.
        ray._private.worker._worker_logs_enabled = self._verbose

    def seen(self) -> tuple[list[Room], str]:
        """What there is, and where: in the cluster, or before `connect` on this machine."""
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            return rooms_of(ray.nodes()), "Ray's cluster"
        import torch

        return [Room(cpu_cores(), torch.cuda.device_count())], "this machine"

    @property
    def changes(self) -> bool:
        """Whether nodes may come and go."""
        return bool(self._settings.address)

    def rooms(self) -> list[Room]:
        """What the living nodes have."""
        import ray

        return rooms_of(ray.nodes())

    def start(self, need: Need) -> Any:
        """A new worker. If it dies, Ray does not start it again: its message may go to another."""
        options = {"num_cpus": need.cpus, "num_gpus": need.gpus, "max_restarts": 0, "max_task_retries": 0}
        return self._worker.options(**options).remote(self._app, self._verbose, self._meter)

    @cached_property
    def _worker(self) -> Any:
        import ray

        return ray.remote(Worker)

    def greet(self, actor: Any) -> Future[bool]:
        """Done when the worker is ready and has all files; whether it does not see the driver's disk."""
        return self._threads.submit(self._greeted, actor)

    def _greeted(self, actor: Any) -> bool:
        import ray

        greeting: Greeting = ray.get(actor.greet.remote(self.probe))
        if not greeting.sees_files:
            with self._packing:
                self._bundle = self._bundle or ray.put(packed(*self.travelling))
            ray.get(actor.unpack.remote(self._bundle))
        return not greeting.sees_state

    def call(self, actor: Any, job: Job, distant: bool) -> Future[Answered]:
        """Have a worker answer a message."""
        if distant:
            return self._threads.submit(self._called, actor, job)
        future: Future[Answered] = actor.handle.remote(job.parcel, job.context).future()
        return future

    def _called(self, actor: Any, job: Job) -> Answered:
        """The answer of a worker that does not see the driver's disk: state goes and comes with the message."""
        import ray

        state = ray.put(state_to_send(job.message))
        answer, back = ray.get(actor.handle_at_a_distance.remote(job.parcel, job.context, state))
        state_came_back(job.message, back)
        done: Answered = answer
        return done

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

        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._ours:
            ray.shutdown()


def stored(content: Any) -> Any:
    """A reference to something in Ray's object store, which spills to disk."""
    import ray

    return ray.put(content)

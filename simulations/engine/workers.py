"""A worker: a process in which Ray runs the client app, one message at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from simulations.engine.grid import answered
from simulations.engine.quiet import quiet


class Worker:
    """The Ray actor that answers messages. It is made once; what it needs to import is imported then."""

    def __init__(self, app: ClientApp, verbose: bool) -> None:
        self._app, self._verbose = app, verbose

    def greet(self) -> int:
        """Answered when the worker is ready: the id of its process."""
        return os.getpid()

    def handle(self, message: Message, context: Context) -> tuple[Message, Context]:
        """The reply to a message, and the context of its node afterwards."""
        with quiet(self._verbose):
            return answered(self._app, message, context)


@dataclass(frozen=True)
class Launcher:
    """Starts workers."""

    app: ClientApp
    verbose: bool

    def start(self, cpus: float, gpus: float) -> Any:
        """A new actor. A worker that dies is not started again by Ray: its message may go to another."""
        import ray

        actor = ray.remote(Worker).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        return actor.remote(self.app, self.verbose)

"""Flower on Ray: nodes whose messages are answered by the same client app in Ray's workers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from simulations.engine.cluster import RayCluster, stored
from simulations.engine.dispatcher import Dispatcher, Job
from simulations.engine.grid import LocalGrid, name_message
from simulations.engine.lanes import Drive, divided, lanes_for
from simulations.engine.quiet import quiet
from simulations.engine.resources import check, default_need, workers
from simulations.ray_settings import RaySettings

GROUPS_A_WORKER = 2
"""Nodes of a lane for each worker. Each serves a group of clients. With one node for each worker, workers with less
work would wait; with many, there would be many messages."""
LARGE = 2**17
"""Bytes from which on a message is put into the object store when it is sent, and not when a worker is idle."""


class RayGrid(LocalGrid):
    """A Flower grid whose nodes are answered by workers. Any number of threads may use it."""

    def __init__(self, ray: OnRay, nodes: int) -> None:
        super().__init__(nodes)
        self._ray = ray
        self._jobs: dict[str, Job] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        jobs = {}
        for message in messages:
            name = name_message(message)
            jobs[name] = self._ray.job(message, self._contexts[message.metadata.dst_node_id])
        self._jobs |= jobs
        self._ray.dispatcher.submit(list(jobs.values()))
        return list(jobs)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come, each once."""
        known = [name for name in message_ids if name in self._jobs]
        return [self._taken(name) for name in known if self._jobs[name].outcome.done()]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies, in the order of the messages; those that do not come within `timeout` seconds are missing."""
        names = list(self.push_messages(messages))
        wait([self._jobs[name].outcome for name in names], timeout)
        return self.pull_messages(names)

    def _taken(self, name: str) -> Message:
        job = self._jobs.pop(name)
        reply, self._contexts[job.message.metadata.dst_node_id] = job.outcome.result()
        return reply


class OnRay:
    """The engine on Ray. Its thread starts Ray and the workers, hands messages out, and ends them."""

    def __init__(self, app: ClientApp, settings: RaySettings, verbose: bool = False) -> None:
        """Raises UserError: a client is to have more CPUs or GPUs than there are."""
        self._settings, self._quiet = settings, quiet(verbose)
        self._cluster = RayCluster(app, verbose)
        check(settings, *self._cluster.seen())
        self.dispatcher = Dispatcher(self._cluster)
        self._workers: Future[int] = Future()
        """number of workers, once Ray runs"""
        # A thread that lives on: Ray's processes end with the thread that started them.
        self._thread = threading.Thread(target=self._serve, name="ray", daemon=True)

    def begin(self, ready: Callable[[], None]) -> None:
        """Start Ray and the workers, which import what they need while the caller goes on.

        `ready` is called once, from another thread, when the first worker is ready.
        """
        self.dispatcher.ready = ready
        self._quiet.__enter__()
        self._thread.start()

    def lanes(self, clients: int, federations: int) -> int:
        """Number of federations to run in parallel."""
        return lanes_for(clients, federations, self._workers.result())

    def run(self, drive: Drive, clients: int, lanes: int) -> None:
        """Run `drive` on nodes whose messages the workers answer. Whatever `drive` raises is raised here."""
        nodes = min(clients, GROUPS_A_WORKER * self._workers.result())
        grid = RayGrid(self, nodes * lanes)
        drive(divided(grid, sorted(grid.get_node_ids()), lanes))

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        if self._thread.ident is not None:
            self.dispatcher.end()
            self._thread.join()
            self._quiet.__exit__(None, None, None)

    def job(self, message: Message, context: Context) -> Job:
        """A message as the dispatcher takes it."""
        size = sum(len(array.data) for record in message.content.array_records.values() for array in record.values())
        parcel = stored(message) if size > LARGE else message
        return Job(message, context, default_need(self._settings), _clients(message), Future(), parcel)

    def _serve(self) -> None:
        try:
            self._cluster.connect()
            need = default_need(self._settings)
            count = max(1, workers(need, self._cluster.rooms()))
            logging.getLogger("flwr").info("%d workers with %g CPUs and %g GPUs each", count, need.cpus, need.gpus)
            self._workers.set_result(count)
        except BaseException as error:
            self._workers.set_exception(error)
            return
        try:
            self.dispatcher.serve([need] * count)
        finally:
            self._cluster.close()


def _clients(message: Message) -> int:
    """Number of clients that a message is for."""
    for record in message.content.config_records.values():
        clients = record.get("clients")
        if isinstance(clients, list):
            return len(clients)
    return 1

"""Flower on Ray: nodes whose messages are answered by the same client app in Ray's workers."""

from __future__ import annotations

import logging
import math
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedkd.base.disk import write_whole
from fedkd.flower import wire
from fedkd.flower.rounds import MOST
from fedkd.settings.federation import Federation
from simulations.engine.cluster import RayCluster, stored
from simulations.engine.dispatcher import Dispatcher
from simulations.engine.grid import LocalGrid, name_message
from simulations.engine.jobs import Job
from simulations.engine.lanes import Drive, Lane, divided, lanes_for
from simulations.engine.quiet import quiet
from simulations.engine.resources import check, plan
from simulations.engine.sizes import Sizes
from simulations.engine.travelling import Probe, to_send, versions
from simulations.engine.workers import Meter
from simulations.ray_settings import RaySettings

GROUPS_A_WORKER = 2
"""Groups of clients for each worker, if they are not too large. With one for each worker, workers with less work would
wait; with many, there would be many messages."""
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
        answer = job.outcome.result()
        self._contexts[job.node] = answer.context
        return answer.reply


class OnRay:
    """The engine on Ray. Its thread starts Ray and the workers, hands messages out, and ends them."""

    def __init__(
        self, app: ClientApp, settings: RaySettings, verbose: bool = False, meter: Meter | None = None
    ) -> None:
        """`meter` measures what clients need of a GPU; None: by CUDA.

        Raises:
            UserError: the cluster cannot be used, or a client is to have more CPUs or GPUs than there are.
        """
        self._settings, self._quiet = settings, quiet(verbose)
        self._cluster = RayCluster(app, settings, verbose, meter)
        try:
            if settings.address:
                self._cluster.connect()
            rooms, where = self._cluster.seen()
            check(settings, rooms, where)
        except BaseException:
            self._cluster.close()
            raise
        self.dispatcher = Dispatcher(self._cluster, Sizes(settings, max(room.gpus for room in rooms)))
        self._workers: Future[int] = Future()
        """number of workers to begin with, once Ray runs"""
        self._work: dict[str, float] = {}
        self._nonce: Path | None = None
        # A thread that lives on: Ray's processes end with the thread that started them.
        self._thread = threading.Thread(target=self._serve, name="ray", daemon=True)

    def begin(
        self, ready: Callable[[], None], federations: Sequence[Federation] = (), folder: Path | None = None
    ) -> None:
        """Start Ray and the workers, which import what they need while the caller goes on.

        `ready` is called once, from another thread, when the first worker is ready. What the workers are given follows
        from the `federations`; without any, it is the same for all. `folder` will have their results.
        """
        for federation in federations:
            for model in federation.client_models:
                kind = self.dispatcher.sizes.kind(model)
                self._work[kind] = self._work.get(kind, 0.0) + 1
        if not federations:
            self._work = {self.dispatcher.sizes.kind(""): 1.0}
        self.dispatcher.ready = ready
        if folder is not None and (self._settings.address or self._settings.shared_disk is False):
            self._prepare_to_travel(federations, folder)
        self._quiet.__enter__()
        self._thread.start()

    def workers(self) -> int:
        """Number of workers to begin with; waits until Ray runs."""
        return self._workers.result()

    def lanes(self, clients: int, federations: int) -> int:
        """Number of federations to run in parallel."""
        return lanes_for(clients, federations, self._workers.result())

    def run(self, drive: Drive, clients: int, lanes: int) -> None:
        """Run `drive` on nodes whose messages the workers answer. Whatever `drive` raises is raised here."""
        least = min(clients, GROUPS_A_WORKER * self._workers.result())
        grid = RayGrid(self, max(least, math.ceil(clients / MOST)) * lanes)
        drive([Lane(grid, nodes, self._kinds, least) for nodes in divided(grid, lanes)])

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        if self._thread.ident is not None:
            self.dispatcher.end()
            self._thread.join()
            self._quiet.__exit__(None, None, None)
        else:
            self._cluster.close()
        if self._nonce is not None:
            self._nonce.unlink(missing_ok=True)

    def job(self, message: Message, context: Context) -> Job:
        """A message as the dispatcher takes it."""
        text, _, clients = wire.header(message)
        federation = Federation.from_json(text)
        kinds = self.dispatcher.sizes.kinds(federation, clients)
        size = sum(len(array.data) for record in message.content.array_records.values() for array in record.values())
        return Job(message, context, kinds, len(clients), stored(message) if size > LARGE else message)

    def _kinds(self, federation: Federation) -> list[str]:
        """The kind of each client."""
        return [self.dispatcher.sizes.kind(model) for model in federation.client_models]

    def _prepare_to_travel(self, federations: Sequence[Federation], folder: Path) -> None:
        """Have workers look whether they see the driver's disk; what they need where they do not is known."""
        self._nonce = folder.absolute() / f".driver-{uuid.uuid4().hex}"
        write_whole(self._nonce, self._nonce.name.encode())
        paths, data = to_send(federations)
        known = tuple((str(path), path.stat().st_size) for path in (*paths, *data.values()))
        shared = None if self._settings.shared_disk == "auto" else self._settings.shared_disk
        self._cluster.probe = Probe(str(self._nonce), self._nonce.name, known, versions(), shared)
        self._cluster.travelling = paths, data

    def _serve(self) -> None:
        try:
            if not self._settings.address:
                self._cluster.connect()
            work = {self.dispatcher.sizes.needs[kind]: much for kind, much in self._work.items()}
            pool = Counter(plan(work, self._cluster.rooms()))
            for need, count in pool.items():
                logging.getLogger("flwr").info("%d workers with %s each", count, need)
            self._workers.set_result(pool.total())
            self.dispatcher.serve(self._work)
        except BaseException as error:
            if not self._workers.done():
                self._workers.set_exception(error)
        finally:
            self._cluster.close()

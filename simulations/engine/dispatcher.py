"""Hands messages to idle workers, and again to others where a worker dies. Everything is an event; nothing polls."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from flwr.app import Context, Message

from fedkd.flower.wire import stamp
from simulations.engine.grid import failed
from simulations.engine.resources import Need

ATTEMPTS = 3
"""Times that a message is handed to a worker, if the worker dies each time."""
LOST_AFTER = 5.0
"""Seconds between two checks whether the cluster can still hold a worker. They are made only when there is none."""

Outcome = tuple[Message, Context]
"""The reply to a message, and the context of its node afterwards."""


class NoWorkersError(RuntimeError):
    """No worker is left, and there is no room for another."""


@dataclass(eq=False)
class Job:
    """A message that is to be answered."""

    message: Message
    context: Context
    need: Need
    size: int
    """clients in the group"""
    outcome: Future[Outcome]
    parcel: Any
    """what is handed to the worker: the message, or a reference to it in the object store"""
    attempts: int = 0
    handed: float = 0.0
    """when a worker got it, by `time.perf_counter`"""


@dataclass(eq=False)
class Handle:
    """A worker as the dispatcher knows it."""

    actor: Any
    need: Need
    job: Job | None = None
    ready: bool = False


class Cluster(Protocol):
    """What the dispatcher needs of Ray."""

    def start(self, need: Need) -> Any:
        """A new actor."""

    def greet(self, actor: Any) -> Future[Any]:
        """Done when the actor is ready."""

    def call(self, actor: Any, parcel: Any, context: Context) -> Future[Outcome]:
        """Have an actor answer a message."""

    def kill(self, actor: Any) -> None:
        """End an actor."""

    def is_of_the_worker(self, error: BaseException) -> bool:
        """Whether an error means that the worker died, and not that its code raised."""

    def room_for(self, need: Need) -> bool:
        """Whether a living node can hold an actor."""


@dataclass(eq=False)
class Dispatcher:
    """The one queue of all lanes. All its state belongs to the thread that runs `serve`."""

    cluster: Cluster
    ready: Callable[[], None] = lambda: None
    """called once, when the first worker is ready"""
    _events: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue)
    _pending: list[Job] = field(default_factory=list)
    _workers: list[Handle] = field(default_factory=list)
    _favourites: dict[int, Handle] = field(default_factory=dict)
    """the worker that served a node last: its caches have the data of the node's clients"""
    _broken: BaseException | None = None

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have messages answered. Safe in every thread; returns at once."""
        self._events.put(partial(self._enqueue, list(jobs)))

    def end(self) -> None:
        """End `serve` after what has been submitted is handed out. Safe in every thread."""
        self._events.put(None)

    def serve(self, pool: Sequence[Need]) -> None:
        """Start a worker of each size in `pool`, and hand out messages until `end` is called."""
        for need in pool:
            self._start(need)
        while True:
            try:
                event = self._events.get(timeout=LOST_AFTER if self._stranded else None)
            except queue.Empty:
                event = self._look_for_room
            if event is None:
                break
            try:
                event()
            except Exception as error:
                self._give_up(error)
        for worker in self._workers:
            self.cluster.kill(worker.actor)

    @property
    def _stranded(self) -> bool:
        return bool(self._pending) and not any(worker.ready for worker in self._workers)

    def _enqueue(self, jobs: list[Job]) -> None:
        if self._broken is not None:
            for job in jobs:
                job.outcome.set_exception(self._broken)
            return
        # Large groups first: a small one at the end leaves the other workers idle for less time.
        self._pending += sorted(jobs, key=lambda job: -job.size)
        self._match()

    def _match(self) -> None:
        """Hand messages to idle workers: to the one that served the node last if it is idle, else to any other."""
        idle = [worker for worker in self._workers if worker.ready and worker.job is None]
        for preferred in (True, False):
            for job in list(self._pending):
                if not idle:
                    return
                favourite = self._favourites.get(job.message.metadata.dst_node_id)
                fit = [worker for worker in idle if worker.need.covers(job.need)]
                if preferred:
                    fit = [worker for worker in fit if worker is favourite]
                if fit:
                    worker = min(fit, key=lambda each: (each.need.gpus, each.need.cpus))
                    idle.remove(worker)
                    self._pending.remove(job)
                    self._hand(job, worker)

    def _hand(self, job: Job, worker: Handle) -> None:
        worker.job = job
        job.attempts += 1
        job.handed = time.perf_counter()
        self._favourites[job.message.metadata.dst_node_id] = worker
        answer = self.cluster.call(worker.actor, job.parcel, job.context)
        answer.add_done_callback(
            lambda done: self._events.put(partial(self._answered, worker, job, done, time.perf_counter()))
        )

    def _answered(self, worker: Handle, job: Job, done: Future[Outcome], back: float) -> None:
        worker.job = None
        error = done.exception()
        if error is None:
            self._match()  # first of all, the worker gets its next message
            stamp(done.result()[0], job.handed, back)
            job.outcome.set_result(done.result())
        elif self.cluster.is_of_the_worker(error):
            self._replace(worker)
            if job.attempts < ATTEMPTS:
                self._pending.insert(0, job)
            else:
                why = f"the process of its worker ended {ATTEMPTS} times while it served this client or its group"
                job.outcome.set_result((failed(job.message, why), job.context))
            self._match()
        else:
            job.outcome.set_result((failed(job.message, f"{type(error).__name__}: {error}"), job.context))
            self._match()

    def _start(self, need: Need) -> None:
        worker = Handle(self.cluster.start(need), need)
        self._workers.append(worker)
        greeting = self.cluster.greet(worker.actor)
        greeting.add_done_callback(lambda done: self._events.put(partial(self._greeted, worker, done)))

    def _greeted(self, worker: Handle, done: Future[Any]) -> None:
        error = done.exception()
        if error is None:
            if not any(each.ready for each in self._workers):
                self.ready()
                self.ready = lambda: None
            worker.ready = True
            self._match()
        elif self.cluster.is_of_the_worker(error):
            self._replace(worker)
        else:
            self._give_up(error)

    def _replace(self, worker: Handle) -> None:
        """Start another worker in place of one that died, if a node has room for it."""
        logging.getLogger("flwr").warning("a worker died")
        if worker in self._workers:
            self._workers.remove(worker)
            self.cluster.kill(worker.actor)
            self._start(worker.need)

    def _look_for_room(self) -> None:
        if self._stranded and not any(self.cluster.room_for(worker.need) for worker in self._workers):
            self._give_up(NoWorkersError("no node with room for a worker is left"))

    def _give_up(self, error: BaseException) -> None:
        self._broken = error
        busy = [worker.job for worker in self._workers if worker.job is not None]
        for job in (*self._pending, *busy):
            if not job.outcome.done():
                job.outcome.set_exception(error)
        self._pending.clear()

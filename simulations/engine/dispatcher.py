"""Hands messages to idle workers, and again to others where a worker dies. Everything is an event."""

from __future__ import annotations

import logging
import queue
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from fedkd.base.errors import UserError
from fedkd.flower.wire import out_of_memory, stamp, trained
from simulations.engine.grid import failed
from simulations.engine.jobs import Cluster, Handle, Job, NoWorkersError, first
from simulations.engine.resources import Need, plan
from simulations.engine.sizes import Sizes
from simulations.engine.workers import Answered

ATTEMPTS = 3
"""Times that a message is handed to a worker, if the worker dies each time."""
CHECK = 5.0
"""Seconds without an event until it is checked which nodes there are: in a cluster, or where no worker is left."""
PATIENCE = 600.0
"""Seconds to wait for a worker where there is none: a cluster may be full, or growing."""


@dataclass(eq=False)
class Dispatcher:
    """The one queue of all lanes. All its state belongs to the thread that runs `serve`."""

    cluster: Cluster
    sizes: Sizes
    ready: Callable[[], None] = lambda: None
    """called once, when the first worker is ready"""
    _events: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue)
    _pending: list[Job] = field(default_factory=list)
    _workers: list[Handle] = field(default_factory=list)
    _favourites: dict[int, Handle] = field(default_factory=dict)
    """the worker that served a node last: its caches have the data of the node's clients"""
    _work: dict[frozenset[str], float] = field(default_factory=dict)
    """how much there is to do, by kinds"""
    _broken: BaseException | None = None
    _stillborn: int = 0
    """workers that died before they were ready, since one was"""
    _waiting: float = 0.0
    """seconds without any worker"""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have messages answered. Safe in every thread; returns at once."""
        self._events.put(partial(self._enqueue, list(jobs)))

    def end(self) -> None:
        """End `serve`. Safe in every thread."""
        self._events.put(None)

    def serve(self, work: Mapping[str, float]) -> None:
        """Start workers for the kinds in `work`, and hand out messages until `end` is called."""
        self._work = {frozenset([kind]): much for kind, much in work.items()}
        self._attempt(self._fit)
        while True:
            try:
                event = self._events.get(timeout=CHECK if self._stranded or self.cluster.changes else None)
            except queue.Empty:
                event = self._look_around
            if event is None:
                break
            self._attempt(event)
        for worker in self._workers:
            self.cluster.kill(worker.actor)

    def _attempt(self, event: Callable[[], None]) -> None:
        try:
            event()
        except Exception as error:
            self._give_up(error)

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
        for job in jobs:
            need = self.sizes.of(job.kinds)
            if not any(worker.need.covers(need) for worker in self._workers):
                self._work[job.kinds] = 1.0
                self._fit()
        self._match()

    def _match(self) -> None:
        """Hand messages to idle workers: to the one that served the node last if it is idle, else to any other."""
        idle = [worker for worker in self._workers if worker.ready and worker.job is None]
        for preferred in (True, False):
            for job in list(self._pending):
                if not idle:
                    return
                need, favourite = self.sizes.of(job.kinds), self._favourites.get(job.node)
                fit = [each for each in idle if each.need.covers(need) and (not preferred or each is favourite)]
                if fit:
                    worker = min(fit, key=lambda each: each.need)
                    idle.remove(worker)
                    self._pending.remove(job)
                    self._hand(job, worker)

    def _hand(self, job: Job, worker: Handle) -> None:
        worker.job, job.handed = job, time.perf_counter()
        job.attempts += 1
        self._favourites[job.node] = worker
        answer = self.cluster.call(worker.actor, job, worker.distant)
        answer.add_done_callback(
            lambda done: self._events.put(partial(self._answered, worker, job, done, time.perf_counter()))
        )

    def _answered(self, worker: Handle, job: Job, done: Future[Answered], back: float) -> None:
        worker.job = None
        error = done.exception()
        if error is None:
            self._back(worker, job, done.result(), back)
        elif self.cluster.is_of_the_worker(error):
            if job.attempts < ATTEMPTS:
                self._pending.insert(0, job)
            else:
                clients = "these clients" if job.size > 1 else "this client"
                why = f"the process that served {clients} ended abruptly, {ATTEMPTS} times in a row: {first(error)}"
                _fulfil(job, Answered(failed(job.message, why), job.context))
            self._remove(worker)
            self._fit()
        else:
            why = f"{type(error).__name__}: {first(error)}"
            _fulfil(job, Answered(failed(job.message, why), job.context))
        self._match()

    def _back(self, worker: Handle, job: Job, answer: Answered, back: float) -> None:
        """A reply has come. One that tells of too little GPU memory is thrown away, if less clients can share one."""
        if worker.need.gpus and out_of_memory(answer.reply):
            outdated = worker.need.gpus < self.sizes.of(job.kinds).gpus
            if outdated or self.sizes.halve(job.kinds):
                job.attempts = 0
                self._pending.insert(0, job)
                self._remove(worker)  # with all the memory that it holds
                self._fit()
                return
        if worker.leaving:
            self._remove(worker)
        if answer.used and trained(answer.reply):
            changes = [self.sizes.measure(kind, answer.used) for kind in job.kinds]
            if any(changes):
                self._fit()
        self._match()  # before anything else, the worker gets its next message
        stamp(answer.reply, job.handed, back)
        _fulfil(job, answer)

    def _fit(self) -> None:
        """Start and end workers, so that they are those for which there is room and work now."""
        work: dict[Need, float] = {}
        for kinds, much in self._work.items():
            need = self.sizes.of(kinds)
            work[need] = work.get(need, 0.0) + much
        try:
            missing = Counter(plan(work, self.cluster.rooms()))
        except UserError as error:
            raise NoWorkersError(str(error)) from error
        for worker in sorted(self._workers, key=lambda each: (not each.ready, each.job is None)):
            worker.leaving = missing[worker.need] == 0
            missing[worker.need] -= not worker.leaving
            if worker.leaving and worker.job is None:
                self._remove(worker)
        for need in missing.elements():
            self._start(need)

    def _start(self, need: Need) -> None:
        worker = Handle(self.cluster.start(need), need)
        self._workers.append(worker)
        greeting = self.cluster.greet(worker.actor)
        greeting.add_done_callback(lambda done: self._events.put(partial(self._greeted, worker, done)))

    def _greeted(self, worker: Handle, done: Future[bool]) -> None:
        if worker not in self._workers:
            return  # it has been ended while it started
        error = done.exception()
        if error is None:
            worker.ready, worker.distant = True, done.result()
            self._stillborn, self._waiting = 0, 0.0
            self.ready()
            self.ready = lambda: None
            self._match()
        elif self.cluster.is_of_the_worker(error) and self._stillborn < ATTEMPTS:
            self._stillborn += 1
            self._remove(worker)
            self._fit()
        else:
            raise NoWorkersError(f"a worker cannot start: {first(error)}")

    def _remove(self, worker: Handle) -> None:
        logging.getLogger("flwr").info("a worker ends")
        self._workers.remove(worker)
        self.cluster.kill(worker.actor)

    def _look_around(self) -> None:
        """Use nodes that have come, and do not wait for those that have gone."""
        self._waiting += CHECK if self._stranded else 0.0
        self._fit()
        if self._waiting > PATIENCE:
            raise NoWorkersError(f"no worker has started within {PATIENCE:.0f} s; is the cluster in use by others?")

    def _give_up(self, error: BaseException) -> None:
        self._broken = error
        busy = [worker.job for worker in self._workers if worker.job is not None]
        for job in (*self._pending, *busy):
            if not job.outcome.done():
                job.outcome.set_exception(error)
        self._pending.clear()


def _fulfil(job: Job, answer: Answered) -> None:
    if not job.outcome.done():  # it is when the study has been given up
        job.outcome.set_result(answer)

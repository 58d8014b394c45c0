"""The runtimes: Flower's simulation on Ray, and Flower inline in one process.

Both provide *lanes*: a Flower grid and some of its nodes, each of which serves a group of clients. A lane runs one
federation at a time. Lanes run in parallel, so that workers stay busy during the fixed waits between messages. All code
that uses a deprecated or private part of Flower or Ray is in this file.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedkd.base.errors import UserError
from fedkd.flower.strategy import wait_for_nodes
from fedkd.flower.wire import stamp
from simulations.ray_settings import RaySettings

CLIENT_RAISED = 2
"""Flower's code for an error reply of a client that raised."""
GROUPS_A_WORKER = 2
"""Nodes of a lane for each worker. Each serves a group of clients. With one node for each worker, workers with less
work would wait; with many, the overhead of Flower grows."""
MOST_CLIENTS = 400
"""Clients whose messages are in flight at once, in all lanes together: the driver holds them in memory."""


@dataclass(frozen=True)
class Lane:
    """A part of a grid that runs one federation at a time."""

    grid: Grid
    nodes: list[int]


Drive = Callable[[list[Lane]], None]
"""Uses the lanes; the runtime ends when it returns."""


def check_resources(settings: RaySettings) -> None:
    """Raise UserError if one client needs more CPUs or GPUs than there are: Ray would wait forever.

    The limit is that of the cluster if Ray is connected to one, else that of this machine.
    """
    import torch

    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        resources, where = ray.cluster_resources(), "Ray's cluster"
        there = {"num_cpus": resources.get("CPU", 0.0), "num_gpus": resources.get("GPU", 0.0)}
    else:
        there, where = {"num_cpus": _cpus(), "num_gpus": torch.cuda.device_count()}, "this machine"
    for key, available in there.items():
        asked, what = getattr(settings, key), key[4:].upper().rstrip("S") + "s"
        if asked > available:
            has = f"has {available:g}" if available else "has none"
            raise UserError(f"recipe key 'ray.{key}': each client is to have {asked:g} {what}, but {where} {has}")
    if settings.num_gpus > 1 and settings.num_gpus % 1:
        raise UserError(f"recipe key 'ray.num_gpus': {settings.num_gpus:g}; above 1, only whole GPUs can be given")


def lanes_for(clients: int, federations: int, settings: RaySettings) -> int:
    """Number of federations to run in parallel: twice the number of workers, as far as memory allows."""
    workers = _workers(settings)
    return max(1, min(2 * workers, federations, MOST_CLIENTS // clients))


def _workers(settings: RaySettings) -> int:
    return max(1, int(_cpus() / settings.num_cpus))


def on_ray(app: ClientApp, drive: Drive, clients: int, lanes: int, settings: RaySettings, verbose: bool) -> None:
    """Run `drive` on Flower's simulation runtime: virtual nodes whose messages are handled by Ray actors.

    A worker that dies is restarted and its message handled again: clients write no state that a second handling
    would read. Whatever `drive` raises is raised here.
    """
    _prepare_ray()
    from flwr.simulation import run_simulation

    nodes = min(clients, GROUPS_A_WORKER * _workers(settings))
    failure: list[BaseException] = []
    finished: list[bool] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        try:
            # By default Flower checks for replies every tenth of a second, which is longer than many rounds take.
            vars(grid)["pull_interval"] = 0.01
            connected = wait_for_nodes(grid, nodes * lanes)
            drive([Lane(grid, connected[lane * nodes : (lane + 1) * nodes]) for lane in range(lanes)])
            finished.append(True)
        except BaseException as error:
            failure.append(error)

    resources = {
        "num_cpus": settings.num_cpus,
        "num_gpus": settings.num_gpus,
        "max_restarts": -1,
        "max_task_retries": 3,
    }
    with _quiet(verbose):
        _start_ray(verbose)
        run_simulation(
            server,
            app,
            num_supernodes=nodes * lanes,
            backend_config={"client_resources": resources},  # type: ignore[dict-item]
            verbose_logging=verbose,
        )
    if failure:
        raise failure[0]
    if not finished:
        raise RuntimeError("Flower's simulation ended before the study did; --verbose shows its log")


def _prepare_ray() -> None:
    """Set the environment variables that Ray and its workers read when they are imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    # Workers without a GPU must not see one, because a client uses every GPU it sees. Ray will change its default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)


def _start_ray(verbose: bool) -> None:
    """Start Ray without a runtime environment, which halves the start of workers, and without its log lines."""
    import ray
    from flwr.simulation.ray_transport.ray_actor import ClientAppActor

    if not ray.is_initialized():
        ray.init(
            num_cpus=_cpus(),
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
        )
    # Ray prints about workers that it restarts, without any logger.
    ray._private.worker._worker_logs_enabled = verbose
    # Calls of a client are tried again, but not its normal end: Ray would report that as a failed task.
    vars(ClientAppActor)["__ray_metadata__"].method_meta.max_task_retries["terminate"] = 0


def inline(app: ClientApp, drive: Drive, clients: int, lanes: int, verbose: bool) -> None:
    """Run `drive` in this process, without Ray: the same apps, numbers and failures, for debugging and tests."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    grid = InlineGrid(app, clients * lanes)  # in one process a node costs nothing, and replies come one by one
    nodes = sorted(grid.get_node_ids())
    with _quiet(verbose):
        drive([Lane(grid, nodes[lane * clients : (lane + 1) * clients]) for lane in range(lanes)])


class InlineGrid(Grid):
    """A Flower grid whose nodes answer in the caller's thread."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        self._app = app
        self._run = Run.create_empty(run_id=uuid.uuid4().int >> 65)
        self._run.federation_id = NOOP_FEDERATION_ID
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, self._run.run_id, 1
        self._contexts = {
            node: Context(
                run_id=self._run.run_id,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": nodes},
                state=RecordDict(),
                run_config={},
            )
            for node in range(1, nodes + 1)
        }
        self._unanswered: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        return Message(*arguments, **named)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def get_nodes(self) -> Iterable[Any]:
        return []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            name = str(uuid.uuid4())
            vars(message.metadata)["_message_id"] = name
            self._unanswered[name] = message
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """At most one reply, to the oldest message: its node answers now, in the caller's thread."""
        asked = set(message_ids)
        first = next((name for name in self._unanswered if name in asked), None)
        return [] if first is None else [self._answer(self._unanswered.pop(first))]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        del timeout  # a node that answers in the caller's thread cannot be abandoned
        ids = list(self.push_messages(messages))
        return [reply for name in ids for reply in self.pull_messages([name])]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        # As between processes, a failing client leaves its context untouched.
        context, handed = copy.deepcopy(self._contexts[node]), time.perf_counter()
        try:
            reply = self._app(message, context)
        except Exception as error:
            logging.getLogger("flwr").error("client on node %d failed", node, exc_info=error)
            return Message(Error(code=CLIENT_RAISED, reason=f"{type(error).__name__}: {error}"), reply_to=message)
        self._contexts[node] = context
        stamp(reply, handed, time.perf_counter())
        return reply


@contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Silence Flower's logger unless `verbose`, because the study itself reports failures."""
    logger = logging.getLogger("flwr")
    before = logger.level
    if not verbose:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""What a round of 20 clients that do nothing costs on Ray, against bare calls of Ray actors.

    python -m benchmarks.transport [--clients 20]

An exchange sends one message to each group of clients and waits for all replies. It is measured with one, two and four
groups a worker, interleaved with as many bare actor calls. Milliseconds are the machine's; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedkd.flower import wire
from fedkd.flower.rounds import groups
from fedkd.knowledge.knowledge import Knowledge
from fedkd.settings.federation import Federation
from simulations.engine import Lane, on_ray
from simulations.engine.on_ray import OnRay
from simulations.ray_settings import RaySettings

EXCHANGES = 60
"""of each kind, in each repeat"""
REPEATS = 5


def idle(message: Message, context: Context) -> Message:
    """A node that does nothing."""
    del context
    return Message(RecordDict(), reply_to=message)


class Idle(ClientApp):
    """A client app whose clients do nothing; it is pickled by its name."""

    def __call__(self, message: Message, context: Context) -> Message:
        return idle(message, context)


def milliseconds(work: Callable[[], object]) -> float:
    """Median time of one call."""
    times = []
    for _ in range(EXCHANGES):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def exchange(lane: Lane, federation: Federation) -> Callable[[], object]:
    """One empty exchange of all clients on a lane."""
    shared = groups([(client,) for client in range(federation.clients)], lane.nodes, federation.clients)

    def once() -> None:
        messages = []
        for node, clients in shared.items():
            request = wire.Request(federation.to_json(), 1, {client: Knowledge() for client in clients})
            messages.append(Message(request.content(), node, wire.TRAIN))
        replies = list(lane.grid.send_and_receive(messages))
        assert len(replies) == len(messages)

    return once


def bare(count: int, calls: int) -> Callable[[], object]:
    """As many calls of actors that do nothing, in turn, without fedkd or Flower."""
    import ray

    class Nothing:
        def call(self, given: bytes) -> bytes:
            return given

    made: Any = ray.remote(Nothing)
    actors = [made.options(num_cpus=0).remote() for _ in range(count)]
    ray.get([actor.call.remote(b"") for actor in actors])
    return lambda: ray.get([actors[call % count].call.remote(b"") for call in range(calls)])


def spread(values: Sequence[float]) -> str:
    """The median, and the smallest and largest."""
    return f"{statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    federation = Federation("kd", clients=parser.parse_args().clients)
    engine = OnRay(Idle(), RaySettings())
    engine.begin(lambda: None)
    works: dict[int, Callable[[], object]] = {}
    count = engine.workers()
    for each in (1, 2, 4):
        on_ray.GROUPS_A_WORKER = each
        engine.run(
            lambda lanes, each=each: works.update({each: exchange(lanes[0], federation)}),  # type: ignore[misc]
            federation.clients,
            1,
        )
    floors = {each: bare(count, min(federation.clients, each * count)) for each in works}
    for work in (*works.values(), *floors.values()):
        work()
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(REPEATS):
        for each in works:
            times.setdefault(("fedkd", each), []).append(milliseconds(works[each]))
            times.setdefault(("bare", each), []).append(milliseconds(floors[each]))
    for each in works:
        ours, floor = times["fedkd", each], times["bare", each]
        ratios = [one / other for one, other in zip(ours, floor, strict=True)]
        print(
            f"{federation.clients} idle clients, {count} workers, {each} groups a worker: "
            f"{spread(ours)} ms a round; bare calls {spread(floor)} ms; ratio {spread(ratios)}"
        )
    engine.close()


if __name__ == "__main__":
    main()

"""What a search costs: the default grid of tuned_kd on one quickstart federation, with nothing cached.

    python -m benchmarks.tuning [METHOD …]

Prints the seconds of the start, the search and the rounds on the inline engine with one torch thread, and how a step
of the search compares with a step of the rounds, messages, state and evaluation included in both. METHODs are spec
strings of other searches.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Message

from fedkd import Federation, Training
from fedkd.flower import wire
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.protocol.client import set_up_process
from fedkd.protocol.schedule import schedule_of
from fedkd.tuning.search import Search
from simulations.data import load_holdings
from simulations.engine import InlineGrid


class Clock(InlineGrid):
    """A grid that notes when each exchange begins, and how many steps its clients took."""

    def __init__(self, clients: int) -> None:
        super().__init__(client_app(load_holdings), clients)
        self.began: list[float] = []
        self.steps: list[float] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        self.began.append(time.perf_counter())
        replies = list(super().send_and_receive(messages, timeout=timeout))
        answers = [reply for message in replies for reply in wire.Answer.read(message.content).replies.values()]
        measured = [answer.metrics for answer in answers]
        self.steps.append(sum(one["", "steps"] + one.get(("", "tuning_steps"), 0.0) for one in measured))
        return replies


def measured(method: str, partition: str) -> str:
    """One line about a search."""
    federation = Federation(method, partition=partition, clients=10, rounds=10, train=Training(lr=0.02))
    built = schedule_of(federation).method
    assert isinstance(built, Search), f"{method} has no search"
    tried: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEDKD_CACHE"] = f"{folder}/cache"
        clock = Clock(federation.clients)
        Rounds(federation, load_holdings, Path(folder)).start(
            clock,
            sorted(clock.get_node_ids()),
            lambda _, rows: tried.update(metric for *_, metric, _ in rows if metric.startswith("tuning_accuracy/")),
        )
        ended = time.perf_counter()
    first = 1 + built.preparations
    search, rounds = clock.began[first] - clock.began[1], ended - clock.began[first]
    steps = sum(clock.steps[1:first])
    each, usual = search / steps, rounds / sum(clock.steps[first:])
    return (
        f"{method}: start {clock.began[1] - clock.began[0]:.1f} s, search {search:.1f} s, rounds {rounds:.1f} s; "
        f"{len(tried)} cells, {steps:.0f} steps of {1e3 * each:.2f} ms, {each / usual:.2f} of a step of the rounds"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=["tuned_kd"], metavar="METHOD")
    parser.add_argument("--partition", default="dirichlet(alpha=0.5)")
    arguments = parser.parse_args()
    set_up_process()
    print(f"digits, 10 clients, cnn, {arguments.partition}, 10 rounds; {os.cpu_count()} cores")
    for method in arguments.methods:
        print(measured(method, arguments.partition))


if __name__ == "__main__":
    main()

"""Flower alone: its own simulation on Ray, its own FedAvg, and a client as its tutorial writes it.

python -m benchmarks.peers.flower --job A --data mnist.npz
"""

from __future__ import annotations

import logging
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.job import JOBS, Measured, absent, arguments, network, shares, tensors

Parts = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]


@cache
def parts(job: str, data: str, client: int) -> Parts:
    """One client's training and test tensors, made once in a worker."""
    held = _held(job, data)
    return tensors(held.train[client]), tensors(held.test[client]) if held.test else None


@cache
def _held(job: str, data: str) -> Any:
    return shares(job, Path(data) if data else None)


def train(message: Any, context: Any) -> Any:
    """One epoch from the server's model, and an evaluation on the client's own test part."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

    torch.set_num_threads(1)
    job, data = str(message.content["config"]["job"]), str(message.content["config"]["data"])
    (x, y), test = parts(job, data, int(context.node_config["partition-id"]))
    model = network(job)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=JOBS[job].lr)
    for batch in torch.split(torch.randperm(len(y)), JOBS[job].batch):
        optimiser.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    metrics: dict[str, int | float | list[int] | list[float]] = {"num-examples": len(y), "right": 0.0}
    if test is not None:
        model.eval()
        with torch.inference_mode():
            pairs = zip(torch.split(test[0], 64), torch.split(test[1], 64), strict=True)
            # Flower's mean is weighted with the training images: what is sent makes it a sum over all clients.
            metrics["right"] = sum(int((model(a).argmax(1) == b).sum()) for a, b in pairs) / len(y)
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=message)


def main() -> None:
    began = time.perf_counter()
    asked = arguments(__doc__)
    os.environ["RAY_ADDRESS"] = "local"  # not a cluster that happens to run on this machine
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's workers import what they run by name, and have another main module.
    from benchmarks.peers.flower import train as importable

    try:
        from flwr.app import ArrayRecord, ConfigRecord
        from flwr.clientapp import ClientApp
        from flwr.serverapp import Grid, ServerApp
        from flwr.serverapp.strategy import FedAvg
        from flwr.simulation import run_simulation
    except ImportError as error:
        absent(f"it is not installed: pip install 'flwr[simulation]' ({error})")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    terms, held = JOBS[asked.job], shares(asked.job, asked.data)
    samples, tests = sum(len(y) for _, y in held.train), sum(len(y) for _, y in held.test)
    begins: list[float] = []
    ends: list[float] = []
    right: list[float] = []

    class Timed(FedAvg):
        def configure_train(self, *given: Any, **named: Any) -> Any:
            begins.append(time.perf_counter())
            return super().configure_train(*given, **named)

        def aggregate_train(self, *given: Any, **named: Any) -> Any:
            arrays, metrics = super().aggregate_train(*given, **named)
            if metrics is None:
                raise SystemExit("no client of Flower's answered")
            ends.append(time.perf_counter())
            right.append(float(metrics["right"]) * samples)  # type: ignore[arg-type]
            return arrays, metrics

    client, server = ClientApp(), ServerApp()
    client.train()(importable)

    @server.main()
    def serve(grid: Grid, context: Any) -> None:
        del context
        data = "" if asked.data is None else str(asked.data.absolute())
        Timed(fraction_evaluate=0.0, min_available_nodes=terms.clients, min_train_nodes=terms.clients).start(
            grid=grid,
            initial_arrays=ArrayRecord(network(asked.job).state_dict()),
            num_rounds=asked.rounds,
            train_config=ConfigRecord({"job": asked.job, "data": data}),
        )

    backend: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, num_supernodes=terms.clients, backend_config=backend)
    if len(ends) < asked.rounds:
        raise SystemExit("Flower's simulation ended before the last round")
    Measured(
        "Flower alone", asked.job, [end - begin for begin, end in zip(begins, ends, strict=True)], samples,
        right[-1] / tests if tests else None, "one Ray actor of one thread a core",
        "each client's model after its steps, on its own test part, in batches of 64" if tests else "nothing",
        begins[0] - began, ["float32"],
    ).said()  # fmt: skip


if __name__ == "__main__":
    main()

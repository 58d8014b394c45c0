"""pfl-research (pip install pfl), in two processes of one thread started by torch.distributed.

python -m benchmarks.peers.pfl_research --job B
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.job import JOBS, Measured, absent, arguments, network, shares, tensors

WORKERS = 2


class Network(nn.Module):
    """The network of a job with the two functions that pfl asks of a model."""

    def __init__(self, job: str) -> None:
        super().__init__()
        self.body = network(job)

    def loss(self, x: Tensor, y: Tensor, eval: bool = False) -> Tensor:
        self.eval() if eval else self.train()
        return F.cross_entropy(self.body(x), y)

    def metrics(self, x: Tensor, y: Tensor, eval: bool = True) -> dict[str, Any]:
        from pfl.metrics import Weighted

        del eval
        self.eval()
        right = int((self.body(x).argmax(1) == y).sum())
        return {"accuracy": Weighted(right, len(y))}


def launched() -> None:
    """Start this module again in two processes; the first of them prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PFL_PYTORCH_DEVICE": "cpu"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
    done = subprocess.run([*command, "-m", "benchmarks.peers.pfl_research", *sys.argv[1:]], env=environment)
    raise SystemExit(done.returncode)


def federated(job: str, parts: list[Any]) -> Any:
    """pfl's federated data set of all clients."""
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler

    held = [tensors(part) for part in parts]
    sizes = {client: len(y) for client, (_, y) in enumerate(held)}

    def one(client: int) -> Dataset:
        x, y = held[client]
        order = torch.randperm(len(y)) if job == "A" else slice(None)
        return Dataset(raw_data=[x[order], y[order]], user_id=str(client))

    return FederatedDataset(one, get_user_sampler("minimize_reuse", list(sizes)), user_id_to_weight=sizes)


def main() -> None:
    began = time.perf_counter()
    asked = arguments(__doc__)
    if importlib.util.find_spec("pfl") is None:
        absent("it is not installed: pip install pfl")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        launched()
    torch.set_num_threads(1)
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.internal.ops import get_ops
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    terms, held = JOBS[asked.job], shares(asked.job, asked.data)
    torch_model = Network(asked.job)
    model = PyTorchModel(torch_model, torch.optim.SGD, torch.optim.SGD(torch_model.parameters(), 1.0))
    train = federated(asked.job, held.train)
    test = federated(asked.job, held.test) if held.test else train
    ends: list[float] = []
    accuracies: list[float] = []

    class Clock(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
            del model, central_iteration
            ends.append(time.perf_counter())
            for name, value in aggregate_metrics:
                if "accuracy" in str(name) and "val" in str(name).lower():
                    accuracies.append(float(value.overall_value if hasattr(value, "overall_value") else value))
            return False, Metrics()

    evaluated = len(held.test)
    started = time.perf_counter() - began
    ends.append(time.perf_counter())
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=asked.rounds,
            evaluation_frequency=1 if evaluated else asked.rounds + 1,
            train_cohort_size=terms.clients,
            val_cohort_size=evaluated,
        ),
        backend=SimulatedBackend(training_data=train, val_data=test, postprocessors=[WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_learning_rate=terms.lr, local_num_epochs=1, local_batch_size=terms.batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=64),
        callbacks=[Clock()],
    )
    if get_ops().distributed.global_rank == 0:
        Measured(
            "pfl-research", asked.job, [after - before for before, after in itertools.pairwise(ends)],
            sum(len(y) for _, y in held.train), accuracies[-1] if accuracies else None,
            f"{WORKERS} processes of one thread", "the server's model before the round, on each client's own test part"
            if evaluated else "nothing", started, ["float32"],
        ).said()  # fmt: skip


if __name__ == "__main__":
    main()

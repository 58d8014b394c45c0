"""BlazeFL (pip install blazefl tqdm, Python 3.12 or newer), its pool of two processes: job B.

python -m benchmarks.peers.blazefl --job B
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.job import JOBS, Measured, absent, arguments, network, shares, tensors

WORKERS = 2


class Name(StrEnum):
    JOB = "B"


class Networks:
    """BlazeFL's choice of a model."""

    def select_model(self, model_name: Any) -> nn.Module:
        torch.set_num_threads(1)  # called first in a worker
        return network(str(model_name))


class Images:
    """BlazeFL's partitioned data set: a file a client, as in its examples."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for client, part in enumerate(shares("B", None).train):
            torch.save(tensors(part), folder / f"{client}.pt")

    def get_dataset(self, type_: Any, cid: int | None) -> Any:
        del type_
        return TensorDataset(*torch.load(self._folder / f"{cid}.pt"))

    def set_dataset(self, type_: Any, cid: int | None, dataset: Any) -> None:
        """Nothing changes."""

    def get_dataloader(self, type_: Any, cid: int | None, batch_size: int | None, generator: Any) -> Any:
        return DataLoader(self.get_dataset(type_, cid), batch_size, shuffle=True, generator=generator)


def main() -> None:
    began = time.perf_counter()
    asked = arguments(__doc__)
    if asked.job != "B":
        absent("its trainers evaluate no client, so that job A would not be the same work")
    if importlib.util.find_spec("blazefl") is None:
        absent("it is not installed: pip install blazefl tqdm, for Python 3.12 or newer")
    from blazefl.contrib.fedavg import FedAvgBaseServerHandler, FedAvgProcessPoolClientTrainer
    from blazefl.core import IPCMode

    terms = JOBS["B"]
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "model_selector": Networks(), "model_name": Name.JOB, "dataset": Images(Path(folder)),
            "num_clients": terms.clients, "device": "cpu", "batch_size": terms.batch, "seed": 0,
        }  # fmt: skip
        server = FedAvgBaseServerHandler(global_round=asked.rounds, sample_ratio=1.0, **common)
        trainer = FedAvgProcessPoolClientTrainer(
            share_dir=Path(folder) / "share", state_dir=Path(folder) / "state", epochs=1, lr=terms.lr,
            num_parallels=WORKERS, ipc_mode=IPCMode.STORAGE, **common,
        )  # fmt: skip
        started, seconds = time.perf_counter() - began, []
        for _ in range(asked.rounds):
            begins = time.perf_counter()
            clients = server.sample_clients()
            trainer.local_process(server.downlink_package(), clients)
            for package in trainer.uplink_package():
                server.load(package)
            seconds.append(time.perf_counter() - begins)
    Measured(
        "BlazeFL", "B", seconds, terms.clients * 60, None, f"{WORKERS} processes of one thread", "nothing", started,
        ["float32"],
    ).said()  # fmt: skip


if __name__ == "__main__":
    mp.set_start_method("fork")  # a new pool is made in every round; only CUDA needs the slower "spawn"
    main()

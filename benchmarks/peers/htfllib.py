"""HtFLlib (github.com/TsingZ0/HtFLlib), run from a checkout of it: job A.

    python -m benchmarks.peers.htfllib --htfllib FOLDER --data mnist.npz

HtFLlib has no FedAvg. Its own base classes have all parts of it: the local training of `clientLocal`, the reading and
writing of models, the evaluation on a client's own test part, and the weighted mean of whole models. Here they are
called in the order of FedAvg.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.peers.job import CLASSES, JOBS, Measured, Shares, absent, arguments, shares

MODEL = "FedAvgCNN(in_features=1, num_classes=args.num_classes, dim=1024)"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--htfllib", type=Path, help="a checkout of HtFLlib")


def write(held: Shares, folder: Path) -> None:
    """The files that HtFLlib reads: one archive a client and part, pixels in [-1, 1] as its own preparation makes."""
    for kind, parts in (("train", held.train), ("test", held.test)):
        (folder / kind).mkdir(parents=True)
        for client, (images, labels) in enumerate(parts):
            pixels = images[:, None].astype(np.float32) / 127.5 - 1
            content: Any = {"x": pixels, "y": labels}
            np.savez(folder / kind / f"{client}.npz", data=np.array(content, dtype=object))


def settings(rounds: int) -> SimpleNamespace:
    """HtFLlib's arguments: its defaults, and what the job says."""
    terms = JOBS["A"]
    return SimpleNamespace(
        device="cpu", dataset="stored", num_classes=CLASSES, global_rounds=rounds, local_epochs=1,
        batch_size=terms.batch, local_learning_rate=terms.lr, num_clients=terms.clients, join_ratio=1.0,
        random_join_ratio=False, few_shot=0, algorithm="FedAvg", time_select=False, goal="test", time_threthold=10000,
        top_cnt=100, auto_break=False, save_folder_name="temp", eval_gap=1, client_drop_rate=0.0, train_slow_rate=0.0,
        send_slow_rate=0.0, feature_dim=512, models_folder_name="", models=[MODEL],
    )  # fmt: skip


def federation(rounds: int) -> tuple[list[float], int, float]:
    """(seconds of each round, training images a round, accuracy after the last one); the working folder is `system`."""
    from flcore.clients.clientbase import load_item, save_item
    from flcore.clients.clientlocal import clientLocal
    from flcore.servers.serverbase import Server

    class Client(clientLocal):  # type: ignore[misc]
        def set_parameters(self) -> None:
            save_item(
                load_item("Server", "global_model", self.save_folder_name), self.role, "model", self.save_folder_name
            )

    server = Server(settings(rounds), 0)
    server.set_slow_clients()
    server.set_clients(Client)
    first = load_item(server.clients[0].role, "model", server.save_folder_name)
    weights = sum(parameter.numel() for parameter in first.parameters())
    assert weights == JOBS["A"].weights, weights
    save_item(first, "Server", "global_model", server.save_folder_name)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        server.selected_clients = server.select_clients()
        server.send_parameters()
        for client in server.selected_clients:
            client.train()
        server.evaluate()
        server.receive_ids()
        server.aggregate_parameters()
        seconds.append(time.perf_counter() - began)
    batch = server.batch_size
    return seconds, sum(c.train_samples // batch * batch for c in server.clients), server.rs_test_acc[-1]


def main() -> None:
    began = time.perf_counter()
    asked = arguments(__doc__, options)
    if asked.job != "A":
        absent("it splits a network into a base and a head named fc, which the network of job B does not have")
    if asked.htfllib is None or not (asked.htfllib / "system" / "flcore").is_dir():
        absent("no checkout of it: give one with --htfllib FOLDER")
    held = shares("A", asked.data)
    # Its models are saved as whole objects, which torch reads by default no longer.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    sys.path.insert(0, str((asked.htfllib / "system").absolute()))
    with tempfile.TemporaryDirectory() as folder:
        write(held, Path(folder) / "dataset" / "stored")
        (Path(folder) / "system").mkdir()
        os.chdir(Path(folder) / "system")
        try:
            import flcore.servers.serverbase  # noqa: F401
        except ImportError as error:
            absent(f"it does not import: {error}")
        import torch

        started = time.perf_counter() - began
        seconds, images, accuracy = federation(asked.rounds)
        os.chdir("/")
    Measured(
        "HtFLlib", "A", seconds, images, accuracy, f"1 process, torch's {torch.get_num_threads()} threads",
        "each client's model after its steps, on its own test part, in batches of 64: accuracy and AUC", started,
        ["no shuffling, and the last incomplete batch of each client is left out, as in its loader; float32"],
    ).said()  # fmt: skip


if __name__ == "__main__":
    main()

"""The measurements of `benchmarks/gpu.py`, each a generator of lines `what | measured`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.spread import Spread, ratios
from benchmarks.timed import Timing, started, timed
from fedkd.flower.apps import client_app
from fedkd.models import build_model
from fedkd.node.holdings import Holdings
from fedkd.node.node import SERVER
from fedkd.protocol.client import set_up_process
from fedkd.settings.federation import Federation
from fedkd.tensors.compute import Compute
from fedkd.tensors.samples import Data
from fedkd.training.augment import augmentation as changes
from simulations.engine import Drive, InlineGrid, Lane
from simulations.ray_settings import RaySettings
from simulations.recipe import expand, known_keys

SHAPE = (3, 32, 32)
TOLERANCE = {"accuracy": 0.02, "loss": 0.02}
"""how far a measurement on the GPU may lie from that on the CPU after two rounds; sums are in another order there"""
MODELS = ("fedavg_cnn", "resnet8")
ALL = -1
"""stands for the number of clients"""
VARIANTS: dict[str, dict[str, Any]] = {
    "one by one": {},
    "one by one, bfloat16": {"train.precision": "bfloat16"},
    "one by one, compiled": {"train.compile": True},
    "stacked": {"train.stack": ALL},
    "stacked, bfloat16": {"train.stack": ALL, "train.precision": "bfloat16"},
    "stacked, compiled": {"train.stack": ALL, "train.compile": True},
}


@dataclass(frozen=True)
class Setting:
    """Where and how much is measured."""

    device: torch.device
    quick: bool

    @property
    def repeats(self) -> int:
        return 1 if self.quick else 3

    @property
    def clients(self) -> int:
        return 2 if self.quick else 32

    def name(self) -> str:
        """What the device is called."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU, no GPU"

    def seconds(self, work: Callable[[], object]) -> list[float]:
        """Seconds of each of several repeats, after one that is not counted; all of the device's work included."""
        times = []
        for _ in range(1 + self.repeats):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return times[1:]

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class OneNode:
    """An engine in this process whose only node serves all clients, as one worker with a GPU does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        set_up_process()

    def run(self, drive: Drive, clients: int, lanes: int) -> None:
        """Run `drive` on this device."""
        del clients, lanes
        grid = InlineGrid(client_app(random_images), 1)
        with patch("fedkd.protocol.client.best_device", lambda: self._device):
            drive([Lane(grid, sorted(grid.get_node_ids()))])


def random_images(federation: Federation, client: int) -> Holdings:
    """Images of ten classes with means of their own: 64 a client, 16 for transfer and 64 for testing."""
    draw = torch.Generator().manual_seed(federation.seed)
    means = torch.rand(10, *SHAPE, generator=draw)

    def some(n: int) -> Data:
        labels = torch.randint(10, (n,), generator=draw)
        return Data((means[labels] + 0.3 * torch.randn(n, *SHAPE, generator=draw)).clamp(0, 1), labels)

    test, transfer = some(64), Data(some(16).x, None)
    if client == SERVER:
        return Holdings(SHAPE, 10, None, None, transfer, {"test": test})
    draw.manual_seed(federation.seed + client + 1)
    return Holdings(SHAPE, 10, some(64), some(8), transfer, {"test": test})


def federation(clients: int, rounds: int, **settings: Any) -> Federation:
    """A federation whose data are `random_images`; settings are keys of a recipe, such as `train.lr`."""
    content: dict[str, Any] = {
        "method": "local", "models": "cnn", "clients": clients, "rounds": rounds, "start": "random",
        "train.batch_size": 16, "train.lr": 0.02,
    }  # fmt: skip
    (made,) = expand("gpu", content | settings).federations
    return made


def run(setting: Setting, one: Federation, device: torch.device | None = None) -> Timing:
    """One federation on a device, the setting's own by default."""
    return timed(OneNode(device or setting.device), one, load=random_images)


def agreement(setting: Setting) -> Iterator[str]:
    """The same federations on the CPU and on the device."""
    models = ("cnn",) if setting.quick else ("cnn", "mlp", *MODELS)
    for model in models:
        for method in ("local", "fedavg", "kd"):
            one = federation(2, 2, method=method, models=model)
            cpu, gpu = (
                {(client, split, metric): value for client, split, metric, value in run(setting, one, device).rows}
                for device in (torch.device("cpu"), setting.device)
            )
            apart = {
                kind: max(abs(cpu[key] - gpu[key]) for key in cpu if key[2] == kind and key[1]) for kind in TOLERANCE
            }
            agrees = cpu.keys() == gpu.keys() and all(apart[kind] <= most for kind, most in TOLERANCE.items())
            yield (
                f"CPU against {setting.device.type}, {method}, {model}, after 2 rounds | largest difference of "
                f"accuracy {apart['accuracy']:.4f}, of loss {apart['loss']:.4f}: {'agrees' if agrees else 'DIFFERS'}"
            )


def training(setting: Setting) -> Iterator[str]:
    """Images a second in training, by how clients are trained."""
    for model in MODELS[:1] if setting.quick else MODELS:
        base: list[float] = []
        for name, settings in VARIANTS.items():
            label = f"training, {model}, {setting.clients} clients, {name}"
            if unknown := [key for key in settings if key not in known_keys()]:
                yield f"{label} | not run: this fedkd has no {unknown[0]}"
                continue
            if setting.quick and "train.compile" in settings:
                yield f"{label} | not run: quick"
                continue
            settings = {key: setting.clients if value is ALL else value for key, value in settings.items()}
            often = {"evaluate.every": 1000} if "evaluate.every" in known_keys() else {}
            timing = run(setting, federation(setting.clients, 1 + setting.repeats, models=model, **often, **settings))
            each = dict[tuple[int, str], float]()
            for client, _, metric, value in timing.rows:
                each[client, metric] = value
            images = sum(each[client, "samples"] for client in range(setting.clients))
            speeds = [images / parts["training"] for parts in timing.parts[1:]]
            base = base or speeds
            yield f"{label} | {Spread.of(speeds).median:,.0f} images/s; × one by one: {ratios(speeds, base)}"


def sharing(setting: Setting) -> Iterator[str]:
    """A round of 32 clients on Ray, by how many share the GPU."""
    if setting.device.type == "cpu":
        yield "clients that share a GPU, on Ray | not run: no GPU"
        return
    alone: list[float] = []
    for share in (1, 2) if setting.quick else (1, 2, 4, 8, 16, 32):
        label = f"a round of {setting.clients} clients, fedavg_cnn, {share} at a time on one GPU"
        with started("ray", RaySettings(num_cpus=min(1.0, 0.5), num_gpus=1 / share), random_images) as engine:
            timing = timed(
                engine, federation(setting.clients, 1 + setting.repeats, models="fedavg_cnn"), load=random_images
            )
        alone = alone or timing.seconds[1:]
        speed = ratios(alone, timing.seconds[1:])
        yield f"{label} | {Spread.of(timing.seconds[1:])} s; as fast as one at a time: {speed} times"


def evaluation(setting: Setting) -> Iterator[str]:
    """Images a second in evaluation, by size of chunk."""
    x = torch.rand(256 if setting.quick else 16384, *SHAPE, device=setting.device)
    for model in MODELS[:1] if setting.quick else MODELS:
        network = build_model(model, SHAPE, 10, 0, "benchmark").to(setting.device).eval()
        for precision in ("float32", "bfloat16"):
            compute = Compute(setting.device, precision)
            chosen = compute.chunk(network, x)
            speeds = {}
            for size in sorted({chosen, 128} if setting.quick else {chosen, 64, 256, 1024, 4096, 16384}):
                took = setting.seconds(partial(compute.predicted, network, [x], size))
                speeds[size] = len(x) / Spread.of(took).median
            shown = ", ".join(f"{size}: {speed / 1e3:,.1f} k" for size, speed in speeds.items())
            share = speeds[chosen] / max(speeds.values())
            label = f"evaluation, {model}, {precision}, images/s by chunk"
            yield f"{label} | {shown}; chosen {chosen}, {share:.2f} of the best"


def augmentation(setting: Setting) -> Iterator[str]:
    """Crop and flip of a batch on the device, against a step with it."""
    change = changes("crop(padding=4)+flip")
    assert change is not None
    x = torch.rand(32, *SHAPE, device=setting.device)
    y = torch.randint(10, (32,), device=setting.device)
    network = build_model("fedavg_cnn", SHAPE, 10, 0, "benchmark").to(setting.device)
    generator, weights = torch.Generator().manual_seed(0), list(network.parameters())

    def step(_: int) -> None:
        torch.autograd.grad(torch.nn.functional.cross_entropy(network(x), y), weights)

    changed = setting.seconds(lambda: [change(x, generator) for _ in range(10)])
    steps = setting.seconds(lambda: list(map(step, range(10))))
    yield f"crop and flip of 32 images as a share of a step of fedavg_cnn | {ratios(changed, steps)}"

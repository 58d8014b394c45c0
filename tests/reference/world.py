"""Who holds what, with which network, and what is drawn: the federation before anybody learns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedkd.data import load
from fedkd.models import ARCHITECTURES
from partitions.split import Split

if TYPE_CHECKING:
    from tests.reference.ledger import Ledger

SERVER = -1


def seed_of(*name: int | str) -> int:
    """The first eight bytes of the SHA-256 of the name, its parts joined by the unit separator; without the last bit,
    so that it fits a signed integer."""
    text = "\x1f".join(str(part) for part in name)
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) // 2


def stream(*name: int | str) -> torch.Generator:
    """The random stream of this name."""
    generator = torch.Generator()
    generator.manual_seed(seed_of(*name))
    return generator


@cache
def shuffled(n: int, *name: int | str) -> tuple[int, ...]:
    """0 to n − 1 in the order that the stream of this name gives them."""
    return tuple(torch.randperm(n, generator=stream(*name)).tolist())


@dataclass(frozen=True)
class Optimisation:
    """The keys of a recipe's `[pretrain]` or `[train]` that are used here."""

    lr: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    batch_size: int = 32
    epochs: Any = 1
    steps: int = 0
    patience: int = 10
    target: float = 0.0


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs, and what is right: (n, …) and (n·r,), r rows of predictions a sample."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(eq=False)
class Client:
    """One client: its data, its network, and the work that it has done in this round."""

    id: int
    spec: str
    private: Samples
    judged: dict[str, Samples]
    """by split: what it is tested on"""
    model: nn.Module
    steps: int = 0
    samples: int = 0
    started_right: Tensor | None = None
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def val(self) -> Samples:
        """Its own validation samples."""
        return self.judged["val"]

    def predict(self, x: Tensor) -> Tensor:
        """(rows, classes) logits of its network."""
        return predict(self.model, x)

    def weights(self) -> dict[str, Tensor]:
        """A copy of its weights and buffers."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """(rows, classes) logits in evaluation mode."""
    logits: Tensor = model.eval()(x)
    return logits.flatten(0, -2)


class World:
    """A federation's data, settings and clients, as a recipe and a manifest describe them."""

    def __init__(self, recipe: Mapping[str, Any], split: Split) -> None:
        source = load(recipe["dataset"])
        self.seed: int = recipe["seed"]
        self.rounds: int = recipe["rounds"]
        self.shape, self.classes = source.shape, len(source.outputs)
        self.token_bytes = source.token_bytes
        self.pretraining = Optimisation(**recipe["pretrain"])
        self.training = Optimisation(**recipe["train"])
        self.init: str = recipe.get("init", "common")
        self.start: str = recipe.get("start", "pretrained")
        self.consolidate: Callable[[World, Ledger], None] | None = None
        """makes one model of all clients' before the method begins"""
        self.specs = [
            recipe["models"].split("|")[i % len(recipe["models"].split("|"))] for i in range(len(split.clients))
        ]

        def samples(part: Tensor, positions: Any) -> Samples:
            return Samples(*source.pairs(part[torch.as_tensor(positions, dtype=torch.int64)]))

        everything = torch.arange(len(source.test))
        self.test = samples(source.test, everything)
        self.exchanges_models: bool = recipe["transfer"] == "private"
        self.transfer = samples(source.train, split.transfer)
        self.labelled: bool = "labelled=true" in recipe["transfer"] or self.exchanges_models
        self.shards = [samples(source.train, positions) for positions in split.clients]
        local = isinstance(split.val, tuple)
        self.val = [samples(source.train, split.val[i] if local else split.val) for i in range(len(split.clients))]
        self.local_test = [samples(source.test, positions) for positions in split.local_test]
        self.clients = [self.client(i) for i in range(len(split.clients))]
        everybody = range(len(self.clients))
        self.learners = sorted(recipe.get("students", everybody))
        self.tutors = sorted(recipe.get("teachers", everybody))

    def client(self, number: int) -> Client:
        """A client with its untrained network."""
        judged = {"val": self.val[number], "test": self.test, "local_test": self.local_test[number]}
        if not self.exchanges_models:
            judged["transfer"] = self.transfer
        return Client(number, self.specs[number], self.shards[number], judged, self.untrained(number))

    def untrained(self, number: int) -> nn.Module:
        """A client's network with the initial weights of its stream, which equal networks share unless `init` says
        otherwise."""
        owner = "common" if self.init == "common" else f"client {number}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, f"init/{owner}", self.specs[number]))
            return self.network(number)

    def network(self, number: int) -> nn.Module:
        """A network of the kind that a client holds."""
        return ARCHITECTURES.build(self.specs[number]).build(self.shape, self.classes)

    def learnt(self) -> list[Client]:
        """The clients that learn."""
        return [self.clients[number] for number in self.learners]

    def distilled(self, client: Client) -> Samples:
        """What a client distils on: the transfer set, or its own samples where there is none."""
        return client.private if self.exchanges_models else self.transfer

    def with_weights(self, number: int, weights: Mapping[str, Tensor]) -> nn.Module:
        """A network of the kind that a client holds, with these weights."""
        model = self.network(number)
        model.load_state_dict(weights)
        return model

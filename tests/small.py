"""Small federations in one process: random images, tiny networks, and the rounds without Flower."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from fedkd.base.errors import UserError
from fedkd.base.spec import Spec
from fedkd.base.streams import stream
from fedkd.distillation.distilling import Distilling
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS, Method
from fedkd.models import Model, build_model
from fedkd.node.holdings import Evaluation, Holdings, Loader
from fedkd.node.moment import AT_START, Moment, Phase, in_round
from fedkd.node.node import SERVER, Node
from fedkd.protocol.client import Reply, take_part
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining, Training
from fedkd.tensors.compute import CPU, PLAIN, Compute
from fedkd.tensors.samples import Data

SHAPE = (1, 4, 4)
CLASSES = 3
MODEL = "mlp(hidden=[8])"
UNLABELLED = "public(fraction=0.2)"
LABELLED = "public(fraction=0.2, labelled=true)"
PRETRAINING = Pretraining(epochs=4, lr=0.2, batch_size=8)
TRAINING = Training(lr=0.1, batch_size=4)

OWN = '''
from typing import Annotated

from annotated_types import Gt
from pydantic.dataclasses import dataclass

from fedkd.method import Method
from fedkd import STRICT


@dataclass(frozen=True, config=STRICT)
class Gentle(Method):
    """Does nothing, softly."""

    strength: Annotated[float, Gt(0)] = 1.0
    """how much of nothing"""
'''
"""A user's own file with a method in it."""

drawn = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
"""How examples are drawn: few, the same in every run, and with no eye on a clock that others share."""

Weights = dict[str, Tensor]
Key = tuple[int, int, str, str]
"""(exchange, client, split, metric)"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests that import this fixture, one torch thread, no GPU: numbers are equal to the last bit."""
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path_factory.getbasetemp() / "fedkd"))
    monkeypatch.setattr("fedkd.protocol.client.best_device", lambda: CPU)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def samples(n: int, *name: int | str, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES) -> Data:
    """`n` labelled images: one random pattern a class, the same everywhere, under much noise."""
    patterns = torch.rand(classes, *shape, generator=stream("patterns"))
    rng = stream("samples", *name)
    y = torch.randint(classes, (n,), generator=rng)
    return Data((patterns[y] + torch.rand(n, *shape, generator=rng)) / 2, y)


def load(federation: Federation, client: int) -> Holdings:
    """A loader of random data: clients hold 10, 13, 16, … private samples, 9 for validation, and share the rest."""
    transfer, test = samples(14, "transfer"), samples(40, "test")
    public = transfer if federation.transfer == LABELLED else Data(transfer.x, None)
    if client == SERVER:
        return Holdings(SHAPE, CLASSES, None, None, public)
    val = samples(9, "val", client)
    judged = {"val": val, "transfer": transfer, "test": test}
    return Holdings(SHAPE, CLASSES, samples(10 + 3 * client, "private", client), val, public, judged)


def small(method: str, **settings: Any) -> Federation:
    """A federation of two clients and two rounds, unless `settings` say otherwise."""
    plain: dict[str, Any] = {
        "models": MODEL,
        "clients": 2,
        "rounds": 2,
        "transfer": UNLABELLED,
        "pretrain": PRETRAINING,
        "train": TRAINING,
    }
    return Federation(method, **(plain | settings))


def every_method() -> list[tuple[str, str]]:
    """(spec, transfer) of every method that there is, and of the variants that read labels, as they may be run.

    Grids are cut to a corner: what holds for four cells holds for more. Methods that pool all data are left out:
    their one client is none of the federation's.
    """
    names = [name for name in METHODS.names if not METHODS.build(name).pools]
    specs = [*map(cornered, names), 'dp_kd(mask="supervised")', 'kd(refresh="every round")']
    return [(spec, transfer) for spec in specs for transfer in (UNLABELLED, LABELLED) if _may(spec, transfer)]


def cornered(name: str) -> str:
    """The spec of a method with its grids cut to a corner."""
    built: Any = METHODS.build(name)
    values = {each.name: getattr(built, each.name) for each in fields(built)}
    return str(Spec(name, {key: list(value[:2]) for key, value in values.items() if isinstance(value, tuple)}))


def _may(spec: str, transfer: str) -> bool:
    try:
        METHODS.build(spec).check(small(spec), transfer == LABELLED)
    except UserError:
        return False
    return True


def distilling(spec: str) -> Distilling:
    """A method that distils soft predictions."""
    method = METHODS.build(spec)
    assert isinstance(method, Distilling)
    return method


def model(seed: int = 0, spec: str = MODEL) -> Model:
    """A tiny network."""
    return build_model(spec, SHAPE, CLASSES, seed, "init")


def node(
    client: int = 0, *, clients: int = 3, labelled: bool = False, round: int = 1, training: Training = TRAINING
) -> Node:
    """A client of random data with an untrained model of its own."""
    federation = small("local", clients=clients, transfer=LABELLED if labelled else UNLABELLED)
    held = load(federation, client)
    return Node(
        client,
        clients,
        federation.seed,
        training,
        held.classes,
        data=held.data,
        val=held.val,
        transfer=held.transfer,
        moment=in_round(round),
        specs=(MODEL,) * clients,
        shape=SHAPE,
        models={"student": model(client)},
    )


def preparing(step: int) -> Moment:
    """Preparation `step` of a method that begins with the start; 0: the start itself."""
    return Moment(Phase.PREPARE, step, exchange=step, since=step, begins=False) if step else AT_START


def server(*, clients: int = 3, labelled: bool = False) -> Node:
    """The server of the federation that `node` belongs to."""
    held = load(small("local", transfer=LABELLED if labelled else UNLABELLED), SERVER)
    specs = (MODEL,) * clients
    return Node(SERVER, clients, 0, TRAINING, held.classes, transfer=held.transfer, specs=specs, shape=SHAPE)


def start(method: Method, nodes: Sequence[Node], at: Node) -> dict[int, Knowledge]:
    """The start of a federation among nodes: everybody is set up, reports, and the server merges."""
    for each in (*nodes, at):
        method.setup(each)
    received = {each.id: method.report(each) for each in nodes}
    return method.merge(at, {client: report for client, report in received.items() if report is not None})


def weights(of: nn.Module) -> Weights:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in of.state_dict().items()}


def same_weights(one: Weights, other: Weights) -> bool:
    """Equality to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def distance(one: Weights, other: Weights) -> float:
    """The largest difference of any weight."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@dataclass(frozen=True, eq=False)
class Watched(Holdings):
    """Holdings that keep a copy of every model they judge: at the start and after each round."""

    seen: list[Weights] = field(default_factory=list)

    def evaluate(
        self,
        model: nn.Module,
        started_right: Tensor | None,
        detailed: bool = False,
        compute: Compute = PLAIN,
        whole: bool = True,
    ) -> Evaluation:
        self.seen.append(weights(model))
        return super().evaluate(model, started_right, detailed, compute, whole)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Everything that came out of a federation, but for the time that it took."""

    rows: dict[Key, float]
    weights: list[list[Weights]]
    """by client, then by round; round 0 is the start"""
    reports: list[dict[int, Knowledge]]
    """by exchange, then by client"""
    knowledge: list[dict[int, Knowledge]]
    """what each client was sent, by exchange"""

    def final(self, client: int) -> Weights:
        """One client's weights at the end."""
        return self.weights[client][-1]


def federate(federation: Federation, load: Loader = load, store: Path | None = None, *, twice: bool = False) -> Outcome:
    """Run a whole federation; with `twice`, every exchange is asked for again: same reply, same state."""
    if store is None:
        with tempfile.TemporaryDirectory() as folder:
            return federate(federation, load, Path(folder), twice=twice)
    schedule, clients = schedule_of(federation), range(federation.clients)
    method = schedule.method
    held = load(federation, SERVER)
    specs = federation.client_models
    at = Node(
        SERVER, len(clients), federation.seed, federation.train, held.classes,
        transfer=held.transfer, specs=specs, shape=held.shape,
    )  # fmt: skip
    method.check(federation, at.transfer is None or at.transfer.y is not None)
    watched = [_watched(load(federation, client)) for client in clients]
    outcome = Outcome({}, [each.seen for each in watched], [], [])
    sent: dict[int, Knowledge] = {}
    for exchange in range(method.preparations + federation.rounds + 1):
        outcome.knowledge.append(sent)
        received: dict[int, Knowledge] = {}
        for client in clients[:1] if method.pools else clients:
            told = sent.get(client, Knowledge())
            reply = take_part(federation, client, exchange, told, watched[client], store)
            if twice:
                left = _content(store)
                again = take_part(federation, client, exchange, told, load(federation, client), store)
                assert timeless(again) == timeless(reply)
                assert same_knowledge(again.report, reply.report)
                assert _content(store) == left
            outcome.rows.update({(exchange, client, *key): value for key, value in timeless(reply).items()})
            if reply.report is not None:
                received[client] = travelled(reply.report)
        outcome.reports.append(received)
        at.moment = schedule.moments[exchange]
        sent = {}
        if schedule.merges(at.moment):
            if exchange == 0:
                method.setup(at)
            sent = {client: travelled(bag) for client, bag in method.merge(at, received).items()}
        outcome.rows.update({(exchange, SERVER, *key): value for key, value in at.records.items()})
        at.records.clear()
    return outcome


def timeless(reply: Reply) -> dict[tuple[str, str], float]:
    """The metrics of a reply, without the time that it took."""
    return {key: value for key, value in reply.metrics.items() if not key[1].endswith("seconds")}


def travelled(knowledge: Knowledge) -> Knowledge:
    """The same knowledge as the other side reads it."""
    return Knowledge.decode(knowledge.encoded)


def same_knowledge(one: Mapping[str, Tensor] | None, other: Mapping[str, Tensor] | None) -> bool:
    """Equality of names, types, shapes and bits."""
    if one is None or other is None:
        return one is other
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def same_outcome(one: Outcome, other: Outcome, *, but: str = "-") -> bool:
    """Equality to the last bit of everything, but for the rows of one split."""
    rows = [{key: value for key, value in each.rows.items() if key[2] != but} for each in (one, other)]
    return (
        rows[0] == rows[1]
        and all(
            same_weights(mine, its)
            for mine_of, its_of in zip(one.weights, other.weights, strict=True)
            for mine, its in zip(mine_of, its_of, strict=True)
        )
        and all(
            same_knowledge(mine.get(client), its.get(client))
            for mine, its in zip(one.reports + one.knowledge, other.reports + other.knowledge, strict=True)
            for client in mine.keys() | its.keys()
        )
    )


def _content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _watched(held: Holdings) -> Watched:
    return Watched(**{each.name: getattr(held, each.name) for each in fields(Holdings)})

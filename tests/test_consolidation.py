"""One common start for all: who makes it of what, what it costs, and that the method begins where it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedkd.base.errors import UserError
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.knowledge.knowledge import Knowledge, over_the_wire, to_wire
from fedkd.knowledge.weights import average, packed
from fedkd.method import METHODS
from fedkd.models import restored_model
from fedkd.node.holdings import Row
from fedkd.node.node import SERVER
from fedkd.protocol.schedule import schedule_of
from fedkd.protocol.start import consolidation
from fedkd.settings.federation import Federation
from simulations.engine import InlineGrid
from tests import small
from tests.small import own_cache
from tests.test_weights import judging, private

__all__ = ["own_cache"]

CLIENTS = 4
STARTS = ("best_client", "average", "kd", "dp_kd", 'consolidate(method="kd", order="sequential")')
Numbers = dict[tuple[int, int, str, str], float]


class Watched(InlineGrid):
    """A grid that remembers the models that its clients were judged with."""

    def __init__(self, load: Any) -> None:
        self.held = {
            client: small._watched(load(small.small("kd", clients=CLIENTS), client)) for client in range(CLIENTS)
        }
        held = self.held

        def loader(federation: Federation, client: int) -> Any:
            return load(federation, client) if client == SERVER else held[client]

        super().__init__(client_app(loader), CLIENTS)
        self.load = loader


def run(
    start: str,
    method: str = "kd",
    load: Any = judging,
    store: Path | None = None,
    stop: int | None = None,
    **settings: Any,
) -> tuple[Numbers, dict[int, list[small.Weights]]]:
    """All rows but times, and every model that each client was judged with."""
    of = small.small(method, clients=CLIENTS, rounds=2, start=start, **settings)
    numbers: Numbers = {}
    grid = Watched(load)

    def note(number: int, rows: list[Row]) -> None:
        numbers.update({(number, *row[:3]): row[3] for row in rows if not row[2].endswith("seconds")})
        if number == stop:
            raise InterruptedError

    nodes = list(grid.get_node_ids())
    try:
        Rounds(of, load, store).start(grid, nodes, note)
    except InterruptedError:
        rest, again = Rounds(of, load, store), stop
        stop = None
        assert again is not None
        assert rest.resume(again)
        rest.start(grid, nodes, note)
    return numbers, {client: held.seen for client, held in grid.held.items()}


def pretrained() -> list[small.Weights]:
    """The models before anything is made of them."""
    return [judged[0] for judged in small.federate(small.small("local", clients=CLIENTS), judging).weights]


def ranked(numbers: Numbers) -> list[int]:
    """Clients from good to bad by validation at the start."""
    return sorted(
        range(CLIENTS),
        key=lambda c: (-numbers[0, c, "val", "accuracy"], numbers[0, c, "val", "loss"], c),
    )


@pytest.mark.parametrize("start", STARTS)
class TestEveryStart:
    def test_all_clients_begin_with_one_model_in_the_round_after(self, start: str) -> None:
        numbers, models = run(start)
        rounds = CLIENTS - 1 if "sequential" in start else 1
        assert numbers[0, SERVER, "", "start_rounds"] == rounds
        common = models[0][1]
        assert all(small.same_weights(models[client][1], common) for client in range(CLIENTS))
        assert max(key[0] for key in numbers) == rounds + 2
        assert len(models[0]) == 1 + 1 + 2

    def test_the_server_s_model_is_judged_in_every_round_of_it(self, start: str) -> None:
        numbers, models = run(start)
        rounds = CLIENTS - 1 if "sequential" in start else 1
        test = small.samples(40, "test")
        model = restored_model(small.MODEL, small.SHAPE, small.CLASSES, models[0][1]).eval()
        assert test.y is not None
        correct = float(model(test.x).argmax(1).eq(test.y).double().mean())
        last = rounds if rounds > 1 else 1
        assert {number for number in range(last) if (number, SERVER, "test", "accuracy") in numbers} == set(range(last))
        assert numbers[rounds, 0, "test", "accuracy"] == correct

    def test_it_resumes_to_the_same_numbers(self, start: str, tmp_path: Path) -> None:
        whole, _ = run(start, "dml")
        rounds = CLIENTS - 1 if "sequential" in start else 1
        for stop in range(rounds + 2):
            assert run(start, "dml", store=tmp_path / str(stop), stop=stop)[0] == whole, stop

    def test_methods_with_preparations_and_roles_of_the_server_follow_it(self, start: str) -> None:
        for method in (small.cornered("tuned_kd"), "fedavg", "local"):
            numbers, _ = run(start, method)
            last = max(key[0] for key in numbers)
            assert all((last, client, "test", "accuracy") in numbers for client in range(CLIENTS))

    def test_without_a_transfer_set_models_travel(self, start: str) -> None:
        numbers, _ = run(start, "kd", load=private, transfer="private")
        assert numbers[0, 0, "", "bytes_up"] > 0
        assert all((max(key[0] for key in numbers), c, "test", "accuracy") in numbers for c in range(CLIENTS))


def test_the_best_client_is_the_best_by_validation() -> None:
    numbers, models = run("best_client")
    assert small.same_weights(models[0][1], pretrained()[ranked(numbers)[0]])


def test_the_average_is_weighted_by_samples() -> None:
    _, models = run("average")
    mean = average(pretrained(), [10.0 + 3 * client for client in range(CLIENTS)])
    assert small.distance(models[2][1], mean) < 1e-7


def test_clients_that_are_equally_good_are_told_apart_by_their_number_not_by_the_last_bit() -> None:
    plan, server = consolidation("best_client"), small.server()
    assert plan is not None
    scores = [(0.3, 0.5), (0.1 + 0.2, 0.5), (0.1 + 0.2, 0.4)]
    reports = {
        client: Knowledge(
            packed(small.model(client)),
            accuracy=torch.tensor(right, dtype=torch.float64),
            loss=torch.tensor(loss, dtype=torch.float64),
        )
        for client, (right, loss) in enumerate(scores)
    }
    for among, best in (((0, 1), 0), ((0, 1, 2), 2)):
        plan.begin(server, {client: reports[client] for client in among})
        kept = {name.removeprefix("start/"): value for name, value in server.state.items()}
        assert small.same_weights(kept, small.weights(small.model(best)))


@pytest.mark.parametrize(
    "method",
    [
        *(
            spec
            for spec, transfer in small.every_method()
            if METHODS.build(spec).begins_with_average and transfer == small.UNLABELLED
        ),
        'tuned(method="fedavg", grid={"lr": [0.05, 0.2], "weight_decay": [0.0]}, rounds=1)',
    ],
)
def test_the_average_costs_nothing_before_a_method_that_begins_with_it(method: str) -> None:
    plain, models = run("pretrained", method)
    numbers, averaged = run("average", method)
    assert numbers == plain  # accuracies, losses and bytes of every round
    assert max(key[0] for key in numbers) == 2
    for client in range(CLIENTS):
        pairs = zip(models[client], averaged[client], strict=True)
        assert all(small.same_weights(before, after) for before, after in pairs)


def test_before_other_methods_the_average_takes_a_round() -> None:
    # What fedavg makes of it in that round is what local is given: the server's model is the same.
    averaged, _ = run("average", "local")
    fedavg, _ = run("pretrained", "fedavg")
    assert averaged[0, SERVER, "", "start_rounds"] == 1
    assert averaged[0, SERVER, "test", "accuracy"] == fedavg[0, SERVER, "test", "accuracy"]
    assert averaged[1, 0, "test", "accuracy"] == fedavg[0, SERVER, "test", "accuracy"]


def test_other_starts_take_their_rounds_before_fedavg_too() -> None:
    assert schedule_of(small.small("fedavg", start="best_client")).last_round == 3
    assert schedule_of(small.small("fedavg", start="average")).last_round == 2
    assert schedule_of(small.small("kd", start="average")).last_round == 3


def taught(client: int, start: small.Weights, logits: torch.Tensor, method: str = "kd") -> small.Weights:
    """One round of a method at one client, from a given model, towards given predictions."""
    node, built = small.node(client, clients=CLIENTS), METHODS.build(method)
    node.models["student"] = restored_model(
        small.MODEL, small.SHAPE, small.CLASSES, {name: value.clone() for name, value in start.items()}
    )
    built.setup(node)
    built.learn(node, Knowledge(logits=logits))
    return small.weights(node.student)


def predictions(model: small.Weights) -> torch.Tensor:
    """What a model predicts on the transfer set."""
    node = small.node(0)
    return node.predict(node.public.x, restored_model(small.MODEL, small.SHAPE, small.CLASSES, dict(model)))


@pytest.mark.parametrize("method", ["kd", "dp_kd"])
def test_parallel_the_best_client_learns_from_all_others_at_once(method: str) -> None:
    numbers, models = run(method)
    best, *others = ranked(numbers)
    before, built = pretrained(), small.distilling(method)
    stack = torch.stack([over_the_wire(predictions(before[other]), "float16") for other in sorted(others)])
    merged = to_wire(built.combine(small.server(clients=CLIENTS), stack), "float16")
    assert small.distance(models[0][1], taught(best, before[best], merged, method)) < 1e-6


def test_sequential_each_client_teaches_the_model_that_is_handed_to_it() -> None:
    numbers, models = run('consolidate(method="kd", order="sequential")')
    best, *others = ranked(numbers)
    before = pretrained()
    model = before[best]
    for other in others:
        model = taught(other, model, to_wire(predictions(before[other]), "float16"))
    assert small.distance(models[0][1], model) < 1e-6


def test_bytes_of_a_hand_over_are_one_model_down_and_one_up() -> None:
    numbers, _ = run('consolidate(method="kd", order="sequential")', "local")
    size = Knowledge(packed(small.model())).nbytes
    _, *others = ranked(numbers)
    for number, asked in enumerate(others, start=1):
        everybody = number == len(others)
        for client in range(CLIENTS):
            down = size * (client == asked) + size * everybody
            assert numbers[number, client, "", "bytes_down"] == down
            assert numbers[number, client, "", "bytes_up"] == size * (client == asked)


def test_more_rounds_of_training_in_a_hand_over_change_the_model_not_the_rounds() -> None:
    (one, first), (three, second) = (run(f'consolidate(method="kd", rounds={rounds})') for rounds in (1, 3))
    assert one[0, SERVER, "", "start_rounds"] == three[0, SERVER, "", "start_rounds"] == 1
    assert not small.same_weights(first[0][1], second[0][1])


def _check(of: Federation) -> None:
    plan = schedule_of(of).consolidation
    assert plan is not None
    plan.check(of, of.transfer.endswith("labelled=true)"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "worst_client"}, "unknown"),
        ({"start": "kd(weight=2.0)"}, "weight"),
        ({"start": "dml"}, "frozen as they are"),
        ({"start": "average", "init": "per_client"}, "common start"),
        ({"start": "best_client", "models": "cnn|mlp"}, "cnn at clients 0, 2; mlp at clients 1"),
        ({"start": "kd", "val": "common"}, 'val = "local"'),
        ({"start": "kd", "students": (0,)}, "leave students and teachers out"),
        ({"start": "kd(teachers='one(1)')"}, "all other clients"),
        ({"start": "kd(revise='labels')"}, "labelled=true"),
        ({"start": "dp_kd(mask='supervised')"}, "labelled=true"),
        ({"start": "dp_kd(revise='labels(per_teacher=true)')", "transfer": small.LABELLED}, "per_teacher"),
        ({"start": 'consolidate(order="sequential")'}, "write consolidate"),
        ({"start": 'consolidate(method="kd", order="random")'}, "order|parallel"),
    ],
)
def test_what_cannot_become_one_is_refused(settings: Any, message: str) -> None:
    of = Federation("kd", clients=3, **settings)
    with pytest.raises(UserError, match=message):
        _check(of)


def test_plain_starts_consolidate_nothing() -> None:
    assert consolidation("pretrained") is None
    assert consolidation("random") is None
    assert schedule_of(Federation("kd")).last_round == 10

"""`tuned_kd` is the search's shortest use, with the numbers that it always had."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS
from fedkd.methods.kd import KD
from fedkd.methods.tuned_kd import TunedKD
from fedkd.node.node import Node
from fedkd.tensors.evaluate import accuracy, mean_loss
from tests.small import (
    LABELLED,
    TRAINING,
    UNLABELLED,
    federate,
    node,
    preparing,
    same_outcome,
    same_weights,
    server,
    small,
    start,
)
from tests.small import own_cache as own_cache

BOTH = pytest.mark.parametrize("transfer", [UNLABELLED, LABELLED], ids=["unlabelled", "labelled"])
GRID = "tuned_kd(temperatures=[1.0, 4.0], weights=[0.2, 1.0], rounds=2)"
UNTUNED = "temperature=1.0,weight=0.5"


def kds(spec: str) -> dict[str, KD]:
    """The cells of a tuned_kd by their labels."""
    method = METHODS.build(spec)
    assert isinstance(method, TunedKD)
    cells = {cell.label: cell.method for cell in method.cells(server())}
    return {label: kd for label, kd in cells.items() if isinstance(kd, KD)}


class TestCells:
    @pytest.mark.parametrize(
        "spec",
        [
            "tuned_kd",
            "tuned_kd(temperatures=[8.0], weights=[0.9])",
            "tuned_kd(temperatures=[1.0], weights=[0.5])",
        ],
    )
    def test_the_untuned_cell_is_always_among_them_and_first(self, spec: str) -> None:
        assert next(iter(kds(spec))) == UNTUNED
        assert kds(spec)[UNTUNED] == KD()

    def test_the_cells_are_the_grid(self) -> None:
        cells = kds("tuned_kd(temperatures=[2.0, 8.0], weights=[0.1, 0.9], wire='float32')").values()
        pairs = [(1.0, 0.5), (2.0, 0.1), (2.0, 0.9), (8.0, 0.1), (8.0, 0.9)]
        assert [(cell.temperature, cell.weight) for cell in cells] == pairs
        assert {cell.wire for cell in cells} == {"float32"}
        assert len(kds("tuned_kd")) == 6 * 6

    def test_values_given_twice_are_tried_once(self) -> None:
        assert list(kds("tuned_kd(temperatures=[1, 1.0], weights=[0.5, 0.2])")) == [
            UNTUNED,
            "temperature=1.0,weight=0.2",
        ]

    def test_scores_are_accuracy_and_loss_on_validation(self) -> None:
        method = METHODS.build("tuned_kd(temperatures=[4.0], weights=[0.5])")
        nodes = [node(client, round=0) for client in range(3)]
        sent = start(method, nodes, server())
        nodes[0].moment = preparing(1)
        method.prepare(nodes[0], sent[0])
        alone = _learnt(KD(temperature=4.0, weight=0.5), node(0), sent[0], rounds=3)
        assert alone.val is not None
        assert alone.val.y is not None
        predicted = alone.predict(alone.val.x)
        for metric, measure in (("accuracy", accuracy), ("loss", mean_loss)):
            found = nodes[0].records["val", f"tuning_{metric}/temperature=4.0,weight=0.5"]
            assert found == measure(predicted, alone.val.y)


class TestRunning:
    @BOTH
    def test_every_cell_is_kd_alone_from_the_same_start(self, transfer: str) -> None:
        tuned = federate(small(GRID, transfer=transfer))
        for label in kds(GRID):
            alone = federate(small(f"kd({label})", rounds=2, transfer=transfer))
            for client in range(2):
                for metric in ("accuracy", "loss"):
                    expected = alone.rows[2, client, "val", metric]
                    assert tuned.rows[1, client, "val", f"tuning_{metric}/{label}"] == pytest.approx(expected, rel=1e-5)

    @BOTH
    @pytest.mark.parametrize("seed", range(3))
    def test_the_choice_is_the_best_validation_score_and_the_same_for_all(self, transfer: str, seed: int) -> None:
        outcome = federate(small(GRID, clients=3, transfer=transfer, seed=seed))

        def mean(metric: str, label: str) -> float:
            return sum(outcome.rows[1, client, "val", f"tuning_{metric}/{label}"] for client in range(3)) / 3

        best = max(kds(GRID), key=lambda label: (round(mean("accuracy", label), 9), -mean("loss", label)))
        chosen = {key[3]: value for key, value in outcome.rows.items() if key[3].startswith("tuning_chosen/")}
        assert chosen == {f"tuning_chosen/{best}": 1.0}
        told = {int(sent["tuning/chosen"]) for sent in outcome.knowledge[2].values()}
        assert told == {list(kds(GRID)).index(best)}

    @BOTH
    @pytest.mark.parametrize("seed", range(3))
    def test_after_the_choice_it_is_kd_with_the_chosen_values_to_the_last_bit(self, transfer: str, seed: int) -> None:
        outcome = federate(small(GRID, rounds=3, transfer=transfer, seed=seed))
        (chosen,) = (key[3] for key in outcome.rows if key[3].startswith("tuning_chosen/"))
        directly = federate(
            small(f"kd({chosen.removeprefix('tuning_chosen/')})", rounds=3, transfer=transfer, seed=seed)
        )
        for client in range(2):
            assert len(outcome.weights[client]) == 4
            for found, expected in zip(outcome.weights[client], directly.weights[client], strict=True):
                assert same_weights(found, expected)

    def test_the_search_is_booked_as_tuning_and_not_as_training(self) -> None:
        outcome = federate(small(GRID))
        for client, steps in ((0, 3), (1, 4)):  # ⌈10 / 4⌉ and ⌈13 / 4⌉
            assert outcome.rows[1, client, "", "steps"] == outcome.rows[1, client, "", "samples"] == 0
            assert outcome.rows[1, client, "", "tuning_steps"] == 5 * 2 * steps
            # Three cells take private and transfer batches of 4, the two of weight 1 transfer batches alone.
            assert outcome.rows[1, client, "", "tuning_samples"] == 2 * steps * (3 * 8 + 2 * 4)

    def test_scores_and_choice_cost_what_they_always_did(self) -> None:
        outcome = federate(small(GRID))
        header = 128
        assert outcome.reports[1][0].nbytes == header + 5 * 2 * 8, "accuracy and loss of five cells, float64"
        assert outcome.knowledge[1][0].nbytes == header + 14 * 3 * 2, "logits of 14 samples and 3 classes, float16"
        assert outcome.knowledge[2][0].nbytes == header + 8

    def test_it_is_tuned_with_kd_and_its_grid(self) -> None:
        general = "tuned(method='kd', grid={'temperature': [1.0, 4.0], 'weight': [0.2, 1.0]}, rounds=2)"
        assert same_outcome(federate(small(GRID, clients=3)), federate(small(general, clients=3)))


def _learnt(method: Any, client: Node, knowledge: Knowledge, rounds: int) -> Node:
    for client.round in range(1, rounds + 1):
        method.learn(client, knowledge)
    assert client.training == TRAINING
    assert torch.get_num_threads() == 1
    return client

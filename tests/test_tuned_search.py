"""What is tried, which of it is best, and what is refused before anything runs."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.base.errors import UserError
from fedkd.base.spec import parse
from fedkd.method import METHODS
from fedkd.methods.tuned import Tuned
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.settings.training import Training
from fedkd.tuning.bags import bag, pack, shares
from fedkd.tuning.cells import cell
from fedkd.tuning.choosing import _given_up
from fedkd.tuning.grid import Grid, Point
from fedkd.tuning.sampling import given_up, propose
from fedkd.tuning.scores import best, ranked, value
from fedkd.tuning.search import Search
from tests.small import drawn, server
from tests.small import own_cache as own_cache

MIXED = Grid.read({"temperature": {"low": 1.0, "high": 20.0, "log": True}, "weight": [0.1, 0.5, 0.9]})


def refusal(spec: str) -> str:
    """The message with which a spec is refused."""
    with pytest.raises(UserError) as refused:
        METHODS.build(spec)
    return str(refused.value)


class TestGrid:
    def test_points_are_the_product_and_values_are_read_back(self) -> None:
        grid = Grid.read({"a": [1.0, 2.0], "b": ["x", "y", "z"]})
        expected = [dict(zip("ab", pair, strict=True)) for pair in itertools.product([1.0, 2.0], ["x", "y", "z"])]
        assert [grid.values(point) for point in grid.points()] == expected
        assert grid.size == 6
        assert all(grid.point(values) == point for values, point in zip(expected, grid.points(), strict=True))
        assert grid.point({"a": 3.0, "b": "x"}) is None

    def test_a_range_of_whole_numbers_is_finite_and_of_others_is_not(self) -> None:
        whole = Grid.read({"n": {"low": 2, "high": 5}})
        assert [whole.values(point) for point in whole.points()] == [{"n": n} for n in (2, 3, 4, 5)]
        assert all(isinstance(whole.values(point)["n"], int) for point in whole.points())
        assert math.isinf(MIXED.size)
        assert MIXED.ranges == ("temperature",)
        assert [MIXED.values(corner)["temperature"] for corner in MIXED.corners()] == [1.0] * 3 + [20.0] * 3

    def test_it_is_a_value_that_a_spec_can_hold(self) -> None:
        spec = 'tuned(grid={"temperature": {"low": 1.0, "high": 8.0}, "weight": [0.1, 0.5]}, sampler="qmc", trials=3)'
        built = METHODS.build(spec)
        assert built == METHODS.build(str(parse(spec)))
        assert hash(built) == hash(METHODS.build(spec))
        assert isinstance(built, Tuned)
        assert METHODS.build(f"tuned(grid={built.grid!r}, sampler='qmc', trials=3)") == built
        assert (
            schedule_of(Federation(spec)).method == schedule_of(Federation.from_json(Federation(spec).to_json())).method
        )

    def test_lists_within_lists_and_truth_values_are_values(self) -> None:
        grid = Grid.read(parse("x(grid={'layers': [[8], [8, 8]], 'public': [true, false]})").arguments["grid"])
        assert [tuple(grid.values(point).values()) for point in grid.points()] == [
            ((8,), True),
            ((8,), False),
            ((8, 8), True),
            ((8, 8), False),
        ]


class TestRefusing:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ("grid={'temprature': [1.0]}", ["grid", "'temprature'", "did you mean 'temperature'?"]),
            ("grid={'temperature': [2.0, -1.0]}", ["grid, at temperature=-1.0", "kd", "temperature", "greater"]),
            ("grid={'weight': [0.5, 2.0], 'temperature': [1.0]}", ["weight=2.0,", "less than or equal to 1"]),
            ("grid={'lr': [0.1, -1.0]}", ["grid, at lr=-1.0", "greater than 0"]),
            ("grid={'temperature': ['hot']}", ["temperature='hot'", "valid number"]),
            ("grid={'temperature': []}", ["grid", "temperature", "list of values"]),
            ("grid={'temperature': 4.0}", ["grid", "temperature", "list of values"]),
            ("grid={}", ["grid", "table of values"]),
            ("grid=[1.0]", ["grid", "table of values"]),
            ("grid={'temperature': {'low': 4.0, 'high': 1.0}}", ["temperature", "low below high"]),
            ("grid={'temperature': {'low': 1.0}}", ["temperature", "two numbers", "high=None"]),
            ("grid={'temperature': {'low': 1.0, 'high': 2.0, 'step': 1.0}}", ["low, high and log, not step"]),
            ("grid={'weight': {'low': 0.0, 'high': 1.0, 'log': true}}", ["weight", "above 0"]),
            ("grid={'weight': {'low': 0.1, 'high': 1.0, 'log': 1}}", ["weight", "log", "true or false"]),
            ("grid={'temperature': {'low': 1.0, 'high': 4.0}}", ["temperature is a range", "qmc"]),
            ("grid={'temperature': {'low': 1.0, 'high': 4.0}}, sampler='tpe'", ["trials", "how many"]),
            ("grid={'temperature': {'low': 0.001, 'high': 4.0}}, sampler='tpe', trials=3", ["temperature=0.001"]),
            ("grid={'refresh': ['once', 'every round']}", ["refresh", "method of its own"]),
            ("grid={'wire': ['float16', 'float32']}, sampler='tpe'", ["wire", "another sampler"]),
            ("grid={'teachers': ['others', 'self']}, sampler='tpe'", ["teachers", "another sampler"]),
            ("grid={'objective': ['mse'], 'merge_by': ['probabilities']}", ["objective='mse'", "merge_by"]),
            ("method='tuned_kd', grid={'rounds': [1, 2]}", ["tuned_kd", "preparations"]),
            ("method='kdd'", ["unknown method 'kdd'", "did you mean 'kd'?"]),
            ("method='kd(weight=2.0)'", ["kd", "weight"]),
            ("trials=3", ["trials", "whole grid"]),
            ("sampler='gird'", ["sampler", "'grid'"]),
            ("rounds=0", ["rounds", "greater than 0"]),
            ("select='test_accuracy'", ["select", "'val_accuracy'"]),
        ],
    )
    def test_what_cannot_be_is_told_at_once_by_the_grids_key(self, arguments: str, told: list[str]) -> None:
        message = refusal(f"tuned({arguments})")
        assert message.startswith("method tuned: ")
        for part in told:
            assert part in message

    def test_what_one_cell_could_not_run_is_refused_before_anything_runs(self) -> None:
        of = Federation("tuned(method='dp_kd', grid={'mask': ['unsupervised', 'supervised']})", clients=3)
        with pytest.raises(UserError, match="mask"):
            schedule_of(of).method.check(of, labelled=False)
        schedule_of(of).method.check(of, labelled=True)
        of = Federation("tuned(method='kd', grid={'teachers': ['others', 'one(7)']})", clients=3)
        with pytest.raises(UserError, match=r"one\(7\)"):
            schedule_of(of).method.check(of, labelled=False)

    def test_one_model_for_all_cannot_be_chosen_by_each(self) -> None:
        of = Federation("tuned(method='fedavg', grid={'lr': [0.1]}, per='client')", clients=3)
        with pytest.raises(UserError, match='per = "federation"'):
            schedule_of(of).method.check(of, labelled=False)


class TestCells:
    def test_training_keys_are_the_recipes_and_change_nothing_else(self) -> None:
        training = Training(lr=0.2, epochs=3, batch_size=7)
        grid = Grid.read({"lr": [0.01], "momentum": [0.9], "temperature": [2.0]})
        untuned, tried = (cell("kd", grid, training, point) for point in (None, (0.0, 0.0, 0.0)))
        assert untuned.label == "lr=0.2,momentum=0.0,temperature=1.0"
        assert untuned.training == training
        assert tried.label == "lr=0.01,momentum=0.9,temperature=2.0"
        assert tried.training == Training(lr=0.01, momentum=0.9, epochs=3, batch_size=7)

    @pytest.mark.parametrize("name", ["epochs", "steps", "batch_size", "optimizer"])
    def test_what_would_change_the_work_is_no_parameter(self, name: str) -> None:
        assert f"unknown parameter '{name}'" in refusal(f"tuned(grid={{'{name}': [1]}})")

    @pytest.mark.parametrize("sampler", ["grid", "random", "qmc"])
    def test_without_scores_every_node_knows_the_same_cells(self, sampler: str) -> None:
        method = METHODS.build(f"tuned(grid={{'temperature': [2.0, 4.0], 'weight': [0.1, 0.5]}}, sampler='{sampler}')")
        assert isinstance(method, Tuned)
        labels = [each.label for each in method.cells(server())]
        assert labels[0] == "temperature=1.0,weight=0.5"
        assert sorted(labels[1:]) == [f"temperature={t},weight={w}" for t in (2.0, 4.0) for w in (0.1, 0.5)]
        assert method.preparations == 1


class TestProposing:
    @pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
    @pytest.mark.parametrize("grid", [MIXED, Grid.read({"a": [1, 2, 3], "b": {"low": 1, "high": 4}})])
    def test_points_are_new_within_bounds_and_the_same_again(self, sampler: Any, grid: Grid) -> None:
        told: dict[Point, float | None] = {(1.0, 1.0): 0.5, (2.0, 2.0): 0.7}
        first = propose(grid, sampler, 8, 3, told)
        assert len(set(first)) == 8
        assert not set(first) & set(told)
        for point in first:
            for (name, drew), (_, bounds) in zip(grid.values(point).items(), grid.entries, strict=True):
                assert drew in bounds if isinstance(bounds, tuple) else bounds.low <= drew <= bounds.high, name
        assert propose(grid, sampler, 8, 3, told) == first
        assert propose(grid, sampler, 8, 4, told) != first

    @pytest.mark.parametrize("sampler", ["grid", "random", "qmc", "tpe"])
    def test_a_finite_grid_is_exhausted_and_no_more(self, sampler: Any) -> None:
        grid = Grid.read({"a": [1, 2, 3], "b": [1, 2]})
        found = propose(grid, sampler, 50, 0, {(0.0, 0.0): None})
        assert sorted(found) == sorted(set(grid.points()) - {(0.0, 0.0)})

    def test_quasi_random_points_fill_a_range_more_evenly_than_random_ones(self) -> None:
        grid = Grid.read({"weight": {"low": 0.0, "high": 1.0}, "temperature": {"low": 1.0, "high": 2.0}})

        def filled(sampler: Any, seed: int) -> int:
            points = propose(grid, sampler, 17, seed, {})[1:]  # the first of any study is drawn at random
            return len({(int(w * 4), int((t - 1) * 4)) for w, t in points})

        qmc, random = (sum(filled(sampler, seed) for seed in range(10)) for sampler in ("qmc", "random"))
        assert qmc > random + 20

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_tpe_looks_where_scores_promise_most(self, direction: Any) -> None:
        grid = Grid.read({"weight": {"low": 0.0, "high": 1.0}})
        sign = -1 if direction == "maximize" else 1
        told: dict[Point, float | None] = {(x / 30,): sign * abs(x / 30 - 0.8) for x in range(30)}
        points = [propose(grid, "tpe", 8, seed, told, direction) for seed in range(5)]
        near = [abs(weight - 0.8) < 0.2 for found in points for (weight,) in found]
        assert sum(near) > 0.7 * len(near), "of a search at random, 40 %"

    def test_nothing_is_written_or_said(
        self, capfd: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for sampler in ("random", "qmc", "tpe"):
            propose(MIXED, sampler, 3, 0, {(2.0, 1.0): 0.4})
        assert capfd.readouterr() == ("", "")
        assert not list(tmp_path.iterdir())


class TestHalving:
    @pytest.mark.parametrize("cells", [1, 2, 3, 5, 8, 13])
    def test_the_better_half_goes_on_whatever_the_order(self, cells: int) -> None:
        for seed in range(5):
            values = torch.randperm(cells, generator=torch.Generator().manual_seed(seed)).tolist()
            stopped = given_up({cell: [float(value)] for cell, value in enumerate(values)}, "minimize")
            kept = sorted(values[cell] for cell in set(range(cells)) - stopped)
            assert kept == list(range(max(1, cells // 2)))

    def test_rounds_between_powers_of_two_stop_nobody(self) -> None:
        histories = {cell: [float(cell)] * 3 for cell in range(4)} | {4: [9.0]}
        assert given_up(histories, "minimize") == set()
        assert given_up({cell: values[:2] for cell, values in histories.items()}, "minimize") == {2, 3}

    def test_large_values_may_be_the_better_ones(self) -> None:
        assert given_up({0: [0.1], 1: [0.9], 2: [0.5], 3: [0.7]}, "maximize") == {0, 2}


class TestRanking:
    SCORES = torch.tensor(
        [[0.5, 0.9], [0.7, 0.8], [0.7, 0.3], [0.6, 0.1], [0.7, 0.3], [0.9, math.nan], [0.6, math.inf]]
    )

    def test_by_accuracy_then_loss_then_order(self) -> None:
        assert ranked(self.SCORES, "val_accuracy") == [5, 2, 4, 1, 3, 6, 0]

    def test_by_loss_then_accuracy_then_order(self) -> None:
        assert ranked(self.SCORES, "val_loss") == [3, 2, 4, 1, 0, 5, 6]

    def test_equal_means_of_counts_are_equal_and_the_loss_decides(self) -> None:
        right = torch.tensor([[1, 1], [10, 1], [1, 10]], dtype=torch.float64) / 10
        assert right.mean(0)[0] != right.mean(0)[1]  # the last bit, and no more
        for loss, expected in ((0.2, [1, 0]), (0.3, [0, 1]), (0.3 + 1e-16, [0, 1])):
            scores = torch.stack([right, torch.tensor([0.3, loss], dtype=torch.float64).expand(3, 2)], dim=2)
            for order in (scores, scores[[2, 0, 1]], scores.mean(0)):
                assert ranked(order, "val_accuracy") == expected
                assert best(order, "val_accuracy", [0, 1]) == expected[0]
        assert value(scores[:, 0], "val_accuracy") == value(scores[:, 1], "val_accuracy") == 0.4

    @drawn
    @given(
        st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8),
        st.randoms(use_true_random=False),
    )
    def test_means_are_compared_as_counts(self, learners: list[tuple[int, float, float]], random: Random) -> None:
        # Cells are right on so many of each learner's samples; the same sum of shares may come about in many ways.
        counts = [[(round(a * n), n), (round(b * n), n)] for n, a, b in learners]
        first, second = (sum(Fraction(*learner[cell]) for learner in counts) for cell in (0, 1))
        random.shuffle(counts)
        scores = torch.tensor([[[k / n, 1.0] for k, n in learner] for learner in counts], dtype=torch.float64)
        assert ranked(scores, "val_accuracy") == ([0, 1] if first >= second else [1, 0])

    def test_halving_is_told_means_of_counts(self) -> None:
        search = METHODS.build('tuned(method="kd", grid={"weight": [0.1, 0.9]}, pruner="halving", rounds=2)')
        assert isinstance(search, Search)
        node, scores = server(clients=3), torch.full((3, 2, 2, 2), math.nan, dtype=torch.float64)
        scores[:, :, 0, 0] = torch.tensor([[1, 1], [1, 10], [10, 1]]) / 10
        scores[:, :, 0, 1] = torch.tensor([0.2, 0.3])
        for loss, stopped in ((0.3, {1}), (0.1, {0})):
            scores[:, 1, 0, 1] = loss
            node.state |= {"tuning/all": scores, "tuning/batch": torch.tensor([0, 1])}
            assert _given_up(search, node, [0, 1], 1) == stopped

    def test_a_loss_that_is_no_number_wins_no_tie(self) -> None:
        for pair, expected in (([[0.5, math.nan], [0.5, 0.3]], 1), ([[0.5, 0.3], [0.5, math.nan]], 0)):
            assert best(torch.tensor(pair), "val_accuracy", [0, 1]) == expected

    def test_only_what_may_be_chosen_is(self) -> None:
        assert best(self.SCORES, "val_accuracy", [0, 1, 3]) == 1
        assert best(self.SCORES, "val_loss", [0, 1, 5]) == 1
        assert best(self.SCORES, "val_loss", []) == 0


class TestBags:
    @drawn
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 2))
    def test_what_is_packed_is_unpacked_and_equal_bags_take_one_place(self, kinds: list[int], before: int) -> None:
        bags = [{"x": torch.full((2,), float(kind)), "y": torch.tensor(kind)} if kind else {} for kind in kinds]
        first, known = pack(bags[:before])
        packed, digests = pack(bags, known)
        together = first | packed if before else packed
        assert len(digests) == len(set(kinds))
        for kind, number in zip(kinds, shares(packed, len(kinds)), strict=True):
            found = bag(together, number)
            assert list(found) == (["x", "y"] if kind else [])
            assert not kind or (torch.equal(found["x"], torch.full((2,), float(kind))) and int(found["y"]) == kind)
        held = sum(tensor.numel() for name, tensor in together.items() if name.endswith("x"))
        assert held == 2 * len(set(kinds) - {0})

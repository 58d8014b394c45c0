"""Learning-rate schedules, warm-up and clipping: those of torch, over the whole federation, whoever asks when."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR, StepLR

from fedkd.base.added import identity
from fedkd.base.catalogue import parameters, summary
from fedkd.base.errors import UserError
from fedkd.base.spec import parse
from fedkd.base.streams import stream
from fedkd.settings.training import Optimisation, Pretraining, Training
from fedkd.tensors.losses import cross_entropy
from fedkd.training.batch import Batch, Fit
from fedkd.training.descent import clipped
from fedkd.training.fit import fit
from fedkd.training.optimisers import SGD
from fedkd.training.rates import SCHEDULES, Rates
from simulations import listing
from simulations.contents import contents
from simulations.recipe import expand
from tests.small import (
    LABELLED,
    PRETRAINING,
    TRAINING,
    federate,
    node,
    same_outcome,
    same_weights,
    small,
    weights,
)
from tests.small import own_cache as own_cache

LINEAR = '''
from pydantic.dataclasses import dataclass

from fedkd import STRICT
from fedkd.training.rates import RateSchedule


@dataclass(frozen=True, config=STRICT)
class Linear(RateSchedule):
    """Evenly down to a part of the rate."""

    to: float = 0.0
    """what is left"""

    def share(self, time: float, horizon: float) -> float:
        return 1 - (1 - self.to) * time / horizon
'''


def rates(horizon: int, period: int = 4, lr: float = 0.3, **settings: Any) -> list[float]:
    """The rate of every step of a training."""
    found = Rates(Optimisation(lr=lr, **settings), horizon, period)
    return [found.at(step) for step in range(horizon)]


def of_torch(scheduler: type[LRScheduler] | Any, steps: int, lr: float = 0.3, **arguments: Any) -> list[float]:
    """The rate of every step with a scheduler of torch, which is advanced once a step."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    made, found = scheduler(optimiser, **arguments), []
    for _ in range(steps):
        found.append(float(optimiser.param_groups[0]["lr"]))
        optimiser.step()
        made.step()
    return found


class TestSchedules:
    @pytest.mark.parametrize("horizon", [1, 2, 7, 40])
    def test_constant_is_the_rate_to_the_last_bit(self, horizon: int) -> None:
        assert rates(horizon) == [0.3] * horizon

    @pytest.mark.parametrize("floor", [0.0, 0.25, 1.0])
    @pytest.mark.parametrize("horizon", [1, 2, 7, 40])
    def test_cosine_is_that_of_torch_and_of_the_formula(self, horizon: int, floor: float) -> None:
        found = rates(horizon, schedule=f"cosine(floor={floor})")
        assert found == pytest.approx(of_torch(CosineAnnealingLR, horizon, T_max=horizon, eta_min=0.3 * floor))
        formula = [0.3 * (floor + (1 - floor) * (1 + math.cos(math.pi * t / horizon)) / 2) for t in range(horizon)]
        assert found == pytest.approx(formula)
        assert found[0] == 0.3

    @pytest.mark.parametrize(("every", "factor"), [(1, 0.5), (3, 0.1), (10, 0.1), (2, 2.0)])
    def test_step_is_that_of_torch(self, every: int, factor: float) -> None:
        found = rates(40, schedule=f"step(every={every}, factor={factor})")
        assert found == pytest.approx(of_torch(StepLR, 40, step_size=4 * every, gamma=factor))

    @pytest.mark.parametrize("warmup", [0.25, 0.5, 1.0, 2.5])
    def test_warm_up_then_the_schedule_is_that_of_torch(self, warmup: float) -> None:
        steps = round(4 * warmup)

        def both(optimiser: torch.optim.Optimizer) -> SequentialLR:
            rise = LinearLR(optimiser, start_factor=1 / steps, total_iters=max(steps - 1, 1))
            return SequentialLR(optimiser, [rise, CosineAnnealingLR(optimiser, 40 - steps)], [steps])

        found = rates(40, schedule="cosine", warmup=warmup)
        assert found == pytest.approx(of_torch(both, 40), abs=1e-9)
        assert max(found) == found[steps] == 0.3
        assert found[0] == pytest.approx(0.3 / steps)

    def test_no_warm_up_is_none(self) -> None:
        assert rates(20, schedule="cosine", warmup=0.0) == rates(20, schedule="cosine")

    def test_a_warm_up_as_long_as_the_training_is_all_of_it(self) -> None:
        assert rates(8, schedule="cosine", warmup=2.0) == pytest.approx([0.3 * (t + 1) / 8 for t in range(8)])
        assert rates(4, schedule="cosine", warmup=2.0) == pytest.approx([0.3 * (t + 1) / 8 for t in range(4)])

    def test_beyond_the_horizon_the_rate_stays(self) -> None:
        found = Rates(Optimisation(lr=0.3, schedule="cosine(floor=0.5)"), 8, 4)
        assert found.at(8) == found.at(100) == pytest.approx(0.15)

    @pytest.mark.parametrize("name", SCHEDULES.names)
    def test_every_schedule_keeps_the_contract(self, name: str) -> None:
        schedule = SCHEDULES.build(name)
        for horizon in (0.25, 1.0, 7.0, 300.0):
            shares = [schedule.share(horizon * part / 16, horizon) for part in range(17)]
            assert all(math.isfinite(share) and share >= 0 for share in shares)
            assert shares[0] == 1.0
        entry = SCHEDULES.find(parse(name))
        assert len(summary(entry)) > 20
        assert all(len(each.help) > 10 for each in parameters(entry))
        for each in dataclasses.fields(schedule):  # type: ignore[arg-type]
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(schedule, each.name, 0)


class TestClipping:
    @pytest.mark.parametrize("norm", [0.01, 1.0, 1e6])
    def test_it_is_that_of_torch(self, norm: float) -> None:
        rng = stream("clip")
        gradients = tuple(torch.randn(size, generator=rng) for size in (5, 3, 8))
        held = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
        for parameter, gradient in zip(held, gradients, strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(held, norm)
        for parameter, mine in zip(held, clipped(gradients, norm), strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(mine, parameter.grad)

    def test_a_norm_that_no_gradient_reaches_changes_nothing(self) -> None:
        plain, loose, tight = (federate(small("kd", train=replace(TRAINING, clip=clip))) for clip in (0.0, 1e9, 0.1))
        assert same_outcome(plain, loose)
        assert not same_outcome(plain, tight)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rate of every step that is taken by SGD."""
    seen: list[float] = []
    step = SGD.step

    def watched(self: SGD, gradients: Sequence[Tensor], lr: float | None = None) -> None:
        assert lr is not None
        seen.append(lr)
        step(self, gradients, lr)

    monkeypatch.setattr(SGD, "step", watched)
    return seen


def cosine(steps: int, lr: float = TRAINING.lr) -> list[float]:
    """The rates of half a cosine."""
    return [lr * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]


def loss(batch: Batch) -> Tensor:
    return cross_entropy(batch.labelled, batch.labels)


class TestHorizon:
    """A schedule runs over all rounds of a federation: the last step of the last round is its last."""

    @pytest.mark.parametrize("method", ["local", "kd", "dml", 'dp_kd(form="sequential")', "fedavg", "label_smoothing"])
    def test_all_rounds_of_a_client_are_one_curve(self, method: str, taken: list[float]) -> None:
        federate(small(method, rounds=3, start="random", train=replace(TRAINING, schedule="cosine")))
        # Two clients of 10 and 13 samples in batches of 4 take 3 and 4 steps, one client after the other.
        curves = [cosine(9), cosine(12)]
        expected = [rate for round in range(3) for k, curve in ((3, curves[0]), (4, curves[1]))
                    for rate in curve[k * round : k * (round + 1)]]  # fmt: skip
        assert taken == pytest.approx(expected)

    def test_rounds_apart_are_the_training_in_one(self) -> None:
        settings = replace(TRAINING, schedule="cosine", warmup=0.5)
        whole, parts = node(training=settings), node(training=settings)
        fit(whole, Fit(loss, steps=9, first=0, horizon=9, period=3))
        for number in (1, 2, 3):
            resumed = node(round=number, training=settings)  # nothing is left of the rounds before but the weights
            resumed.rounds, resumed.models = 3, parts.models
            fit(resumed, Fit(loss))
        assert same_weights(weights(whole.student), weights(parts.student))

    def test_a_repeated_exchange_takes_the_same_steps(self) -> None:
        of = small("dml", rounds=3, train=replace(TRAINING, schedule="step(every=1, factor=0.5)", warmup=1.0))
        assert same_outcome(federate(of, twice=True), federate(of))

    def test_the_cells_of_a_search_see_the_rates_of_the_rounds(self, taken: list[float]) -> None:
        spec = "tuned_kd(temperatures=[1.0], weights=[0.5], rounds=2)"
        federate(small(spec, rounds=3, start="random", train=replace(TRAINING, schedule="cosine")))
        tried, curve = taken[:6], cosine(9)
        assert tried == pytest.approx(curve[:6])

    def test_pre_training_has_a_curve_of_its_own(self, taken: list[float]) -> None:
        of = small("local", rounds=0, clients=1, seed=77, pretrain=replace(PRETRAINING, schedule="cosine"))
        federate(of)
        assert isinstance(PRETRAINING.epochs, int)
        steps = 2 * PRETRAINING.epochs  # ten samples in batches of eight
        assert taken == pytest.approx(cosine(steps, PRETRAINING.lr))

    def test_pre_training_that_ends_by_itself_has_a_curve_over_300_epochs(self, taken: list[float]) -> None:
        pretrain = replace(PRETRAINING, schedule="cosine", epochs="converged", patience=1, lr=1e-4)
        federate(small("local", rounds=0, clients=1, seed=78, pretrain=pretrain))
        assert taken == pytest.approx(cosine(600, 1e-4)[: len(taken)])

    def test_the_defaults_are_the_numbers_of_before(self) -> None:
        plain = federate(small("kd"))
        assert same_outcome(plain, federate(small("kd", train=replace(TRAINING, schedule="constant"))))
        assert not same_outcome(plain, federate(small("kd", train=replace(TRAINING, schedule="cosine"))))


class TestRecipe:
    def test_defaults_name_nothing(self) -> None:
        added = {"schedule", "warmup", "clip", "precision", "compile"}
        for settings in (Training(), Pretraining()):
            assert not added & identity(settings).keys()
        assert identity(Training(schedule="cosine"))["schedule"] == "cosine"

    def test_a_wrong_schedule_is_told_when_the_recipe_is_read(self) -> None:
        with pytest.raises(UserError, match=r"unknown schedule 'cosin'.*cosine"):
            expand("one", {"method": "kd", "train": {"schedule": "cosin"}})
        with pytest.raises(UserError, match="floor"):
            expand("one", {"method": "kd", "pretrain": {"schedule": "cosine(floor=2.0)"}})

    def test_schedules_sweep(self) -> None:
        recipe = expand("one", {"method": "kd", "train": {"schedule": ["constant", "cosine"], "warmup": 1.0}})
        assert [each.train.schedule for each in recipe.federations] == ["constant", "cosine"]
        assert recipe.swept == ("train.schedule",)


class TestAddingOne:
    """One file is all that a new schedule takes, in `fedkd/training/schedules/` or anywhere else."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "own.py"
        path.write_text(LINEAR)
        return path

    def test_of_one_s_own(self, file: Path, taken: list[float]) -> None:
        schedule = f"{file}:linear(to=0.5)"
        recipe = expand("one", {"method": "local", "train": {"schedule": schedule}})
        assert str(file) in contents(recipe.federations[0]), "and the result knows which file it was"
        federate(small("local", start="random", train=replace(TRAINING, schedule=schedule)))
        assert taken[:3] == pytest.approx([0.1 * (1 - 0.5 * step / 6) for step in range(3)])

    def test_found_by_its_file_name(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import fedkd.training.schedules as package

        (file.parent / "linear.py").write_text(LINEAR)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
        monkeypatch.delitem(SCHEDULES.__dict__, "names", raising=False)
        try:
            assert "linear" in SCHEDULES.names
            assert rates(4, schedule="linear") == pytest.approx([0.3, 0.225, 0.15, 0.075])
            assert "linear" in dict.fromkeys(kind for kind in _listed())
        finally:
            SCHEDULES.__dict__.pop("names", None)


def _listed() -> Iterator[str]:
    yield from listing.CATALOGUES["schedules"].names


def test_a_schedule_of_a_labelled_transfer_set_is_the_same_for_all(taken: list[float]) -> None:
    for method in ("local", "kd"):
        federate(small(method, transfer=LABELLED, start="random", train=replace(TRAINING, schedule="cosine")))
    assert taken[: len(taken) // 2] == taken[len(taken) // 2 :]

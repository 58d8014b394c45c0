"""tuned_kd and tuned against the reference: what is tried, what it costs, what is chosen."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.reference.compare import LABELLED, assert_agree
from tests.reference.tuning import tuned_kd, tuned_local
from tests.reference.world import SERVER

GRID: dict[str, Any] = {"temperatures": [1.0, 4.0], "weights": [0.2, 0.5, 1.0], "rounds": 2}


def written(settings: dict[str, Any]) -> str:
    """Settings as in a spec string."""
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (GRID, {}),
        (GRID | {"temperatures": [2.0], "wire": "float32"}, {"transfer": LABELLED, "clients": 4}),
        (GRID | {"temperatures": [2.0]}, {"clients": 4, "students": [0, 2], "teachers": [1, 2]}),
        ({"temperatures": [3.0], "weights": [0.9], "rounds": 1}, {"transfer": "private"}),
    ],
    ids=str,
)
def test_tuned_kd_agrees(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    assert_agree(f"tuned_kd({written(settings)})", partial(tuned_kd, **settings), **changes)


# So low a learning rate that no prediction changes: all cells are equally accurate, and the loss decides.
SLOW = {"train": {"lr": 1e-5}}


def test_of_equally_accurate_cells_the_one_of_lowest_loss_is_chosen() -> None:
    settings: dict[str, Any] = {"temperatures": [1.0, 2.0], "weights": [0.0, 0.9], "rounds": 1, "wire": "float32"}
    rows = assert_agree(f"tuned_kd({written(settings)})", partial(tuned_kd, **settings), **SLOW).rows
    assert len({value for key, value in rows.items() if key[:2] == (0, 0) and "tuning_accuracy" in key[3]}) == 1
    (chosen,) = [key[3] for key in rows if key[1] == SERVER and "tuning_chosen" in key[3]]
    means = {
        key[3].partition("/")[2]: sum(rows[0, client, *key[2:]] for client in range(3))
        for key in rows
        if "tuning_loss" in key[3]
    }
    assert chosen.partition("/")[2] == min(means, key=means.__getitem__)
    assert means["temperature=1.0,weight=0.5"] > min(means.values()), "the first is not the best"


def test_of_cells_that_do_the_same_the_first_is_chosen() -> None:
    # Without any share of distillation, temperature changes nothing.
    settings: dict[str, Any] = {"temperatures": [4.0, 2.0], "weights": [0.0], "rounds": 3}
    rows = assert_agree(f"tuned_kd({written(settings)})", partial(tuned_kd, **settings), rounds=1, seed=2).rows
    assert (0, SERVER, "", "tuning_chosen/temperature=4.0,weight=0.0") in rows


@pytest.mark.parametrize("select", ["val_accuracy", "val_loss"])
@pytest.mark.parametrize("per", ["federation", "client"])
def test_tuned_agrees(select: str, per: str) -> None:
    settings: dict[str, Any] = {"rounds": 2, "select": select, "per": per}
    lr = [0.02, 0.1, 0.6]
    method = f"tuned(method='local', grid={{'lr': {lr}}}, {written(settings)})"
    assert_agree(method, partial(tuned_local, lr=lr, **settings))

"""What was distilled, and accuracy against noise: shares that add up, levels that are read right."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.noise import accuracy_against_noise
from analysis.figures.taught import taught_bars
from analysis.measures.teaching import noise_levels, taught_shares


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def rows(method: str, **metrics: float) -> list[dict[str, object]]:
    """Two clients in two rounds; the second client's shares are a tenth higher."""
    return [
        {"partition": "iid", "method": method, "seed": seed, "client": client, "metric": name,
         "value": value + 0.1 * client}
        for seed in (0, 1) for client in (0, 1) for name, value in metrics.items()
    ]  # fmt: skip


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        [
            *rows("local", accuracy=0.5),
            *rows("kd(select)", teacher_wrong=0.4, selected=0.5, selected_wrong=0.1),
            *rows("kd(revise)", teacher_wrong=0.3, revised=0.3),
        ]
    )


def test_shares_are_means_and_add_up(table: pd.DataFrame) -> None:
    found = taught_shares(table).set_index("method")
    assert list(found.index) == ["kd(select)", "kd(revise)"]
    parts = found.drop(columns="partition")
    assert parts.sum(axis=1).tolist() == pytest.approx([1, 1])
    assert parts.loc["kd(select)"].to_dict() == pytest.approx(
        {"right": 0.4, "wrong": 0.15, "revised": 0, "left_wrong": 0.3, "left_right": 0.15}
    )
    assert parts.loc["kd(revise)"].to_dict() == pytest.approx(
        {"right": 0.65, "wrong": 0, "revised": 0.35, "left_wrong": 0, "left_right": 0}
    )


def test_where_nothing_was_revised_or_selected_there_are_none(table: pd.DataFrame) -> None:
    assert taught_shares(table[table["method"] == "local"]).empty


def test_bars_reach_one(table: pd.DataFrame, ax: Axes) -> None:
    assert taught_bars(taught_shares(table), ax) is ax
    assert max(patch.get_extents().x1 for patch in ax.patches) == pytest.approx(ax.transData.transform((1, 0))[0])
    assert ax.get_legend_handles_labels()[1] == [
        "distilled, teacher right", "distilled, teacher wrong", "distilled, revised", "left out, teacher wrong",
        "left out, teacher right",
    ]  # fmt: skip


def levels() -> pd.DataFrame:
    names = ["iid", "iid+label_noise(rate=0.4, clients=[3, 4])", "iid+label_noise(rate=0.1)", "dirichlet(alpha=0.1)"]
    return pd.DataFrame(
        [
            {"partition": name, "method": method, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.7}
            for name in names
            for method in ("kd", "local")
        ]
    )


def test_levels_are_read_from_partitions_that_differ_in_nothing_else() -> None:
    found = noise_levels(levels())
    assert found["noise"].tolist() == [0, 0, 0.1, 0.1, 0.4, 0.4]
    assert "dirichlet(alpha=0.1)" not in set(found["partition"])


def test_each_method_is_a_line_over_the_levels(ax: Axes) -> None:
    accuracy_against_noise(noise_levels(levels()), ax)
    assert ax.get_legend_handles_labels()[1] == ["kd", "local"]
    assert list(ax.get_xticks()) == [0, 0.1, 0.4]

"""The further figures: each shows what its rows say, and is drawn only where that is something."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import load
from analysis.drawing.arrivals import arrivals_against
from analysis.drawing.scatter import gain_against
from analysis.drawing.style import looks
from analysis.figure import Block
from analysis.figures import draw_figures, find_figures
from analysis.figures.calibration import calibration_bars
from analysis.figures.classes import class_changes
from analysis.figures.clients import client_spread
from analysis.figures.models import gain_by_model
from analysis.figures.ranks import rank_diagram
from analysis.measures.compare import compare
from analysis.report import make_report
from analysis.statistics.censoring import Reach
from analysis.statistics.ranks import rank_methods
from tests.test_analysis_measures import started
from tests.test_analysis_synthetic import PARTITIONS, Planted, Rich

__all__ = ["started"]


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def rows_of(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def drawn(ax: Axes, label: str) -> tuple[list[float], list[float]]:
    (line,) = [line for line in ax.get_lines() if line.get_label() == label]
    return [list(map(float, np.asarray(data))) for data in (line.get_xdata(), line.get_ydata())]  # type: ignore[return-value]


def test_rank_diagram_says_ranks_bars_and_test(ax: Axes) -> None:
    values = pd.DataFrame({"a": np.arange(9.0), "b": np.arange(9.0) - 1, "c": np.arange(9.0) - 2})
    ranks = rank_methods(values)
    assert rank_diagram(ranks, ax) is ax
    assert (rows_of(ax), texts(ax)) == (["a", "b", "c"], ["1.00", "2.00", "3.00"])
    assert ax.get_xlabel() == "mean rank over 9 (partition, seed), Friedman p < 0.001"
    bars = [line for line in ax.get_lines() if len(np.asarray(line.get_xdata())) == 2]
    widths = [float(np.ptp(np.asarray(line.get_xdata(), dtype=float))) for line in bars]
    assert widths == pytest.approx([ranks.critical] * 3)
    few = rank_diagram(rank_methods(values.iloc[:3]), Figure().add_subplot())
    assert few.get_xlabel() == "mean rank over 3 (partition, seed)"
    assert not few.patches


def test_arrivals_are_one_minus_survival_with_ticks_where_runs_are_lost(ax: Axes) -> None:
    reaches = [Reach(2, True), Reach(6, True), Reach(10, False), Reach(4, False)]
    frame = pd.DataFrame(
        {"method": ["kd"] * 4 + ["local"] * 2, "rounds_to_target": [*reaches, *[Reach(10, False)] * 2]}
    )
    assert arrivals_against(frame, ax, styles=looks(["local", "kd", "dml"])) is ax
    x, y = drawn(ax, "kd")
    assert x == [0, 2, 4, 6, 10, 10]
    # A quarter at 2; of three left one is lost at 4, of two left one arrives at 6.
    assert y == pytest.approx([0, 0.25, 0.25, 0.625, 0.625, 0.625])
    assert drawn(ax, "local")[1] == [0, 0, 0]
    ticks = [line for line in ax.get_lines() if line.get_marker() == "|"]
    assert [list(map(float, np.asarray(line.get_xdata()))) for line in ticks] == [[10], [4, 10]]
    assert texts(ax) == ["0 of 2", "2 of 4"]
    assert ax.get_xlabel() == "rounds"
    with pytest.raises(ValueError, match="at least one run with a target"):
        arrivals_against(frame.iloc[:0], ax)


def test_arrivals_by_bytes_and_start(ax: Axes) -> None:
    reach = [Reach(1024, True), Reach(2048, False)]
    frame = pd.DataFrame({"method": "kd", "start": ["average", "random"], "bytes_to_target": reach})
    arrivals_against(frame, ax, what="bytes", by="start")
    assert ax.get_legend_handles_labels()[1] == ["average", "random"]
    assert drawn(ax, "average")[0] == [0, 1024, 2048]
    assert ax.get_xlabel().startswith("bytes")


def classes(change: float = 0.1) -> pd.DataFrame:
    rows = [(method, str(c), change * (c - 1) * (method == "kd")) for method in ("local", "kd") for c in range(3)]
    return pd.DataFrame(rows, columns=["method", "class", "delta"])


def test_class_changes_are_a_map_of_methods_and_classes(ax: Axes) -> None:
    assert class_changes(classes(), ax) is ax
    (image,) = ax.images
    cells: Any = image.get_array()
    assert cells.tolist() == [[0, 0, 0], [-0.1, 0, pytest.approx(0.1)]]
    assert image.get_clim() == pytest.approx((-0.1, 0.1))
    assert texts(ax) == ["0", "0", "0", "−10", "0", "+10"]
    assert rows_of(ax) == ["local", "kd"]
    other = class_changes(classes().iloc[:-1], Figure().add_subplot(), limit=0.5)
    assert other.images[0].get_clim() == (-0.5, 0.5)
    assert len(other.texts) == 5
    many = pd.DataFrame({"method": "kd", "class": [f"a class {c}" for c in range(100)], "delta": 0.0})
    assert not class_changes(many, Figure().add_subplot()).texts


def test_scatters_show_both_intervals_and_leave_out_what_was_not_measured(ax: Axes) -> None:
    rows = pd.DataFrame(
        {"method": ["local", "kd", "dml"], "delta": [0.0, 0.02, 0.05], "forgetting": [0.0, 0.03, np.nan]}
    )
    rows = rows.assign(delta_low=rows["delta"] - 0.01, delta_high=rows["delta"] + 0.02)
    rows = rows.assign(forgetting_low=rows["forgetting"] - 0.01, forgetting_high=np.nan)
    assert gain_against(rows, ax, "forgetting", "forgetting, points") is ax
    assert ax.get_legend_handles_labels()[1] == ["local", "kd"]
    bars: Any = {container.get_label(): container for container in ax.containers}
    assert not bars["kd"].has_xerr
    segment = np.asarray(bars["kd"].lines[2][0].get_segments()[0])
    np.testing.assert_allclose(segment, [[0.03, 0.01], [0.03, 0.04]])
    assert ax.get_xlabel() == "forgetting, points"


def test_client_spread_holds_every_client(ax: Axes) -> None:
    gains = pd.DataFrame({"method": ["kd"] * 5 + ["dml"] * 5, "delta": [0, 1, 2, 3, 10, *[1.0] * 5]})
    assert client_spread(gains, ax) is ax
    dots = [np.asarray(line.get_xdata()) for line in ax.get_lines() if line.get_marker() == "o"]
    assert [sorted(map(float, each)) for each in dots] == [[0, 1, 2, 3, 10], [1] * 5]
    box: Any = ax.patches[0]
    assert (box.get_x(), box.get_width()) == (1, 2)
    assert rows_of(ax) == ["kd", "dml"]
    many = client_spread(pd.DataFrame({"method": "kd", "delta": np.arange(121.0)}), Figure().add_subplot())
    assert not [line for line in many.get_lines() if line.get_marker() == "o"]


def test_calibration_bars_have_the_start_and_the_interval(ax: Axes) -> None:
    rows = pd.DataFrame({"method": ["local", "kd"], "ece": [0.1, 0.05], "ece_low": [0.08, np.nan]})
    rows = rows.assign(ece_high=[0.13, np.nan], start_ece=[0.12, 0.12])
    assert calibration_bars(rows, ax) is ax
    bars: Any = ax.patches
    assert [bar.get_width() for bar in bars[:2]] == [0.1, 0.05]
    ticks = [line for line in ax.get_lines() if line.get_marker() == "|" and len(np.asarray(line.get_xdata())) == 2]
    assert any(list(np.asarray(line.get_xdata())) == [0.12, 0.12] for line in ticks)
    assert ax.get_legend_handles_labels()[1] == ["round 0", "last round"]


def test_models_stand_beside_each_other(ax: Axes) -> None:
    rows = pd.DataFrame({"method": ["kd", "kd", "dml"], "model": ["cnn", "mlp", "mlp"], "delta": [0.01, 0.02, 0.03]})
    rows = rows.assign(delta_low=rows["delta"] - 0.01, delta_high=rows["delta"] + 0.01)
    assert gain_by_model(rows, ax) is ax
    assert ax.get_legend_handles_labels()[1] == ["cnn", "mlp"]
    bars: Any = ax.containers
    mlp = bars[1].lines[0]
    assert list(np.asarray(mlp.get_xdata())) == [0.02, 0.03]
    at = np.asarray(mlp.get_ydata())
    assert at[1] - at[0] == 1
    assert 0 < at[0] < 0.5


ALWAYS = {"accuracy-rounds", "accuracy-bytes", "gain", "knowledge"}
"""Figures of every block in which something has finished."""


def speaking(block: Block) -> set[str]:
    """The figures that have something to say of a block."""
    figures = find_figures().items()
    return {name for name, each in figures if each.of_study == (not block.title) and list(each.sheets(block))}


def test_every_figure_is_drawn_where_it_has_something_to_say(tmp_path: Path) -> None:
    rich = Rich(methods=("local", "kd", "fedavg", "pooled"), rounds=2, clients=3, partitions=PARTITIONS[:2])
    folder = rich.write(tmp_path)
    rich_table = load(folder)
    own = rich_table["client"].to_numpy()
    # One client pays for all the others.
    spread = (
        (rich_table["metric"] == "accuracy") & (rich_table["round"] == 2) & (own == 2) & (rich_table["split"] == "test")
    )
    rich_table.loc[spread, "value"] -= 0.2
    late = (rich_table["metric"] == "agreement") & (rich_table["method"] == "kd")
    rich_table.loc[late, "value"] += 0.2
    rich_table.insert(8, "model", np.where(own < 0, "", np.where(own == 1, "mlp", "cnn")))
    summary = compare(rich_table)
    found = draw_figures(Block(rich_table, summary, "digits", rich.methods), tmp_path)
    names = [
        *ALWAYS,
        "agreement",
        "arrivals",
        "calibration",
        "classes",
        "clients",
        "forgetting",
        "models",
        "teacher-accuracy",
    ]
    assert sorted(picture.png.stem for picture in found) == sorted(names)
    for picture in found:
        assert picture.svg.stat().st_size > 5000
        assert picture.title.endswith(": digits")
        assert len(picture.caption) > 60


def test_nothing_is_drawn_where_nothing_happened(tmp_path: Path) -> None:
    table = load(Planted(rounds=2, clients=3, partitions=PARTITIONS[:1], gain={}, noise=0.0).write(tmp_path))
    assert speaking(Block(table, compare(table), "digits")) == {*ALWAYS, "tuning"}
    assert not speaking(Block(table, compare(table)))


def test_classes_that_were_not_measured_at_both_ends_are_not_drawn(tmp_path: Path) -> None:
    rich = Rich(methods=("local", "kd"), rounds=1, clients=2, partitions=PARTITIONS[:1])
    table = load(rich.write(tmp_path))
    late = table["metric"].str.startswith("accuracy/") & (table["round"] == 1)
    summary = compare(table)
    assert "classes" in speaking(Block(table, summary, "digits"))
    assert "classes" not in speaking(Block(table[~late], summary, "digits"))


def test_ranks_take_eight_blocks_and_three_methods(tmp_path: Path) -> None:
    for number, (seeds, methods, expected) in enumerate(((3, 3, set()), (4, 2, set()), (4, 3, {"ranks"}))):
        names = ("local", "kd", "dml")[:methods]
        gain = {"local": 0.004, "kd": 0.006, "dml": 0.008}
        planted = Planted(methods=names, partitions=PARTITIONS[:2], seeds=range(seeds), rounds=1, clients=2, gain=gain)
        table = load(planted.write(tmp_path / str(number)))
        assert speaking(Block(table, compare(table), "digits", names)) & {"ranks"} == expected


def test_starts_are_compared_across_blocks(started: pd.DataFrame, tmp_path: Path) -> None:
    (picture,) = draw_figures(Block(started, compare(started)), tmp_path)
    assert picture.png.stem == "starts"
    assert "rounds of a consolidation count" in picture.caption
    one = started[started["start"] == "kd"]
    assert not speaking(Block(one, compare(one)))


def test_a_rich_study_reports_as_a_whole(tmp_path: Path) -> None:
    Rich(methods=("local", "kd", "pooled"), partitions=("iid",), rounds=2, clients=3).write(tmp_path)
    text = make_report(tmp_path).read_text()
    for saying in ("Rounds to 90 % of pooled", "Calibration", "Change of every class", "teacher loss", "Holm"):
        assert saying in text
    targets = pd.read_csv(tmp_path / "targets.csv")
    assert set(targets["arm"]) == {"local", "kd"}
    assert set(targets["share"]) == {0.8, 0.9, 0.95}

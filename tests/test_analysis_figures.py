"""Every plot takes an ax, gives it back, and shows what the table says."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import load
from analysis.drawing.partitions import partition_heatmap, partition_measures, partition_picture
from analysis.drawing.picture import slug
from analysis.drawing.rows import rows_height
from analysis.drawing.style import labels, legend_below, looks, panels, save, styled, wrap
from analysis.figures.accuracy_bytes import accuracy_against_bytes
from analysis.figures.accuracy_rounds import accuracy_against_rounds
from analysis.figures.gain import delta_intervals
from analysis.figures.knowledge import gained_and_lost
from analysis.figures.tuning import tuning_heatmap
from analysis.measures.compare import compare
from analysis.measures.tuning import parameters, tuning_grid
from tests.test_analysis_synthetic import METHODS, PARTITIONS, Planted


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    planted = Planted(rounds=4, clients=3, partitions=PARTITIONS[:1])
    return load(planted.write(tmp_path_factory.mktemp("results")))


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def line(ax: Axes, label: str) -> np.ndarray:
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return np.asarray(found.get_ydata())


def texts(ax: Axes) -> set[str]:
    return {text.get_text() for text in ax.texts}


def test_accuracy_against_rounds(panel: pd.DataFrame, ax: Axes) -> None:
    assert accuracy_against_rounds(panel, ax) is ax
    rows = panel[(panel["metric"] == "accuracy") & (panel["split"] == "test") & (panel["method"] == "dml")]
    np.testing.assert_allclose(line(ax, "dml"), rows.groupby("round")["value"].mean())
    assert len(ax.collections) == len(METHODS)
    assert ax.get_xlabel() == "rounds (local epochs)"
    every_round = panel[panel["method"].isin(["local", "dml"])]
    assert accuracy_against_rounds(every_round, Figure().add_subplot()).get_xlabel() == "rounds"


def test_accuracy_axes_end_at_100_and_two_seeds_have_no_band(panel: pd.DataFrame) -> None:
    high = panel.copy()
    scored = (high["metric"] == "accuracy") & (high["split"] == "test")
    high.loc[scored, "value"] = np.minimum(high.loc[scored, "value"] + 0.12, 1.0)
    for draw in (accuracy_against_rounds, accuracy_against_bytes):
        ax = draw(high, Figure().add_subplot())
        assert 0 <= ax.get_ylim()[0] < ax.get_ylim()[1] <= 1.0
    ax = accuracy_against_rounds(high[high["seed"] < 2], Figure().add_subplot())
    edges = [path.vertices for band in ax.collections for path in band.get_paths()]
    assert sum(np.isfinite(np.asarray(edge)).all(axis=1).sum() for edge in edges) == 0
    low, top = delta_intervals(compare(high).rows, Figure().add_subplot()).get_xlim()
    assert -1 <= low < top <= 1


def test_one_seed_and_one_round_draw_too(panel: pd.DataFrame, tmp_path: Path) -> None:
    one = panel[(panel["seed"] == 0) & (panel["method"] == "kd")]
    with styled():
        for number, table in enumerate((one, one[one["round"] == 0])):
            figure, axes = panels(2)
            accuracy_against_rounds(table, axes[0])
            accuracy_against_bytes(table, axes[1])
            assert len(line(axes[0], "kd")) == table["round"].nunique()
            assert all(save(figure, tmp_path / str(number)))


def test_accuracy_against_bytes(panel: pd.DataFrame, ax: Axes) -> None:
    assert accuracy_against_bytes(panel, ax) is ax
    (dml,) = [line for line in ax.get_lines() if line.get_label() == "dml"]
    # 3 clients send 27 kB at the start, then receive and send until the last round, which only receives.
    assert list(np.asarray(dml.get_xdata())) == [3 * 27_000 * (1 + 2 * number) for number in range(4)] + [
        3 * 27_000 * 8
    ]
    assert len(set(line(ax, "local (sends nothing)"))) == 1
    assert ax.get_xscale() == "linear"


def test_costs_of_different_size_get_a_logarithmic_axis(panel: pd.DataFrame, ax: Axes) -> None:
    dear = panel.copy()
    dear.loc[(dear["method"] == "dml") & dear["metric"].str.startswith("bytes"), "value"] *= 1000
    accuracy_against_bytes(dear, ax)
    assert ax.get_xscale() == "log"


def test_nothing_sent_is_said(panel: pd.DataFrame, ax: Axes) -> None:
    accuracy_against_bytes(panel[panel["method"] == "local"], ax)
    assert ax.get_xlabel() == "no method sent anything"


def test_tuning_grid_and_heatmap(panel: pd.DataFrame, ax: Axes) -> None:
    grid = tuning_grid(panel)
    assert len(grid) == 36
    cell = grid[(grid["temperature"] == 4.0) & (grid["weight"] == 0.9)].iloc[0]
    rows = panel[panel["metric"] == "tuning_accuracy/temperature=4.0,weight=0.9"]
    assert cell["accuracy"] == pytest.approx(rows["value"].mean())
    assert (cell["chosen"], cell["choices"]) == (2, 3)
    assert grid["chosen"].sum() == 3
    assert tuning_heatmap(panel, ax) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("temperature", "weight")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4", "8", "10", "20"]
    assert len(ax.patches) == 2
    assert any(text.endswith("2 of 3") for text in texts(ax))


def tuned(cells: dict[str, float]) -> pd.DataFrame:
    rows = [("f0", "tuned_kd", 0, "val", f"tuning_accuracy/{cell}", score) for cell, score in cells.items()]
    return pd.DataFrame(rows, columns=["federation", "method", "client", "split", "metric", "value"])


def test_heatmap_of_three_parameters_shows_the_best_over_the_third(ax: Axes) -> None:
    cells = {
        f"rate={rate},weight={w},temperature={t}": 0.1 * t + w + rate
        for rate in (0, 1)
        for w in (0.1, 0.2)
        for t in (1, 2)
    }
    tuning_heatmap(tuned(cells), ax)
    assert "best over rate" in texts(ax)
    assert {"120.0", "140.0"} <= texts(ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("temperature", "weight")


def test_heatmaps_of_few_and_odd_cells() -> None:
    for cells in (
        {"temperature=4.0": 0.5},
        {"a=1": 0.1, "a=2": 0.1},
        {"not a cell(": 0.5},
        {"revise='labels(eta=0.8, b=1)'": 0.5, "revise=None": 0.4},
    ):
        tuning_heatmap(tuned(cells), Figure().add_subplot())
    blank = tuning_heatmap(tuned({"a=1,b=1": 0.1, "a=2,b=2": 0.2}), Figure().add_subplot())
    assert len(blank.texts) == 2
    with pytest.raises(ValueError, match="one tuned method, found 0"):
        tuning_heatmap(tuned({}).astype({"metric": "str"}), Figure().add_subplot())


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("temperature=4.0,weight=0.5", {"temperature": 4.0, "weight": 0.5}),
        ("revise='labels(eta=0.8, b=2)',weight=1", {"revise": "labels(eta=0.8, b=2)", "weight": 1}),
        ("merge=probabilities", {"merge": "probabilities"}),
        ("anything else", {"cell": "anything else"}),
        ("__import__('os')", {"cell": "__import__('os')"}),
    ],
)
def test_cell_names(cell: str, expected: dict[str, object]) -> None:
    assert parameters(cell) == expected


def test_partition_picture_heights(ax: Axes) -> None:
    counts = np.array([[3, 0, 5], [0, 0, 0], [1, 2, 3]])
    assert partition_picture(counts, ["a", "b", "c"], ax) is ax
    tops = np.zeros(3)
    for container in ax.containers:
        for place, bar in enumerate(container):
            tops[place] += bar.get_height()
    assert tops.tolist() == [8, 0, 6]
    with pytest.raises(ValueError, match="3 classes, but 2 class names"):
        partition_picture(counts, ["a", "b"], ax)
    with pytest.raises(ValueError, match="non-negative"):
        partition_picture([[-1]], ["a"], ax)


def test_partition_picture_of_many(tmp_path: Path) -> None:
    with styled():
        figure, (ax,) = panels(1)
        counts = np.random.default_rng(0).integers(0, 5, (100, 100))
        partition_picture(counts, [f"class {place}" for place in range(100)], ax)
        assert not ax.get_legend_handles_labels()[1]
        svg, _ = save(figure, tmp_path / "many")
    assert svg.stat().st_size < 1_000_000


def test_partition_measures() -> None:
    measures = partition_measures([[5, 5, 5, 5], [7, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]])
    assert measures["samples"].tolist() == [20, 7, 0, 2]
    assert measures["classes"].tolist() == [4, 1, 0, 2]
    assert measures["entropy"].tolist() == pytest.approx([2.0, 0.0, 0.0, 1.0])


def test_gains_of_a_summary(panel: pd.DataFrame) -> None:
    rows = compare(panel).rows
    for draw in (gained_and_lost, delta_intervals):
        ax = Figure().add_subplot()
        assert draw(rows, ax) is ax
        assert [label.get_text() for label in ax.get_yticklabels()] == rows["method"].tolist()
    unknown = rows.assign(gained=np.nan, lost=np.nan, delta=np.nan, delta_low=np.nan, delta_high=np.nan)
    gained_and_lost(unknown, Figure().add_subplot())
    delta_intervals(unknown, Figure().add_subplot())


def test_looks_are_stable_and_differ() -> None:
    many = [*METHODS, *(f"kd(temperature={place})" for place in range(40)), "local(public=false)"]
    found = looks(many)
    assert len(set(found.values())) == len(many)
    assert looks(many[:7]) == {method: found[method] for method in many[:7]}
    assert looks(["dml", "kd"])["kd"].color == found["kd"].color


def test_labels_are_short_whole_and_unlike() -> None:
    assert wrap("kd(temperature=4.0)") == "kd(temperature=4.0)"
    assert wrap("kd(temperature=4.0, weight=0.5)") == "kd(temperature=4.0,\nweight=0.5)"
    assert wrap("some/where/mine.py:cool(a=1)") == "mine.py:cool(a=1)"
    assert wrap("images:a/b(c=1)") == "images:a/b(c=1)"
    assert wrap("$x$") == r"\$x\$"
    assert not wrap("_hidden").startswith("_")
    long = [f"kd({', '.join(f'parameter_{place}={place}' for place in range(20))}, last={last})" for last in (1, 2)]
    short = labels(long)
    assert len(set(short.values())) == 2
    assert all(len(text.splitlines()) <= 3 for text in short.values())
    assert max(len(row) for row in wrap("x" * 200).splitlines()) <= 26


def test_no_word_of_a_label_is_broken() -> None:
    spec = "a_long_file_name_of_a_method.py:confident_distillation(threshold=0.9, weights=[0.1, 0.55])"
    rows = wrap(spec, 22, 9).splitlines()
    assert "".join(rows).replace(" ", "") == spec.replace(" ", "")
    words = set(re.findall(r"[a-z]+|[\d.]*\d", spec))
    assert set(re.findall(r"[a-z]+|[\d.]*\d", " ".join(rows))) == words
    # A word that no line has room for is cut, and shows that it was.
    assert "…" in wrap("incomprehensibilities_of_models", 12)


def test_rows_have_room_for_their_labels() -> None:
    short, long = ["kd"] * 1, ["kd(temperature=4.0, weight=0.5, revise='labels(eta=0.8)')"]
    assert rows_height(long) > rows_height(short)
    assert rows_height([*short, "dml"]) > rows_height(short)


def test_a_map_tells_one_sample_from_none(ax: Axes) -> None:
    counts = np.zeros((50, 100), dtype=int)
    counts[3, 7], counts[4, 8] = 1, 1000
    partition_heatmap(counts, [str(place) for place in range(100)], ax)
    (image,) = ax.get_images()
    held = image.get_array()
    assert held is not None
    drawn = image.to_rgba(held)
    white, one, most = drawn[0, 0], drawn[7, 3], drawn[8, 4]
    assert white[3] == 0, "nobody's cells are transparent"
    assert one[:3].mean() < 0.95
    assert most[:3].mean() < one[:3].mean()


def test_slugs_are_safe_and_unlike() -> None:
    assert slug("digits") == "digits"
    evil = ["../../etc/passwd", "a b", "a-b", "a  b", "é", "ü", "x" * 300, "x" * 299]
    found = [slug(text) for text in evil]
    assert len(set(found)) == len(evil)
    assert all(len(text) <= 50 and not set(text) & set("/. ") for text in found)


def test_drawing_leaves_no_trace(panel: pd.DataFrame, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    with styled():
        figure, axes = panels(2)
        for ax in axes:
            accuracy_against_rounds(panel, ax)
        legend_below(figure, axes)
        first = [path.read_bytes() for path in save(figure, tmp_path / "one")]
        again = [path.read_bytes() for path in save(figure, tmp_path / "two")]
    assert dict(mpl.rcParams) == before
    assert all(first)
    assert first == again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "one.svg", "two.png", "two.svg"]


def test_labels_in_any_script_are_no_reason_to_fail(tmp_path: Path) -> None:
    with styled():
        figure, (ax,) = panels(1)
        partition_picture([[1, 2], [3, 4]], ["猫", "$_x"], ax)
        legend_below(figure, [ax])
        save(figure, tmp_path / "scripts")

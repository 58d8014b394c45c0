"""A figure is one file: found by its name, held to its contract, and in the report without another change."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import analysis.figures
from analysis.figure import Figure
from analysis.figures import find_figures
from analysis.report import make_report
from tests.test_analysis_synthetic import Planted

SHIPPED = list(analysis.figures.__path__)

ADDED = '''
from collections.abc import Iterator
from functools import partial

from analysis.drawing.picture import Sheet
from analysis.figure import Block, Figure


def worst(rows, ax, colour):
    """The worst client of every method."""
    ax.bar(rows["method"], rows["worst_client"], color=colour)
    return ax


class Worst(Figure):
    order = 35

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if block.results:
            yield Sheet("Worst client", "Nobody should end far below the others.", block.panels(worst, colour="k"))
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files are the figures."""
    added = tmp_path / "figures"
    added.mkdir()
    monkeypatch.setattr(analysis.figures, "__path__", [str(added)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("worst_one", "nothing"):
        monkeypatch.setitem(sys.modules, f"analysis.figures.{name}", None)
        monkeypatch.delitem(sys.modules, f"analysis.figures.{name}")
    return added


def test_an_added_file_is_a_figure_of_the_report(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "worst_one.py").write_text(ADDED, encoding="utf-8")
    results = Planted(methods=("local", "kd"), rounds=1, clients=2, seeds=range(2)).write(tmp_path / "results")
    text = make_report(results).read_text(encoding="utf-8")
    assert [path.stem for path in (results / "figures").glob("*.png")] == ["worst-one"]
    assert "Worst client: digits" in text
    assert "Nobody should end far below the others." in text
    monkeypatch.setattr(analysis.figures, "__path__", [*SHIPPED, str(folder)])
    names = list(find_figures())
    assert names.index("gain") < names.index("worst-one") < names.index("knowledge")


def test_a_file_without_a_figure_is_refused_by_its_name(folder: Path) -> None:
    (folder / "nothing.py").write_text("X = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"nothing\.py: it should hold one class of Figure, found 0"):
        find_figures()


def test_every_shipped_figure_keeps_the_contract() -> None:
    figures = find_figures()
    files = {path.stem.replace("_", "-") for path in Path(analysis.figures.__file__).parent.glob("[a-z]*.py")}
    assert set(figures) == files
    for of_study in (False, True):
        orders = [figure.order for figure in figures.values() if figure.of_study == of_study]
        assert len(set(orders)) == len(orders), "two figures stand at one place"
        assert orders == sorted(orders)
    assert all(isinstance(figure, Figure) and type(figure).sheets is not Figure.sheets for figure in figures.values())

"""The folders of `analysis/` and the arrows between them."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from tests.conftest import ROOT

BELOW = {
    "results": set(),
    "statistics": {"results"},
    "measures": {"statistics", "results"},
    "drawing": {"statistics", "results"},
    "figures": {"drawing", "measures", "statistics", "results"},
    "page": {"drawing", "measures", "statistics", "results"},
}
"""What each folder may import, beside itself."""


def imported(path: Path) -> set[Path]:
    """The files of `analysis/` that one of them imports, under TYPE_CHECKING too."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        result |= {file for name in names if (file := ROOT / f"{name.replace('.', '/')}.py").is_file()}
    return {file for file in result if file.is_relative_to(ROOT / "analysis")}


def arrows() -> dict[Path, set[Path]]:
    """Every file of `analysis/` with the files of it that it imports."""
    return {path: imported(path) for path in sorted((ROOT / "analysis").rglob("*.py"))}


def test_every_folder_is_known() -> None:
    folders = {path.parent.name for path in (ROOT / "analysis").glob("*/*.py")}
    assert folders == set(BELOW)
    assert {path.name for path in (ROOT / "analysis").glob("*.py")} == {"__init__.py", "report.py"}


def test_arrows_between_folders_run_down_only() -> None:
    for path, used in arrows().items():
        folder = path.parent.name
        if folder in BELOW:
            entered = {other.parent.name for other in used} - {folder}
            assert entered <= BELOW[folder], (path, entered)


def test_no_circle_between_files() -> None:
    graph = arrows()
    assert len(graph) > 30
    TopologicalSorter(graph).prepare()  # raises CycleError

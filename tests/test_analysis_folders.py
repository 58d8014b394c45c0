"""The folders of `analysis/` and the arrows between them."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from tests.conftest import ROOT

BELOW: dict[str, set[str]] = {
    "results": set(),
    "statistics": {"results"},
    "measures": {"statistics", "results"},
    "drawing": {"statistics", "results"},
    "figure.py": {"drawing", "measures", "statistics", "results"},
    "figures": {"figure.py", "drawing", "measures", "statistics", "results"},
    "page": {"drawing", "measures", "statistics", "results"},
    "report.py": {"page", "figures", "figure.py", "drawing", "measures", "statistics", "results"},
}
"""What each folder, or file beside them, may import, beside itself."""


def part(path: Path) -> str:
    """The folder of a file, or the file itself where it stands beside them."""
    return path.relative_to(ROOT / "analysis").parts[0]


def imported(path: Path) -> set[Path]:
    """The files of `analysis/` that one of them imports, under TYPE_CHECKING too."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            target = ROOT / name.replace(".", "/")
            result |= {file for file in (target.with_suffix(".py"), target / "__init__.py") if file.is_file()}
    return {file for file in result if file.is_relative_to(ROOT / "analysis")} - {path}


def arrows() -> dict[Path, set[Path]]:
    """Every file of `analysis/` with the files of it that it imports."""
    return {path: imported(path) for path in sorted((ROOT / "analysis").rglob("*.py"))}


def test_every_folder_is_known() -> None:
    assert {part(path) for path in (ROOT / "analysis").rglob("*.py")} == {*BELOW, "__init__.py"}


def test_arrows_between_folders_run_down_only() -> None:
    for path, used in arrows().items():
        if part(path) in BELOW:
            entered = {part(other) for other in used} - {part(path)}
            assert entered <= BELOW[part(path)], (path, entered)


def test_no_circle_between_files() -> None:
    graph = arrows()
    assert len(graph) > 30
    TopologicalSorter(graph).prepare()  # raises CycleError

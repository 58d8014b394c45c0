"""The rooms and the arrows between them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import rooms
from tests.conftest import ROOT

ROOMS = ("fedkd", "partitions", "analysis", "simulations")
MAY_IMPORT = {
    "fedkd": {"fedkd"},
    "partitions": {"partitions"},
    "analysis": {"analysis"},
    "simulations": set(ROOMS),
}
FLOWER_SIDE = "fedkd/flower/"
"""The folder of the library that knows Flower; all others train without it."""
FLOWER_NAMES = {"fedkd/apps.py", "fedkd/strategy.py"}
"""What is in it, under the names that projects import it by."""
ENGINE = "simulations/engine/"
DEPRECATED_OR_PRIVATE = ("flwr.simulation", "flwr.supercore", "flwr.server", "flwr.client", "flwr.proto")


FLOORS = (
    {"base"},
    {"channels", "data", "tensors"},
    {"models"},
    {"knowledge", "settings"},
    {"node"},
    {"training"},
    {"method.py"},
    {"difference_sampling", "distillation"},
    {"protocol", "tuning"},
    {"flower", "methods"},
)
"""The rooms of `fedkd/`, from the ground: each imports from those below it only."""


def files(*names: str) -> list[str]:
    """Every Python file of some rooms, relative to the repository."""
    found = [path.relative_to(ROOT).as_posix() for room in names for path in (ROOT / room).rglob("*.py")]
    assert found
    return sorted(found)


def imports(file: str) -> Iterator[str]:
    """The full name of everything that a file imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(name: str) -> str:
    """The first part of a dotted name."""
    return name.partition(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    for file in files(room):
        entered = {package(name) for name in imports(file)} & {*ROOMS, "tests", "benchmarks"}
        assert entered <= MAY_IMPORT[room], file


def test_no_room_is_imported_by_a_computed_name() -> None:
    # What `ast` cannot see: the catalogues import the files of the packages that they are given.
    allowed = {"fedkd/base/catalogue.py", "fedkd/data/sources/__init__.py", "analysis/figures/__init__.py"}
    for file in files(*ROOMS):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert file in allowed or ("import_module" not in text and "__import__" not in text), file


def test_flower_is_known_to_one_folder_of_the_library() -> None:
    knowing = {file for file in files("fedkd") if any(package(name) == "flwr" for name in imports(file))}
    assert knowing
    assert all(file.startswith(FLOWER_SIDE) for file in knowing)


def test_the_training_core_imports_no_file_that_knows_flower() -> None:
    for file in files("fedkd"):
        if not file.startswith(FLOWER_SIDE) and file not in FLOWER_NAMES:
            known = ("fedkd.flower", "fedkd.apps", "fedkd.strategy")
            assert not [name for name in imports(file) if name.startswith(known)], file


def test_training_runs_without_flower_or_ray_in_the_process() -> None:
    script = """
import sys
import fedkd, fedkd.data, fedkd.protocol.client, fedkd.training.pretrain, fedkd.tuning.search
from fedkd.method import METHODS
from fedkd.models import ARCHITECTURES
assert len(METHODS.names) >= 5 and len(ARCHITECTURES.names) >= 3
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"flwr", "ray", "sklearn", "pandas", "matplotlib", "partitions", "analysis", "simulations"}


def test_ray_is_touched_by_the_engine_alone() -> None:
    touching = {file for file in files(*ROOMS) if any(package(name) == "ray" for name in imports(file))}
    assert touching
    assert all(file.startswith(ENGINE) for file in touching)


def test_deprecated_and_private_parts_of_flower_are_touched_by_the_engine_alone() -> None:
    touching = set()
    for file in files(*ROOMS):
        private = [
            name
            for name in imports(file)
            if f"{name}.".startswith(tuple(f"{prefix}." for prefix in DEPRECATED_OR_PRIVATE))
            or (package(name) == "flwr" and any(part.startswith("_") for part in name.split(".")))
        ]
        # The whole name: reply_to_message_id is public.
        if private or re.search(r"\b_message_id\b", (ROOT / file).read_text(encoding="utf-8")):
            touching.add(file)
    assert touching
    assert all(file.startswith(ENGINE) for file in touching)


def test_the_application_starts_without_ray_or_flower() -> None:
    # `fedkd list` and a wrong recipe answer at once.
    script = "import sys, simulations.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not set(done.stdout.split()) & {"flwr", "ray", "torch", "pandas", "matplotlib"}


def test_every_file_of_a_room_is_reached_from_its_root() -> None:
    # A room is an import package all the way down: a folder without __init__.py would be missing from the wheel.
    for room in ROOMS:
        for folder in {Path(file).parent for file in files(room)}:
            assert (ROOT / folder / "__init__.py").is_file(), folder


def test_no_file_imports_itself_through_others() -> None:
    assert rooms.circles(rooms.links()) == []


def test_no_room_imports_itself_through_others() -> None:
    assert rooms.circles(rooms.arrows()) == []


def test_arrows_inside_the_library_run_down() -> None:
    floor = {f"fedkd/{room}": number for number, here in enumerate(FLOORS) for room in here}
    graph = {room: below for room, below in rooms.arrows().items() if room.startswith("fedkd/")}
    assert graph.keys() == floor.keys(), "every room has a floor"
    upwards = [(room, other) for room, below in graph.items() for other in below if floor[other] >= floor[room]]
    assert upwards == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str](), "e": {"e", "a"}}
    assert rooms.circles(graph) == [["b", "c"]]
    assert rooms.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_the_picture_in_the_architecture_is_that_of_the_code() -> None:
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.svg(), "make it anew: python -m docs.rooms"
    assert f"({rooms.PICTURE.relative_to(ROOT).as_posix()})" in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_no_function_is_longer_than_60_lines_and_no_file_than_300() -> None:
    for file in files(*ROOMS):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, f"{file}: {node.name}"

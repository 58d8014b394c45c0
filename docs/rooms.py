"""The rooms of the project and the arrows between them, read from the imports: a picture for ARCHITECTURE.md.

    python -m docs.rooms          # writes docs/figures/rooms.svg

A room is a folder; files that lie directly in `fedkd/` and `analysis/` are rooms of their own. An arrow runs from a
it imports; those that follow from others (a → c where a → b → c) are left out. Floors are numbered from the ground: a
room stands one above the highest that it imports.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "figures" / "rooms.svg"
TOPS = ("fedkd", "partitions", "analysis", "simulations")
OUTER = {"fedkd/__init__.py", "fedkd/apps.py", "fedkd/strategy.py", "analysis/__init__.py"}
"""Doors for users: they import from everywhere and nothing imports them from inside."""


def files() -> list[str]:
    """Every Python file of the four top-level folders, relative to the repository."""
    return sorted(path.relative_to(ROOT).as_posix() for top in TOPS for path in (ROOT / top).rglob("*.py"))


def imported(file: str) -> Iterator[str]:
    """The full name of everything that a file imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def links() -> dict[str, set[str]]:
    """The files that each file imports."""
    known = {name_of(file): file for file in files()}
    return {file: {known[at] for name in imported(file) if (at := _module(name, known))} - {file} for file in files()}


def name_of(file: str) -> str:
    """The dotted name of a file's module."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _module(name: str, known: dict[str, str]) -> str | None:
    """The longest beginning of a dotted name that is a module; a name from a package is its __init__'s."""
    parts = name.split(".")
    return next((at for n in range(len(parts), 0, -1) if (at := ".".join(parts[:n])) in known), None)


def room_of(file: str) -> str:
    """The room that a file is in: `fedkd/training`, `fedkd/method.py`, `analysis/figures`, `partitions`."""
    parts = file.split("/")
    return "/".join(parts[:2]) if parts[0] in ("fedkd", "analysis") else parts[0]


def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    rooms: dict[str, set[str]] = {}
    for file, others in links().items():
        if file not in OUTER:
            inside = {room_of(other) for other in others if other not in OUTER}
            rooms.setdefault(room_of(file), set()).update(inside - {room_of(file)})
    return rooms


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """How many rooms stand below each, at most; rooms must not form a circle."""

    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(below) for below in graph[room]), default=-1)

    return {room: floor(room) for room in sorted(graph)}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of two and more nodes that reach each other, each sorted (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    rings: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            ring = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(ring) > 1:
                rings.append(sorted(ring))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(rings)


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that do not follow from others."""

    @cache
    def reached(room: str) -> frozenset[str]:
        return frozenset(graph[room]).union(*(reached(below) for below in graph[room]))

    return {room: {to for to in below if not any(to in reached(via) for via in below)} for room, below in graph.items()}


WIDTH, HEIGHT, GAP, STOREY = 168, 40, 26, 92
"""Of a box, between boxes, and from floor to floor, in pixels."""
COLOURS = {"fedkd": "#dbe9f6", "partitions": "#e3f1de", "analysis": "#fbe9d7", "simulations": "#eadff0"}


ZONES = ("analysis", "fedkd", "partitions")
"""From left to right; the application stands above them all."""


def _places(graph: dict[str, set[str]]) -> tuple[dict[str, tuple[float, float]], float, float]:
    """Left upper corner of each box, and width and height of the whole; each zone has columns of its own."""
    height = floors(graph)
    storeys = max(height.values()) + 1
    at: dict[str, tuple[float, float]] = {}
    left = float(GAP)
    for zone in ZONES:
        rows = [[room for room in sorted(graph) if height[room] == n and _zone(room) == zone] for n in range(storeys)]
        wide = max(len(row) for row in rows) * (WIDTH + GAP)
        for floor, row in enumerate(rows):
            row.sort(key=lambda room: (_middle(room, graph, at), room))
            begin = left + (wide - len(row) * (WIDTH + GAP)) / 2
            for number, room in enumerate(row):
                at[room] = (begin + number * (WIDTH + GAP), (storeys - floor - 1) * STOREY + GAP)
        left += wide + GAP
    at["simulations"] = ((left - WIDTH) / 2, GAP)
    return at, left, storeys * STOREY


def _middle(room: str, graph: dict[str, set[str]], at: dict[str, tuple[float, float]]) -> float:
    below = [at[other][0] for other in graph[room] if other in at]
    return sum(below) / len(below) if below else 0.0


def _zone(room: str) -> str:
    return room.partition("/")[0]


def svg() -> str:
    """The picture: a box a room, arrows down to what it imports."""
    graph = arrows()
    at, width, height = _places(graph)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-family="sans-serif" font-size="13" role="img">',
        "<title>Rooms of fedkd: a box a folder, arrows down to what it imports</title>",
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#888"/></marker></defs>',
    ]
    for room, below in sorted(reduced(graph).items()):
        for other in sorted(below):
            (x, y), (u, v) = at[room], at[other]
            parts.append(
                f'<line x1="{x + WIDTH / 2:g}" y1="{y + HEIGHT:g}" x2="{u + WIDTH / 2:g}" y2="{v:g}" '
                'stroke="#888" stroke-width="1.2" marker-end="url(#tip)"/>'
            )
    for room, (x, y) in sorted(at.items()):
        colour = COLOURS[_zone(room)]
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{colour}" stroke="#555"/>'
        )
        middle = f'x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 5:g}" text-anchor="middle"'
        parts.append(f"<text {middle}>{_label(room)}</text>")
    return "\n".join([*parts, "</svg>", ""])


def _label(room: str) -> str:
    """The name of a room, short enough for its box."""
    return room.replace("difference_sampling", "difference…")


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))

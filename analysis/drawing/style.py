"""How every figure looks, and how it is saved. Nothing global: rcParams are set inside `styled()` only."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.results.files import replacing
from analysis.results.names import base_name

INK, QUIET, GRID = "#24292f", "#6b7280", "#e3e6ea"
GAIN, LOSS = "#0072b2", "#d55e00"
ACROSS = 4
"""Most panels in a row of a figure."""

Line = str | tuple[int, tuple[float, ...]]
"""A matplotlib line style."""

# Okabe and Ito's colours without their yellow, which disappears on white, and three of Tol's dark ones.
_FIXED = {"kd": "#0072b2", "tuned_kd": "#d55e00", "dml": "#009e73", "dp_kd": "#aa4499"}
_FREE = ["#56b4e9", "#e69f00", "#332288", "#882255", "#999933", "#24292f"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "h"]
_LINES: list[Line] = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1))]
_RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa1ab",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.visible": False,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "fedkd",  # ids in the SVG would be random, and no two files equal, without it
}


class Look(NamedTuple):
    """How one method is drawn everywhere: never by colour alone."""

    color: str
    marker: str
    line: Line


@contextmanager
def styled() -> Iterator[None]:
    """The house's rcParams, for the duration of a `with` block. Figures are to be drawn and saved inside."""
    with mpl.rc_context(_RC):
        yield


def looks(methods: Sequence[str], bases: Mapping[str, str] | None = None) -> dict[str, Look]:
    """A look for each method, stable: it depends on the method's name and on the methods before it only.

    `local` is always the quiet grey reference and the four methods of the main comparison keep their colours;
    the others and further variants of one method take free colours, then marker and line styles change.
    bases: the name of each method without its parameters, where a method is not called by its spec.
    """

    def base(method: str) -> str:
        return base_name((bases or {}).get(method, method))

    taken: dict[str, Look] = {}
    used: set[str] = set()
    for number, method in enumerate(dict.fromkeys(methods)):
        name = base(method)
        if name == "local":
            variant = sum(base(other) == "local" for other in taken)
            taken[method] = Look(QUIET, "x", _LINES[1 + variant % 3])
            continue
        color = _FIXED.get(name, "")
        if not color or color in used:
            free = [each for each in [*_FREE, *_FIXED.values()] if each not in used]
            color = free[0] if free else [*_FREE, *_FIXED.values()][number % 10]
        used.add(color)
        turn = sum(look.color != QUIET for look in taken.values())
        taken[method] = Look(color, _MARKERS[turn % len(_MARKERS)], _LINES[turn // len(_MARKERS) % len(_LINES)])
    return taken


def wrap(spec: str, width: int = 26, lines: int = 3) -> str:
    """A spec string as a label: folders of files dropped, broken behind its signs and never within a word, cut if long;
    a word that is longer than a line is cut too."""
    spec = re.sub(r"^[^(]*/(?=[^/(]*\.py:)", "", " ".join(spec.split()))
    pieces = re.findall(r"[^,(+|·:]*[,(+|·:]?\s?", spec)
    # Only what is too long for a line is broken at smaller signs too.
    pieces = [
        part for piece in pieces for part in ([piece] if len(piece.rstrip()) <= width else _smaller(piece, width))
    ]
    rows = [""]
    for piece in pieces:
        if rows[-1] and len(rows[-1]) + len(piece.rstrip()) > width:
            rows.append("")
        rows[-1] += piece
    if len(rows) > lines:
        rows = [*rows[: lines - 1], rows[lines - 1].rstrip()[: width - 1] + "…"]
    # A dollar starts a formula and a leading underscore hides a legend entry; specs mean neither.
    text = "\n".join(row.strip() for row in rows).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _smaller(piece: str, width: int) -> list[str]:
    """A piece that is longer than a line, broken behind smaller signs, but in no number."""
    parts = re.split(r"(?<=[_/=\s])|(?<=[.-])(?=[^\W\d])", piece)
    return [part if len(part.rstrip()) <= width else f"{part[: width - 2]}…{part[-1]}" for part in parts]


def labels(specs: Sequence[str], width: int = 26, lines: int = 3) -> dict[str, str]:
    """`wrap` for several specs at once: those that would look the same after the cut get a number."""
    result: dict[str, str] = {}
    for spec in dict.fromkeys(specs):
        text = wrap(spec, width, lines)
        twins = sum(text == other.split(" #")[0] for other in result.values())
        result[spec] = f"{text} #{twins + 1}" if twins else text
    return result


def panels(
    number: int, width: float = 3.3, height: float = 2.9, extra: float = 0.0, most: int = ACROSS
) -> tuple[Figure, list[Axes]]:
    """A figure of `number` equal panels, at most `most` in a row.

    width, height: inches a panel. extra: inches added to the height of the figure, for a legend.
    """
    across = min(number, most)
    down = -(-number // across)
    figure = Figure(figsize=(max(width * across, 4.2), height * down + extra), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(down, across, index + 1) for index in range(number)]
    return figure, axes


def keep_within(ax: Axes, low: float, high: float, across: bool = False) -> None:
    """End an axis where its numbers cannot go on: autoscaling leaves a margin beyond 100 %. across: the x axis."""
    (least, most), limit = (ax.get_xlim(), ax.set_xlim) if across else (ax.get_ylim(), ax.set_ylim)
    limit(max(least, low), min(most, high))


_LEGEND = 0.6
"""Inches of legend that `panels` leaves room for."""


def legend_below(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, under them, with as many columns as its longest label leaves room for."""
    entries: dict[str, Any] = {}
    for ax in axes:
        handles, names = ax.get_legend_handles_labels()
        entries = {**dict(zip(names, handles, strict=True)), **entries}
    if not entries:
        return
    longest = max(len(line) for name in entries for line in name.splitlines())
    columns = max(1, int(figure.get_figwidth() / (0.55 + 0.085 * longest)))
    rows = -(-len(entries) // columns)
    columns = -(-len(entries) // rows)
    # A legend of many lines takes room of its own, not that of the panels.
    lines = [len(name.splitlines()) for name in entries]
    tallest = max(sum(lines[start : start + rows]) for start in range(0, len(lines), rows))
    figure.set_figheight(figure.get_figheight() + max(0.0, 0.19 * tallest + 0.09 * rows - _LEGEND))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def save(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write `path`.svg and `path`.png, each atomically and undated, so that equal data give equal files."""
    written = []
    for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        final = path.with_name(f"{path.name}.{kind}")
        with replacing(final) as temporary, warnings.catch_warnings():
            # Class names may be in a script the font lacks: a box in a label is no reason to fail a report.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(temporary, format=kind, dpi=170, metadata=metadata)
            # Laying panels out takes as long as drawing them, and the second file has the same ones.
            figure.set_layout_engine("none")
        written.append(final)
    return written[0], written[1]

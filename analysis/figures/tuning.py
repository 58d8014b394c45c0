"""Validation accuracy of every cell of a search."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis.drawing.heatmap import heat_map
from analysis.drawing.picture import Panel, Sheet
from analysis.drawing.style import wrap
from analysis.figure import Block, Figure
from analysis.measures.tuning import tuned_methods, tuning_grid
from analysis.results.units import percent


class Tuning(Figure):
    order = 50

    def sheets(self, block: Block) -> Iterator[Sheet]:
        grids = [(name, method, part) for name, part in block.measured.items() for method in tuned_methods(part)]
        if not grids:
            return
        names = list(dict.fromkeys(block.name("method", method) for _, method, _ in grids))
        panels: list[Panel] = []
        for partition, method, part in grids:
            title = block.name("partition", partition)
            title = f"{title} · {block.name('method', method)}" if len(names) > 1 else title
            panels.append((title, partial(tuning_heatmap, part[part["method"] == method])))
        yield Sheet(
            "What tuning found",
            "Validation accuracy in percent of every tuned cell, mean over clients and seeds. "
            "Framed cells were chosen, with how many of the choices fell on them. Colours are "
            f"scaled in each panel. Tuned: {', '.join(names)}.",
            panels,
            width=4.0,
            height=3.3,
            legend=False,
        )


_AXES = ("temperature", "weight")


def tuning_heatmap(table: pd.DataFrame, ax: Axes) -> Axes:
    """Validation accuracy of every tuned cell, temperature across and weight down where both vary.

    Cells hold percentages; framed cells were chosen, with how many of the choices (one a seed) fell on them.
    More than two varying parameters: each cell shows the best over the others, and the title's second line
    says so. Cells that were not tried stay blank. Raises ValueError when nothing was tuned or when the table
    holds several methods.
    """
    methods = tuned_methods(table)
    if len(methods) != 1:
        raise ValueError(f"tuning_heatmap needs the rows of one tuned method, found {len(methods)}")
    grid = tuning_grid(table)
    names = [name for name in grid.columns if name not in {"accuracy", "chosen", "choices"}]
    varying = [name for name in names if grid[name].astype(str).nunique() > 1] or names[:1]
    shown = [name for name in _AXES if name in varying]
    shown = (shown + [name for name in varying if name not in shown])[:2]
    across, down = shown[0], shown[1] if len(shown) > 1 else None
    columns, rows = _values(grid[across]), _values(grid[down]) if down else [None]
    best, chosen = np.full((len(rows), len(columns)), np.nan), np.zeros((len(rows), len(columns)), dtype=int)
    for cell in grid.to_dict("records"):
        at = rows.index(cell[down]) if down else 0, columns.index(cell[str(across)])
        best[at] = np.fmax(best[at], cell["accuracy"])
        chosen[at] += cell["chosen"]
    _draw(ax, best, chosen, int(grid["choices"].iloc[0]))
    ax.set_xticks(range(len(columns)), [_tick(value) for value in columns])
    ax.set_yticks(range(len(rows)), [_tick(value) for value in rows] if down else [""])
    ax.set_xlabel(across)
    ax.set_ylabel(down or "")
    if others := [name for name in varying if name not in shown]:
        ax.annotate(
            f"best over {', '.join(others)}",
            (0, 1),
            xytext=(0, 3),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize="small",
        )
        ax.set_title(ax.get_title(loc="left"), loc="left", pad=18)
    return ax


def _draw(ax: Axes, best: "np.ndarray[Any, Any]", chosen: "np.ndarray[Any, Any]", choices: int) -> None:
    known = best[~np.isnan(best)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    texts = np.full(best.shape, "", dtype=object)
    for cell in zip(*np.nonzero(~np.isnan(best)), strict=True):
        times = int(chosen[cell])
        texts[cell] = percent(float(best[cell])) + (f"\n{times} of {choices}" if times else "")
        if times:
            corner = (cell[1] - 0.46, cell[0] - 0.46)
            ax.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor="#d55e00", linewidth=2))
    dark = (best - low) / (high - low) < 0.55 if high > low else False
    shades: dict[str, Any] = {
        "cmap": "cividis",
        "vmin": low if high > low else low - 1,
        "vmax": high,
        "origin": "lower",
    }
    heat_map(best, ax, texts=texts, on_dark=dark, fontsize=7.5 if best.size > 24 else 8.5, **shades)


def _values(column: "pd.Series[Any]") -> list[Any]:
    values = list(dict.fromkeys(column.tolist()))
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=str)


def _tick(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else wrap(str(value), 12)

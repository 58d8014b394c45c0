"""What tuning found: the whole grid as a picture, not only its winner."""

import ast
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis.drawing.style import INK, wrap
from analysis.results.units import percent

SCORE, CHOSEN = "tuning_accuracy/", "tuning_chosen/"
_AXES = ("temperature", "weight")


def tuning_grid(table: pd.DataFrame) -> pd.DataFrame:
    """One row a tuned cell: a column for each parameter, `accuracy` (mean over clients in a seed, then over
    seeds), `chosen` (how many times it was taken: once a federation, or once a client where clients choose
    for themselves) and `choices` (how many choices were made in all).

    table: one panel and one tuned method, as `load` gives it. Empty where nothing was tuned.
    """
    scored = table[table["metric"].str.startswith(SCORE)]
    each = scored.groupby(["metric", "federation"])["value"].mean().groupby(level="metric").mean()
    taken = table[table["metric"].str.startswith(CHOSEN) & (table["value"] > 0)]
    # A federation that says what it chose and lets its clients say it too has chosen once.
    shared = taken.loc[taken["client"] < 0, "federation"]
    taken = taken[(taken["client"] < 0) | ~taken["federation"].isin(shared)]
    chosen = taken.groupby("metric")["value"].count()
    cells = [name.removeprefix(SCORE) for name in each.index]
    grid = pd.DataFrame([parameters(cell) for cell in cells])
    grid["accuracy"] = each.to_numpy()
    grid["chosen"] = chosen.reindex([CHOSEN + cell for cell in cells], fill_value=0).to_numpy()
    grid["choices"] = len(taken)
    return grid


def parameters(cell: str) -> dict[str, Any]:
    """`temperature=4.0,weight=0.5` → {"temperature": 4.0, "weight": 0.5}. Values that are no Python literals
    stay text; a name that is not of this form is one parameter called `cell`."""
    try:
        call = ast.parse(f"cell({cell})", mode="eval").body
    except (SyntaxError, ValueError):
        return {"cell": cell}
    if not isinstance(call, ast.Call) or call.args or not call.keywords:
        return {"cell": cell}
    return {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}


def tuning_heatmap(table: pd.DataFrame, ax: Axes) -> Axes:
    """Validation accuracy of every tuned cell, temperature across and weight down where both vary.

    Cells hold percentages; framed cells were chosen, with how many of the choices (one a seed) fell on them.
    More than two varying parameters: each cell shows the best over the others, and the title's second line
    says so. Cells that were not tried stay blank. Raises ValueError when nothing was tuned or when the table
    holds several methods.
    """
    methods = table.loc[table["metric"].str.startswith(SCORE), "method"].unique()
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
        place = rows.index(cell[down]) if down else 0, columns.index(cell[str(across)])
        best[place] = np.fmax(best[place], cell["accuracy"])
        chosen[place] += cell["chosen"]
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
    colours = colormaps["cividis"]
    ax.imshow(best, cmap=colours, vmin=low if high > low else low - 1, vmax=high, aspect="auto", origin="lower")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(best):
        if np.isnan(value):
            continue
        dark = high > low and (value - low) / (high - low) < 0.55
        times = int(chosen[row, column])
        text = percent(float(value)) + (f"\n{times} of {choices}" if times else "")
        ink = "white" if dark else INK
        ax.text(column, row, text, ha="center", va="center", color=ink, fontsize=7.5 if best.size > 24 else 8.5)
        if times:
            frame = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="#d55e00", linewidth=2)
            ax.add_patch(frame)


def _values(column: "pd.Series[Any]") -> list[Any]:
    values = list(dict.fromkeys(column.tolist()))
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=str)


def _tick(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else wrap(str(value), 12)


def _literal(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return value if isinstance(value, (str, int, float)) else str(value)


def tuned_methods(table: pd.DataFrame) -> Sequence[str]:
    """Methods of the table that hold tuning scores, in order of appearance."""
    return [str(name) for name in table.loc[table["metric"].str.startswith(SCORE), "method"].unique()]

"""Shares of runs that have reached a target, against rounds or bytes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform

from analysis.drawing.style import Look, labels, looks
from analysis.results import units
from analysis.statistics.censoring import Reach, arrival_curve


def arrivals_against(
    arrived: pd.DataFrame,
    ax: Axes,
    *,
    what: str = "rounds",
    by: str = "method",
    styles: Mapping[str, Look] | None = None,
) -> Axes:
    """Share of seeds that have reached their target, 1 − Kaplan-Meier survival, against rounds or bytes.

    arrived: one panel of `targets.arrivals`. what: "rounds" or "bytes". by: the column that tells lines apart.
    A tick marks where seeds were lost from sight before they arrived; labels say how many arrived. Lines are set a
    pixel apart. Raises ValueError when there is nothing to draw.
    """
    values = list(dict.fromkeys(str(value) for value in arrived[by]))
    if not values:
        raise ValueError("arrivals_against needs at least one run with a target, found none")
    styles = styles or looks(values)
    values = [value for value in styles if value in values]
    names = labels(values)
    seen = {value: _reaches(arrived[arrived[by].astype(str) == value], what) for value in values}
    end = max(reach.value for reaches in seen.values() for reach in reaches)
    ends: list[tuple[float, float]] = []
    for index, value in enumerate(values):
        shifted = ax.transData + ScaledTranslation(0, 1.4 * index / 72, ax.figure.dpi_scale_trans)
        last, height = _draw_arrivals(ax, seen[value], end, styles[value], names[value], shifted)
        here = last / (end or 1), height
        _write_count(ax, seen[value], (last, height), _level(ends, here), styles[value].color)
        ends.append(here)
    ax.set_ylim(-0.04, 1.08)
    ax.set_xlim(left=-0.03 * (end or 1), right=(end or 1) * 1.18)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}"))
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylabel("seeds that reached the target (%)")
    if what == "bytes":
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda number, _: units.size(max(number, 0.0))))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("rounds" if what == "rounds" else "bytes so far, all clients, up + down")
    return ax


def _draw_arrivals(
    ax: Axes, reaches: Sequence[Reach], end: float, look: Look, label: str, transform: Transform
) -> tuple[float, float]:
    """One line, and ticks where runs were lost from sight. Returns where it ends."""
    curve = arrival_curve(reaches)
    # A curve of which every run arrived is known to stay; one that was lost from sight ends there.
    height = float(curve["arrived"].iloc[-1])
    last = float(curve["position"].iloc[-1]) if height < 1 else end
    steps = np.flatnonzero(np.diff(curve["arrived"], prepend=0.0) > 0) + 1
    ax.step(
        np.concatenate([[0.0], curve["position"], [last]]),
        np.concatenate([[0.0], curve["arrived"], [height]]),
        where="post",
        color=look.color,
        linestyle=look.line,
        marker=look.marker,
        markevery=steps.tolist(),
        transform=transform,
        label=label,
    )
    lost = curve[curve["censored"] > 0]
    # An empty line would still ask the layout for room, at the corner of the figure.
    if len(lost):
        ax.plot(
            lost["position"],
            lost["arrived"],
            marker="|",
            markersize=12,
            markeredgewidth=2,
            color=look.color,
            linestyle="none",
            transform=transform,
            zorder=3,
        )
    return last, height


def _write_count(ax: Axes, reaches: Sequence[Reach], end: tuple[float, float], level: int, color: str) -> None:
    """How many runs arrived, behind the end of their line."""
    ax.annotate(
        f"{sum(reach.reached for reach in reaches)} of {len(reaches)}",
        end,
        xytext=(7, 9 * level),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        color=color,
        annotation_clip=False,
        # Other lines may run on where this one ends.
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        zorder=4,
    )


def _reaches(arrived: pd.DataFrame, what: str) -> list[Reach]:
    return [reach for reach in arrived[f"{what}_to_target"] if isinstance(reach, Reach)]


def _level(before: Sequence[tuple[float, float]], here: tuple[float, float]) -> int:
    """How many lines a count is moved, off those of lines that end at the same spot and away from the frame."""
    taken = sum(abs(x - here[0]) < 0.15 and abs(y - here[1]) < 0.08 for x, y in before)
    return taken if here[1] < 0.5 else -taken

"""A figure of equal panels, drawn, saved and captioned."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from analysis.drawing.style import ACROSS, labels, legend_below, panels, save, styled

Panel = tuple[str, Callable[[Axes], Axes]]
"""The title of a panel and what draws it."""


@dataclass(frozen=True)
class Picture:
    """A saved figure and what is to be said about it."""

    title: str
    caption: str
    svg: Path
    png: Path
    across: int
    """Panels side by side."""
    inches: float
    """Width; a page needs this to keep text readable on a narrow screen, and not huge on a wide one."""


def picture(
    name: str,
    title: str,
    caption: str,
    parts: Sequence[Panel],
    folder: Path,
    *,
    width: float = 3.5,
    height: float = 2.9,
    legend: bool = True,
    same_x: bool = False,
    same_rows: bool = False,
    most: int = ACROSS,
) -> Picture:
    """Draw `parts` side by side and save them as `folder`/`name`.svg and .png.

    width, height: inches a panel. legend: one for all panels, below. same_x: all panels share their limits across.
    same_rows: row labels are said once where all panels have the same. most: panels in a row.
    """
    with styled():
        figure, axes = panels(len(parts), width, height, extra=0.5 if legend else 0.0, most=most)
        titles = labels([panel for panel, _ in parts], width=int(9.5 * width))
        for (panel, draw), ax in zip(parts, axes, strict=True):
            draw(ax)
            # A heat map may have asked for room under its title.
            ax.set_title(titles[panel], loc="left", pad=18 if any(ax.texts) and _has_note(ax) else None)
        if same_x:
            limits = [ax.get_xlim() for ax in axes]
            for ax in axes:
                ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
        _share_labels(axes, same_x or same_rows, most)
        if legend:
            legend_below(figure, axes)
        svg, png = save(figure, folder / name)
    return Picture(title, caption, svg, png, min(len(parts), most), float(figure.get_figwidth()))


def slug(text: str) -> str:
    """A file name for a spec: readable, safe everywhere, and different for different specs."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()
    if plain == text and len(plain) <= 40:
        return plain
    return f"{plain[:40].strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _has_note(ax: Axes) -> bool:
    return any(text.get_text().startswith("best over") for text in ax.texts)


def _share_labels(axes: Sequence[Axes], same_rows: bool, most: int) -> None:
    """Say what an axis is once, at the edge, where all panels agree."""
    inner = [ax for place, ax in enumerate(axes) if place % most]
    if len({ax.get_ylabel() for ax in axes}) == 1:
        for ax in inner:
            ax.set_ylabel("")
    if same_rows and len({tuple(label.get_text() for label in ax.get_yticklabels()) for ax in axes}) == 1:
        for ax in inner:
            ax.tick_params(labelleft=False)

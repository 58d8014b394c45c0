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
    """A saved figure with its title and caption."""

    title: str
    caption: str
    svg: Path
    png: Path
    across: int
    """Panels side by side."""
    inches: float
    """Width; a page needs this to keep text readable on a narrow screen, and not huge on a wide one."""


@dataclass(frozen=True)
class Sheet:
    """A figure before it is drawn: equal panels with a title and a caption."""

    title: str
    caption: str
    panels: Sequence[Panel]
    part: str = ""
    """What tells several sheets of one figure apart; it goes to the name of the file."""
    width: float = 3.5
    """Inches of a panel."""
    height: float = 2.9
    legend: bool = True
    """One legend for all panels, below."""
    same_x: bool = False
    """All panels share their limits across."""
    same_rows: bool = False
    """Row labels are written once where all panels have the same."""
    most: int = ACROSS
    """Panels in a row."""


def draw_sheet(sheet: Sheet, path: Path, title: str = "") -> Picture:
    """Draw a sheet and save it as `path`.svg and .png. title: what stands behind the sheet's own."""
    with styled():
        extra = 0.5 if sheet.legend else 0.0
        figure, axes = panels(len(sheet.panels), sheet.width, sheet.height, extra=extra, most=sheet.most)
        titles = labels([panel for panel, _ in sheet.panels], width=int(9.5 * sheet.width))
        for (panel, draw), ax in zip(sheet.panels, axes, strict=True):
            draw(ax)
            # A heat map may have asked for room under its title.
            ax.set_title(titles[panel], loc="left", pad=18 if any(ax.texts) and _has_note(ax) else None)
        if sheet.same_x:
            limits = [ax.get_xlim() for ax in axes]
            for ax in axes:
                ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
        _share_labels(axes, sheet.same_x or sheet.same_rows, sheet.most)
        if sheet.legend:
            legend_below(figure, axes)
        svg, png = save(figure, path)
    across, inches = min(len(sheet.panels), sheet.most), float(figure.get_figwidth())
    return Picture(f"{sheet.title}: {title}" if title else sheet.title, sheet.caption, svg, png, across, inches)


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
    inner = [ax for index, ax in enumerate(axes) if index % most]
    if len({ax.get_ylabel() for ax in axes}) == 1:
        for ax in inner:
            ax.set_ylabel("")
    if same_rows and len({tuple(label.get_text() for label in ax.get_yticklabels()) for ax in axes}) == 1:
        for ax in inner:
            ax.tick_params(labelleft=False)

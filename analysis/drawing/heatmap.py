"""A grid of numbers as shades, with what a cell says written into it."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from analysis.drawing.style import INK


def heat_map(
    values: npt.NDArray[Any],
    ax: Axes,
    *,
    texts: npt.ArrayLike | None = None,
    on_dark: npt.ArrayLike = False,
    fontsize: float = 7.5,
    framed: bool = False,
    **shades: Any,
) -> AxesImage:
    """Draw `values` (rows, columns), masked or NaN cells blank, and return the image, for a colour bar.

    texts: (rows, columns) of what each cell says, nothing where it is "". on_dark: (rows, columns), whether a cell is
    so dark that its text is white. framed: keep the frame and the ticks. shades: for `Axes.imshow`.
    """
    image = ax.imshow(values, **{"aspect": "auto", **shades})
    dark = np.broadcast_to(on_dark, values.shape)
    for (row, column), text in np.ndenumerate(np.asarray(texts)) if texts is not None else ():
        if text:
            ink = "white" if dark[row, column] else INK
            ax.text(column, row, text, ha="center", va="center", color=ink, fontsize=fontsize)
    ax.grid(visible=False)
    if not framed:
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return image

"""The figures of a report, one a file: a file that is added here adds a figure, and no other file changes."""

import importlib
import inspect
import pkgutil
from pathlib import Path

from analysis.drawing.picture import Picture, draw_sheet
from analysis.figure import Block, Figure


def find_figures() -> dict[str, Figure]:
    """Every figure by name, which is that of its file, in the order of the report.

    Raises ValueError for a file that holds no figure, or several.
    """
    figures = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        held = [each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__]
        classes = [each for each in held if issubclass(each, Figure)]
        if len(classes) != 1:
            raise ValueError(f"{module.__file__}: it should hold one class of Figure, found {len(classes)}")
        figures[file.name.replace("_", "-")] = classes[0]()
    return dict(sorted(figures.items(), key=lambda item: (item[1].order, item[0])))


def draw_figures(block: Block, folder: Path, suffix: str = "") -> list[Picture]:
    """Draw all figures that have something to say of a block, or of the whole study where the block has no title.

    Files go to `folder`, each named by its figure and `suffix`.
    """
    pictures = []
    for name, figure in find_figures().items():
        if figure.of_study == (not block.title):
            for sheet in figure.sheets(block):
                file = "-".join([name, sheet.part] if sheet.part else [name])
                pictures.append(draw_sheet(sheet, folder / f"{file}{suffix}", block.title))
    return pictures

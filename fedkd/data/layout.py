"""Classes and border from the names of image files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import UserError

LAYOUT = "images belong into class folders, CLASS/IMAGE, or into train/CLASS/IMAGE and test/CLASS/IMAGE"


def arrange(
    names: Sequence[str], folders: Iterable[str], where: str
) -> tuple[NDArray[np.int64], tuple[str, ...], NDArray[np.bool_] | None]:
    """(labels, class names, which are for testing or None where there is no border) of relative file names.

    Classes are the sorted folder names. Folders around everything are looked through. Raises UserError where
    the names follow neither layout, a folder holds no image, or a class is there for testing only.
    """
    if not names:
        raise UserError(f"{where} holds no image (.jpg, .png, …); {LAYOUT}")
    paths = [name.split("/") for name in names]
    holding = {"/".join(path[:depth]) for path in paths for depth in range(1, len(path))}
    for folder in sorted(set(folders) - holding - {"."}):
        raise UserError(f"{where}: the folder {folder!r} holds no image; fill or remove it")
    while all(len(path) > 2 for path in paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    for name, path in zip(names, paths, strict=True):
        if len(path) == 1:
            raise UserError(f"{where}: {name} lies outside of any class folder; {LAYOUT}")
    tops = {path[0] for path in paths}
    test = None
    if tops & {"train", "test"} and all(len(path) > 2 for path in paths):
        if tops != {"train", "test"}:
            raise UserError(f"{where} holds the folders {', '.join(sorted(tops))}; {LAYOUT}")
        test = np.array([path[0] == "test" for path in paths])
        paths = [path[1:] for path in paths]
        trained = {path[0] for path, held in zip(paths, test, strict=True) if not held}
        if untrained := sorted({path[0] for path in paths} - trained):
            raise UserError(f"{where}: class {untrained[0]!r} is in test but not in train")
    classes = tuple(sorted({path[0] for path in paths}))
    if len(classes) < 2:
        raise UserError(f"{where} has one class only, {classes[0]!r}; at least two are needed; {LAYOUT}")
    position = {name: i for i, name in enumerate(classes)}
    return np.array([position[path[0]] for path in paths], np.int64), classes, test

"""Similarities of classes that a method has measured, as a matrix."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.results.metrics import family_rows, member


def similarity_matrix(table: pd.DataFrame) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """(classes, classes) similarities, symmetric, mean over the federations of a table as `load` gives it.

    Each two classes are measured once, under the lower number first. NaN where nothing is known. Raises ValueError
    where the table holds no similarities.
    """
    rows = family_rows(table, "similarity")
    if rows.empty:
        raise ValueError("similarity_matrix needs rows of metrics similarity/…, found none")
    each = rows.groupby(rows["metric"].astype("str"))["value"].mean()
    pairs = [tuple(map(int, member(name).split("/"))) for name in each.index]
    classes = 1 + max(map(max, pairs))
    matrix = np.full((classes, classes), np.nan)
    for (a, b), value in zip(pairs, each, strict=True):
        matrix[a, b] = matrix[b, a] = value
    return matrix

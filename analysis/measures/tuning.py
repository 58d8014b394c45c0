"""Results of tuning: one row for each cell of the search."""

import ast
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.results.metrics import family_rows, member


def tuning_grid(table: pd.DataFrame) -> pd.DataFrame:
    """One row a tuned cell: a column for each parameter, `accuracy` (mean over clients in a seed, then over
    seeds), `chosen` (how many times it was taken: once a federation, or once a client where clients choose
    for themselves) and `choices` (how many choices were made in all).

    table: one panel and one tuned method, as `load` gives it. Empty where nothing was tuned.
    """
    scored = family_rows(table, "tuning_accuracy")
    each = scored.groupby(["metric", "federation"])["value"].mean().groupby(level="metric").mean()
    taken = family_rows(table, "tuning_chosen")
    taken = taken[taken["value"] > 0]
    # A federation that says what it chose and lets its clients say it too has chosen once.
    shared = taken.loc[taken["client"] < 0, "federation"]
    taken = taken[(taken["client"] < 0) | ~taken["federation"].isin(shared)]
    chosen = taken["metric"].map(member).value_counts()
    cells = [member(name) for name in each.index]
    grid = pd.DataFrame([parameters(cell) for cell in cells])
    grid["accuracy"] = each.to_numpy()
    grid["chosen"] = chosen.reindex(cells, fill_value=0).to_numpy()
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


def _literal(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return value if isinstance(value, (str, int, float)) else str(value)


def tuned_methods(table: pd.DataFrame) -> Sequence[str]:
    """Methods of the table that hold tuning scores, in order of appearance."""
    return [str(name) for name in family_rows(table, "tuning_accuracy")["method"].unique()]

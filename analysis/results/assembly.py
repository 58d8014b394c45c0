"""Journals put side by side as one tidy table, each row with the settings of its federation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.results.absent import with_ends
from analysis.results.journal import MODEL, ROW, Journal, ResultsError

IDENTITY = ["dataset", "partition", "method", "seed"]
"""Settings that every table has as columns; other swept keys follow at the end."""

# How a federation is run, not what it computes: the numbers do not depend on these.
_RUN_ONLY = ("engine", "save", "out", "ray.")


def assemble(journals: Sequence[Journal], study: Mapping[str, Any], directory: Path) -> pd.DataFrame:
    """The table that `analysis.results.table.load` describes.

    study: as `read_study` gives it. directory: named in errors. Raises ResultsError when a journal lacks one
    of the `IDENTITY` settings, when two journals have the same settings, when a round holds a value twice, or
    when study.json sweeps a key that no journal has.
    """
    for journal in journals:
        if missing := [key for key in IDENTITY if key not in journal.settings]:
            raise ResultsError(f"journal of {journal.federation}: its settings lack {', '.join(missing)}")
    # A journal may be older than a setting: whoever ran the recipe last has written its default into study.json.
    listed = study.get("federations", {})
    journals = [replace(each, settings={**listed.get(each.federation, {}), **each.settings}) for each in journals]
    others = _swept(journals, study, directory)
    keys = [*IDENTITY, *others]
    columns = {key: _column([journal.settings.get(key) for journal in journals]) for key in keys}
    settings = pd.DataFrame({"federation": pd.Series([j.federation for j in journals], dtype="str"), **columns})
    settings = settings.sort_values([*keys, "federation"], kind="stable")
    if (alike := settings.duplicated(keys)).any():
        same = ", ".join(settings.loc[settings[keys].eq(settings.loc[alike, keys].iloc[0]).all(axis=1), "federation"])
        raise ResultsError(f"{directory}: federations {same} have the same settings; keep the journal of one of them")
    frames = [with_ends(journals[index].rows, journals[index].settings) for index in settings.index]
    which = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames])
    filled = [frame for frame in frames if len(frame)]
    rows = pd.concat(filled, ignore_index=True) if filled else _no_rows()
    # Sorting small integers instead of a dozen text columns keeps millions of rows a matter of seconds.
    order = [
        _codes(rows["metric"]),
        _codes(rows["split"]),
        rows["client"].to_numpy(),
        rows["round"].to_numpy(),
        which,
    ]
    sorting = np.lexsort(order)
    _refuse_repeats([column[sorting] for column in order], settings, which[sorting])
    rows = rows.take(sorting).reset_index(drop=True)
    described = settings.take(which[sorting]).reset_index(drop=True)
    parts = [described[["federation", *IDENTITY]], rows, described[others]]
    if any(len(set(journal.models)) > 1 for journal in journals):
        models = _models([journals[index] for index in settings.index], which[sorting], rows["client"].to_numpy())
        parts.insert(2, models.to_frame())
    table: pd.DataFrame = pd.concat(parts, axis=1)
    return table


def _models(
    journals: Sequence[Journal], which: npt.NDArray[np.intp], clients: npt.NDArray[np.int32]
) -> "pd.Series[str]":
    """The model of each row's client: `which` journal it is from, and which of its clients."""
    widths = [len(journal.models) for journal in journals]
    names = np.array([name for journal in journals for name in journal.models] + [""], dtype=object)
    known = (clients >= 0) & (clients < np.array([*widths, 0])[which])
    index = np.where(known, np.cumsum([0, *widths])[which] + clients, len(names) - 1)
    return pd.Series(names[index], name=MODEL, dtype="str")


def _no_rows() -> pd.DataFrame:
    kinds = ["int32", "int32", "str", "str", "float64"]
    return pd.DataFrame({name: pd.Series([], dtype=kind) for name, kind in zip(ROW, kinds, strict=True)})


def _codes(column: "pd.Series[str]") -> npt.NDArray[np.intp]:
    return pd.factorize(column, sort=True)[0]


def _refuse_repeats(columns: list[npt.NDArray[Any]], settings: pd.DataFrame, which: npt.NDArray[np.intp]) -> None:
    if not len(which):
        return
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    if same.any():
        name = settings["federation"].iloc[which[1:][same][0]]
        raise ResultsError(f"journal of {name}: a round holds two values for one client, split and metric")


def _swept(journals: Sequence[Journal], study: Mapping[str, Any], directory: Path) -> list[str]:
    """Keys beyond `IDENTITY` that need a column of their own."""
    every = sorted({key for journal in journals for key in journal.settings} - set(IDENTITY))
    varying = [key for key in every if len({_text(journal.settings.get(key)) for journal in journals}) > 1]
    varying = [key for key in varying if not key.startswith(_RUN_ONLY)]
    listed = study.get("federations", {})
    if "swept" not in study or any(journal.federation not in listed for journal in journals if listed):
        # Two recipes were run into one folder: what one of them swept says nothing about the other.
        return varying
    keys = [key for key in study["swept"] if key not in IDENTITY]
    if unknown := [key for key in keys if journals and key not in every]:
        raise ResultsError(f"{directory / 'study.json'} sweeps {', '.join(unknown)}, which no journal has as a setting")
    return keys + [key for key in varying if key == "transfer" and key not in keys]


def _column(values: list[Any]) -> "pd.Series[Any]":
    """Numbers stay numbers when all are; anything else becomes its label."""
    kinds = {type(value) for value in values}
    if kinds <= {int} and values:
        return pd.Series(values, dtype="int64")
    if kinds <= {int, float} and values:
        return pd.Series(values, dtype="float64")
    if kinds == {bool}:
        return pd.Series(values, dtype="bool")
    return pd.Series([_text(value) for value in values], dtype="str")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)

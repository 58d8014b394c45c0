"""A results folder as one tidy long table.

One row is one measured number. `load` reads `rounds.parquet` where it is up to date and the journals
where it is not; both give the same table. Federations that have not finished are in it too: `finished`
leaves them out.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.results.assembly import IDENTITY, assemble
from analysis.results.files import replacing
from analysis.results.journal import MODEL, ROW, ResultsError, read_journal

__all__ = [
    "IDENTITY",
    "ResultsError",
    "finished",
    "load",
    "others",
    "read_study",
    "rebuild",
    "setting_columns",
    "up_to_date",
]

_STAMP = b"fedkd"
_ATTRS: dict[str, Any] = {"rounds": {}, "numerics": 1, "samples": 0}
"""What `load` says beside the rows, and what it was before it was said."""


def load(directory: str | Path, *, everything: bool = False) -> pd.DataFrame:
    """Every measurement of the recipe that was run last into a folder, or of everything that lies in it.

    What newer results replaced is in neither: it lies below `superseded/`, a results folder of its own.

    Columns: `federation, dataset, partition, method, seed, round, client, split, metric, value`, then `model`,
    that of the row's client, where clients of one federation hold different ones, then one for every other swept
    key: those that study.json names, or, where there is no study.json or the folder holds journals it does not
    list, every setting that takes more than one value. `transfer` is always a column when it varies: results with
    and without labels are never to be averaged. Where only a share of the clients takes part in a round, a round has
    rows of these, but for the first and the last, which have rows of all; `filled` adds the others.
    Sorted by settings, federation, round, client, split, metric.
    `table.attrs["rounds"]` maps each federation to its planned number of rounds; `table.attrs["numerics"]` is the
    oldest version of fedkd's numbers among them, `table.attrs["samples"]` the recipe key `evaluate.samples`.

    Raises ResultsError when the folder, a journal, study.json or the parquet file is missing or broken.
    """
    directory = _folder(directory)
    if everything:
        return _from_journals(directory, everything=True)
    if up_to_date(directory):
        return _read_parquet(directory / "rounds.parquet")
    return _from_journals(directory)


def rebuild(directory: str | Path) -> Path:
    """Write `rounds.parquet` from the journals of the recipe that was run last and return its path.

    The write is atomic, and the same journals give the same bytes. Raises ResultsError as `load` does.
    """
    directory = _folder(directory)
    # Before reading: what a running study appends meanwhile must leave the file out of date.
    stamp = _stamp(directory)
    table = _from_journals(directory)
    described, table.attrs = table.attrs, {}
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    text = json.dumps({**stamp, **described}, sort_keys=True)
    arrow = arrow.replace_schema_metadata({_STAMP: text.encode()})
    path = directory / "rounds.parquet"
    with replacing(path) as temporary:
        pq.write_table(arrow, temporary, compression="zstd")
    return path


def read_study(directory: str | Path, *, everything: bool = False) -> dict[str, Any]:
    """What `study.json` holds of the recipe that was run last, or of everything that was run into the folder.

    Empty where there is no such file. Raises ResultsError if it is not a JSON object.
    """
    path = _folder(directory) / "study.json"
    if not path.exists():
        return {}
    try:
        study = json.loads(path.read_bytes())
    except ValueError as error:
        raise ResultsError(f"{path} is not JSON ({error}); run the study again to have it written") from error
    if not isinstance(study, dict):
        raise ResultsError(f"{path} should hold a JSON object, found {type(study).__name__}")
    listed, current = study.get("federations", {}), study.get("current")
    if everything:
        # What the last recipe swept says nothing about the others.
        return {key: value for key, value in study.items() if key != "swept"}
    if isinstance(current, list) and isinstance(listed, dict):
        study["federations"] = {name: listed[name] for name in current if name in listed}
        study["partitions"] = _dealt_in(study["federations"].values(), study.get("partitions", []))
    return study


def _dealt_in(settings: Iterable[Mapping[str, Any]], partitions: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The partitions of some federations."""
    keys = ("dataset", "partition", "seed", "clients")
    wanted = {tuple(each.get(key) for key in keys) for each in settings}
    return [each for each in partitions if tuple(each.get(key) for key in keys) in wanted]


def others(directory: str | Path) -> int:
    """How many federations lie in a folder beside those of the recipe that was run last."""
    directory = _folder(directory)
    return len(_journal_paths(directory)) - len(_journal_paths(directory, read_study(directory)))


def up_to_date(directory: str | Path) -> bool:
    """Whether `rounds.parquet` holds what the journals hold.

    Times alone are not enough: copying a folder can give journals it never saw an older time. So the file
    also remembers the names and sizes of its journals and which keys were swept. A folder with a parquet
    file and no journals at all is up to date. Raises ResultsError when the parquet file cannot be read.
    """
    directory = _folder(directory)
    path = directory / "rounds.parquet"
    if not path.exists():
        return False
    if not _journal_paths(directory):
        return True
    journals = _journal_paths(directory, read_study(directory))
    written = path.stat().st_mtime_ns
    if any(journal.stat().st_mtime_ns > written for journal in journals):
        return False
    stamp = _read_stamp(path)
    return {key: stamp.get(key) for key in ("swept", "journals")} == _stamp(directory)


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the federations whose last planned round is there.

    Planned rounds come from `table.attrs["rounds"]`; a federation that is missing there, as in a table that
    lost its attrs, is held to the longest one of the same dataset and swept settings.
    """
    last = table.groupby("federation")["round"].max()
    longest = table.groupby(setting_columns(table))["round"].transform("max").groupby(table["federation"]).max()
    planned: Mapping[str, int] = table.attrs.get("rounds", {})
    needed = pd.Series({name: planned.get(str(name), longest[name]) for name in last.index}, dtype="int64")
    done = last.index[last.to_numpy() >= needed.to_numpy()]
    return table.loc[table["federation"].isin(done)]


def setting_columns(table: pd.DataFrame) -> list[str]:
    """Swept keys beside partition, method and seed: results that differ in one of them share no panel and
    no block of a table. `dataset` comes first."""
    others = [name for name in table.columns if name not in {"federation", *IDENTITY, *ROW, MODEL}]
    return ["dataset", *others]


def _folder(directory: str | Path) -> Path:
    directory = Path(directory)
    if not directory.is_dir():
        raise ResultsError(f"{directory} is not a folder; a results folder holds journal/*.jsonl and study.json")
    return directory


def _journal_paths(directory: Path, study: Mapping[str, Any] | None = None) -> list[Path]:
    """All journals, or those that a study lists where it says which are its own."""
    paths = sorted((directory / "journal").glob("*.jsonl"))
    if study is None or "current" not in study:
        return paths
    return [path for path in paths if path.stem in study.get("federations", {})]


def _stamp(directory: Path) -> dict[str, Any]:
    study = read_study(directory)
    sizes = {path.name: path.stat().st_size for path in _journal_paths(directory, study)}
    return {"journals": sizes, "swept": [study.get("swept"), sorted(study.get("federations", {}))]}


def _read_stamp(path: Path) -> dict[str, Any]:
    try:
        metadata = pq.read_schema(path).metadata or {}
        stamp = json.loads(metadata.get(_STAMP, b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    return dict(stamp)


def _unreadable(path: Path, error: Exception) -> ResultsError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ResultsError(f"{path} cannot be read ({reason}); delete it: it is rebuilt from the journals")


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pq.read_table(path).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    missing = [name for name in ["federation", *IDENTITY, *ROW] if name not in table.columns]
    if missing:
        raise ResultsError(f"{path} lacks the columns {', '.join(missing)}; delete it: it is rebuilt from the journals")
    text = [name for name in table.columns if pd.api.types.is_string_dtype(table[name])]
    table = table.astype(dict.fromkeys(text, "str"))
    stamp = _read_stamp(path)
    table.attrs |= {name: stamp.get(name, default) for name, default in _ATTRS.items()}
    return table


def _from_journals(directory: Path, *, everything: bool = False) -> pd.DataFrame:
    study = read_study(directory, everything=everything)
    paths = _journal_paths(directory, None if everything else study)
    if not paths:
        raise ResultsError(f"{directory} has no journal/*.jsonl: nothing has been run into this folder yet")
    read = [journal for path in paths if (journal := read_journal(path)) is not None]
    names = [journal.federation for journal in read]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ResultsError(f"{directory / 'journal'} has two journals of federation {min(twice)}; keep one")
    table = assemble(read, study, directory)
    table.attrs["rounds"] = {journal.federation: journal.rounds for journal in read}
    table.attrs["samples"] = max((journal.settings.get("evaluate.samples", 0) for journal in read), default=0)
    table.attrs["numerics"] = min((journal.numerics for journal in read), default=1)
    return table

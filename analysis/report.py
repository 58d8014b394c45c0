"""A results folder becomes a report: figures, a table, and one page that needs nothing else.

The same results give the same files, byte for byte: nothing here looks at a clock.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.drawing.picture import Picture, slug
from analysis.figure import Block
from analysis.figures import draw_figures
from analysis.measures.compare import compare
from analysis.measures.summary import Summary, block_title, orders
from analysis.measures.targets import reading_split, target_table
from analysis.page.html import page
from analysis.results.files import replacing
from analysis.results.journal import ResultsError
from analysis.results.table import finished, load, read_study, rebuild, up_to_date
from analysis.results.times import read_times


def make_report(
    directory: str | Path, *, target: float | None = None, baseline: str = "local", everything: bool = False
) -> Path:
    """Write `figures/*.svg` and `.png`, `summary.csv` and `report.html` into a results folder, and
    `targets.csv`, rounds and bytes to shares of `pooled`, where there is one.

    Federations that have not finished are left out, and the report says how many; only where none of a
    block has finished are their curves drawn as far as they go. target, baseline: as in `compare`.
    The report is of the recipe that was run last, or of `everything` in the folder; figures of an earlier report that
    this one does not draw are removed. `rounds.parquet` is brought up to date on the way. Returns the path of
    `report.html`.
    Raises ResultsError when the folder is not a results folder or no round has finished yet.
    """
    directory = Path(directory)
    if not up_to_date(directory):
        rebuild(directory)
    table, study = load(directory, everything=everything), read_study(directory, everything=everything)
    if table.empty:
        raise ResultsError(f"{directory}: no federation has finished a round yet; report again when one has")
    summary = compare(table, study=study, target=target, baseline=baseline)
    pictures = draw(table, summary, study, directory / "figures", read_times(directory))
    _remove_others(directory / "figures", {picture.png.stem for _, block in pictures for picture in block})
    _write(directory / "summary.csv", _csv(_with_names(summary)))
    done = finished(table)
    (directory / "targets.csv").unlink(missing_ok=True)
    if len(targets := target_table(done, reading_split(done), summary.names)):
        _write(directory / "targets.csv", _csv(targets))
    report = directory / "report.html"
    _write(report, page(summary, pictures, table, study))
    return report


def _remove_others(folder: Path, drawn: set[str]) -> None:
    """Remove figures of earlier reports: results that are gone must not be taken for today's."""
    for path in folder.iterdir():
        if path.suffix in (".svg", ".png") and path.stem not in drawn:
            path.unlink()


def draw(
    table: pd.DataFrame,
    summary: Summary,
    study: Mapping[str, Any],
    folder: Path,
    times: pd.DataFrame | None = None,
) -> list[tuple[str, list[Picture]]]:
    """Draw every figure into `folder`. Returns them by block: its title and its pictures; those of the whole study, the
    partitions and what compares blocks that differ in their start, come first, under an empty title. table: the whole
    study, as `load` gives it. times: its profile, as `read_times` gives it."""
    folder.mkdir(parents=True, exist_ok=True)
    done = finished(table)
    known = orders(study).get("method", [])
    present = set(table["method"])
    methods = list(dict.fromkeys([*(name for name in known if name in present), *sorted(present)]))
    splits = study.get("partitions") or []
    whole = Block(done, summary, "", methods, splits, pd.DataFrame() if times is None else times)
    drawn = [("", draw_figures(whole, folder))]
    keys = list(summary.settings)
    # Blocks of which nothing has finished have no rows in the summary, but curves.
    blocks = pd.concat([summary.rows.reindex(columns=keys), table[keys]]).drop_duplicates()
    finished_blocks = dict(summary.blocks())
    for values in blocks.itertuples(index=False, name=None):
        title = block_title(keys, values, summary.names)
        compared = finished_blocks.get(title) or replace(summary, rows=summary.rows.iloc[:0])
        source = done if title in finished_blocks else table
        rows = source[(source[keys] == list(values)).all(axis=1)]
        suffix = f"--{slug(title)}" if len(blocks) > 1 else ""
        drawn.append((title, draw_figures(Block(rows, compared, title, methods, splits), folder, suffix)))
    return drawn


def _with_names(summary: Summary) -> pd.DataFrame:
    """The rows of the comparison; what the recipe has named stands behind the value, in a column `KEY_name`."""
    rows = summary.rows.copy()
    for key in (key for key in summary.names.by_key if key in rows.columns):
        rows.insert(list(rows.columns).index(key) + 1, f"{key}_name", rows[key].map(partial(summary.names.of, key)))
    return rows


def _csv(rows: pd.DataFrame) -> str:
    """All columns, as numbers; a `Reach` prints as `4` or `>10`."""
    return rows.to_csv(index=False, lineterminator="\n")


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

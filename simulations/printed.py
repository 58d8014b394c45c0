"""The comparison of a study on a terminal."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.drawing.style import wrap
from analysis.measures.compare import compare
from analysis.page.captions import rule
from analysis.page.wording import text_tables
from analysis.results.table import load, others, read_study
from analysis.results.units import NOTHING
from simulations.profile import Profile
from simulations.superseding import outdated

PRINTED: tuple[Literal["detail", "cost"], ...] = ("detail", "cost")
"""Parts of the comparison that a terminal shows in addition to the outcome."""


def comparison(out: Console, results: Path, target: float | None = None, everything: bool = False) -> None:
    """Print the outcome and the cost of each method in one line; the report has all columns."""
    measured = load(results, everything=everything)
    summary = compare(measured, study=read_study(results, everything=everything), target=target)
    shown = ["start", "final", "Δ", "verdict vs start", f"vs {summary.reference}", f"verdict vs {summary.reference}"]
    shown += ["worst client", "bytes", "rounds to target"]
    whole = ("final", "Δ", f"vs {summary.reference}")
    for outcome, *more in zip(text_tables(summary), *(text_tables(summary, part) for part in PRINTED), strict=True):
        heads = {name.split(" (")[0]: name for each in (outcome, *more) for name in each.headers}
        joined = zip(outcome.rows, *(each.rows for each in more), strict=True)
        rows = [
            dict(zip(heads, [*first, *(text for row in rest for text in row[2:])], strict=True))
            for first, *rest in joined
        ]
        for row in rows:
            row["rounds to target"] += f" to {row['target']}" * (row["target"] != NOTHING)
        for partition, group in itertools.groupby(rows, key=lambda row: row["partition"]):
            title = f"{escape(outcome.title)} · [bold]{escape(partition)}[/]"
            table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
            table.add_column("method", min_width=24)
            # For two seeds the terminal shows the mean; the report also gives the range.
            lines = [[row["method"], *(row[name].split(", range")[0] for name in shown)] for row in group]
            for column, name in enumerate(shown, start=1):
                # Numbers with their intervals, and words, are not broken over lines.
                texts = [name, *(line[column] for line in lines)]
                words = [word for text in texts for word in ([text] if name in whole else text.split())]
                table.add_column(escape(heads[name]), justify="right", min_width=max(map(len, words)))
            for method, *cells in lines:
                table.add_row(escape(wrap(method, 24, lines=6)), *map(escape, cells))
            out.print(table)
    out.print(
        f"[dim]{summary.evaluated.split.capitalize()} accuracy in %, mean over clients and seeds, ± its "
        f"{100 * summary.level:g} % Student-t interval over seeds; Δ in points from the start; vs "
        f"{escape(summary.reference)}: paired over seeds. {rule(summary)} {summary.evaluated.meaning}"
        "“>”: not reached in these rounds.[/]"
    )
    for key, names in summary.names.by_key.items():
        for spec, name in names.items():
            out.print(f"[dim]{escape(name)}: {key} = {escape(spec)}[/]")
    for warning in summary.warnings:
        out.print(f"[yellow]warning:[/] {escape(warning)}")
    if changes := outdated(measured.attrs["numerics"]):
        out.print(f"[yellow]warning:[/] made by an older fedkd, whose numbers have changed since: {escape(changes)}")
    if not everything and (rest := others(results)):
        out.print(
            f"{rest} federations of other recipes lie in the folder too: fedkd report {escape(str(results))} --all"
        )


def where_time_went(out: Console, profile: Profile, results: Path | None) -> None:
    """Print where the time of a run went, if it was long; written to a results folder if one is given."""
    if results is not None and profile.rounds:
        out.print(f"seconds of each round: {escape(str(profile.write(results)))}")
    if (results is not None or profile.is_worth_a_line) and (line := profile.line()):
        out.print(escape(line))

"""The comparison table in words: headers and rows of text for a terminal, Markdown, or the report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from analysis.statistics import Reach
from analysis.summary import Summary
from analysis.units import NOTHING, count, percent, points, size, spread

Part = Literal["accuracy", "cost"]
Row = Any  # one row of Summary.rows, by column name


@dataclass(frozen=True)
class TextTable:
    """A table of strings: the partition, the method, then numbers and verdicts."""

    title: str
    """The settings this block is for."""
    headers: list[str]
    rows: list[list[str]]


def text_tables(summary: Summary, part: Part = "accuracy") -> list[TextTable]:
    """One table a block: results of different blocks must not be read against each other.

    part: "accuracy" says what came out, "cost" what it took.
    """
    columns = {"accuracy": _ACCURACY, "cost": _COST}[part]
    tables = []
    for title, block in summary.blocks():
        # Shown only where some method was tuned: three columns of zeros say less than their absence.
        tuned = bool((block.rows[["tuning_steps", "tuning_samples", "tuning_bytes"]] > 0).to_numpy().any())
        shown = {name: text for name, text in columns.items() if tuned or not name.startswith("tuning")}
        headers = [name.format(baseline=summary.baseline) for name in shown]
        rows = [[text(row) for text in shown.values()] for row in block.rows.to_dict("records")]
        tables.append(TextTable(title, headers, rows))
    return tables


def caption(summary: Summary, part: Part = "accuracy") -> str:
    """What the columns mean, which interval it is, and what is assumed."""
    level = f"{100 * summary.level:g} %"
    if part == "accuracy":
        return (
            "Test accuracy in percent, averaged over clients, then over seeds. "
            f"± is the half-width of a {level} Student-t interval over seeds (none with one seed). "
            "final: last round. at val's choice: the round of best mean validation accuracy, ties to the "
            "earliest, round 0 included; the test set chooses nothing. Δ: final minus round 0, in points. "
            f"vs {summary.baseline}: paired difference on the same seeds; better or worse where its interval "
            "excludes 0, else undecided; not corrected for the number of comparisons. "
            "gained, lost: share of test samples that went from wrong to right and from right to wrong, "
            "Δ = gained − lost. worst client: lowest final accuracy of any client. "
            "success: share of clients with Δ > 0."
        )
    if summary.target is None:
        target = "the best method's mean final accuracy in that partition minus one point"
    else:
        target = f"{percent(summary.target)} %"
    return (
        "Sums over clients and rounds, means over seeds. bytes: up and down, tuning included. "
        "steps: optimiser steps, equal for every method by design; tuning is charged in its own columns. "
        f"Target: {target}; to target: Kaplan-Meier median over seeds; arrived: seeds that got there; "
        "“>” marks a median that was not reached within the rounds run (censored, not dropped)."
    )


def markdown(summary: Summary) -> str:
    """Both tables of every block with captions and warnings, as Markdown."""
    parts: list[str] = [f"> **Warning.** {warning}\n" for warning in summary.warnings]
    for part in ("accuracy", "cost"):
        for table in text_tables(summary, part):
            parts += [f"### {_cell(table.title)}: {part}\n", _markdown_table(table)]
        parts.append(caption(summary, part) + "\n")
    return "\n".join(parts)


def _markdown_table(table: TextTable) -> str:
    rule = ["---", "---", *["---:"] * (len(table.headers) - 2)]
    lines = [table.headers, rule, *table.rows]
    return "".join(f"| {' | '.join(_cell(text) for text in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Spec strings may hold what Markdown or HTML would act on."""
    for sign in "\\|*_`<[":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")


def _interval(name: str, show: Callable[[float], str]) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        return show(row[name]) + spread(row[f"{name}_low"], row[f"{name}_high"])

    return text


def _reach(name: str, show: Callable[[float], str]) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        reach = row[name]
        if not isinstance(reach, Reach):
            return NOTHING
        if name == "bytes_to_target" and reach == (0.0, False):
            return NOTHING  # a method that sends nothing and never arrives
        return f"{'' if reach.reached else '>'}{show(reach.value)}"

    return text


def _paired(row: Row) -> str:
    text = _interval("difference", points)(row)
    # A seed that one side lacks is no pair, and the reader should not count it as one.
    return (
        f"{text} ({row['pairs']} of {row['seeds']} paired)" if row["verdict"] and row["pairs"] < row["seeds"] else text
    )


def _value(name: str, show: Callable[[Any], str]) -> Callable[[Row], str]:
    return lambda row: NOTHING if pd.isna(row[name]) else show(row[name])


_ACCURACY: dict[str, Callable[[Row], str]] = {
    "partition": _value("partition", str),
    "method": _value("method", str),
    "seeds": _value("seeds", str),
    "final": _interval("accuracy", percent),
    "at val's choice": _interval("chosen_accuracy", percent),
    "Δ": _interval("delta", points),
    "vs {baseline}": _paired,
    "verdict": lambda row: row["verdict"] or NOTHING,
    "gained": _value("gained", percent),
    "lost": _value("lost", percent),
    "worst client": _value("worst_client", percent),
    "success": lambda row: percent(row["success_rate"], 0) + ("" if pd.isna(row["success_rate"]) else " %"),
}
_COST: dict[str, Callable[[Row], str]] = {
    "partition": _value("partition", str),
    "method": _value("method", str),
    "bytes": _value("bytes", size),
    "steps": _value("steps", count),
    "tuning steps": _value("tuning_steps", count),
    "tuning samples": _value("tuning_samples", count),
    "tuning bytes": _value("tuning_bytes", size),
    "target": _value("target", percent),
    "rounds to target": _reach("rounds_to_target", count),
    "bytes to target": _reach("bytes_to_target", size),
    "arrived": lambda row: f"{row['reached']}/{row['seeds']}",
}

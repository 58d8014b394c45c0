"""The comparison table in words: headers and rows of text for a terminal, Markdown, or the report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.measures.summary import Summary
from analysis.page.captions import Part, caption
from analysis.results.metrics import METRICS
from analysis.results.units import NOTHING, around, count, p_value, percent, points, ranged, size
from analysis.statistics.censoring import Reach
from analysis.statistics.comparisons import is_bound, loses_less

UNEQUAL = 0.01
"""From this share on, steps are another number of steps."""
DECIDED = ("better", "worse", "undecided")
PARTS: tuple[Part, ...] = ("accuracy", "detail", "quality", "cost")
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

    part: "accuracy" says what came out, "detail" where it came from, "quality" what else the models became, "cost"
    what it took. Columns that no row of a block has a value for are left out; so is a block of "quality" that would
    have no column.
    """
    tables = []
    for title, block in summary.blocks():
        columns = _columns(block, part)
        if not columns:
            continue
        origins = set(block.rows["start_from"])
        shown = {f"shown_{key}": [summary.names.of(key, value) for value in block.rows[key]] for key in _SHOWN}
        origin = block.rows["start_from"] if len(origins) > 1 else ""
        rows = block.rows.assign(origin=origin, **shown).to_dict("records")
        of = f" ({origins.pop()})" if len(origins) == 1 else ""
        headers = [name.format(baseline=summary.reference, of=of) for name in columns]
        tables.append(TextTable(title, headers, [[text(row) for text in columns.values()] for row in rows]))
    return tables


def _columns(block: Summary, part: Part) -> dict[str, Callable[[Row], str]]:
    """The columns of one part that have something to say in this block."""
    rows = block.rows
    columns = {"accuracy": _ACCURACY, "detail": _DETAIL, "quality": _QUALITY, "cost": _COST}[part]
    if part == "cost":
        # Shown only where something was tuned or trained: columns of zeros say less than their absence.
        idle = {name for name, costs in _IF_SPENT.items() if not (rows[list(costs)] > 0).to_numpy().any()}
        return {name: text for name, text in columns.items() if name not in idle}
    if part == "quality":
        known = {name for name, (score, _) in _SCORES.items() if rows[score].notna().any()}
        return {name: text for name, text in columns.items() if name in known or name not in _SCORES} if known else {}
    if part == "detail":
        # Two methods need no ranks.
        return {name: text for name, text in columns.items() if name != "rank" or rows["family"].max() > 1}
    # Without five seeds no p decides anything.
    decided = rows[["verdict", "start_verdict"]].isin([*DECIDED, loses_less(block.reference)]).to_numpy().any()
    return {name: text for name, text in columns.items() if decided or name not in _P_VALUES}


def markdown(summary: Summary) -> str:
    """All tables of every block with captions and warnings, as Markdown."""
    parts: list[str] = [f"> **Warning.** {warning}\n" for warning in summary.warnings]
    for part in PARTS:
        tables = text_tables(summary, part)
        for table in tables:
            parts += [f"### {_cell(table.title)}: {part}\n", _markdown_table(table)]
        if tables:
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
        behind = around(row[name], row[f"{name}_low"], row[f"{name}_high"], show)
        return show(row[name]) + (behind or _range(name, show)(row))

    return text


def _range(name: str, show: Callable[[float], str]) -> Callable[[Row], str]:
    """The range of two values; of more there is an interval."""
    return lambda row: ranged(row[f"{name}_least"], row[f"{name}_most"], show) if pd.isna(row[f"{name}_low"]) else ""


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
    return f"{text} ({row['pairs']} of {row['seeds']} paired)" if 0 < row["pairs"] < row["seeds"] else text


def _start(row: Row) -> str:
    return percent(row["start_accuracy"]) + (f" ({row['origin']})" if row["origin"] else "")


def _verdict(name: str, pairs: str) -> Callable[[Row], str]:
    """A verdict, or how few seeds there are for one; a dash where there is nothing to compare."""

    def text(row: Row) -> str:
        compared = row[name] or (pairs == "seeds" or not pd.isna(row["difference"]))
        return row[name] or (f"{NOTHING}, {count(row[pairs])} seed{'s' * (row[pairs] != 1)}" if compared else NOTHING)

    return text


def _method(row: Row) -> str:
    """What the method is called; what took another number of steps is marked, for it is compared at unequal work."""
    return str(row["shown_method"]) + steps_mark(row["method"], row["steps_share"])


def steps_mark(method: str, share: float) -> str:
    """` [0.33 × the steps]` behind a method that took another number of steps than the others, else nothing; bounds
    take their own. share: its steps as a share of theirs."""
    if pd.isna(share) or abs(share - 1) < UNEQUAL or is_bound(method):
        return ""
    return f" [{share:.2g} × the steps]"


def _value(name: str, show: Callable[[Any], str]) -> Callable[[Row], str]:
    return lambda row: NOTHING if pd.isna(row[name]) else show(row[name])


_SHOWN = ("partition", "method")
"""Columns whose values a reader sees under the names of the recipe."""
_P_VALUES = ("p vs start", "p vs {baseline}")
_TUNING = ("tuning_steps", "tuning_samples", "tuning_bytes")
_IF_SPENT = {"pre-training": ("pretrain_seconds",), **{METRICS[name].label: _TUNING for name in _TUNING}}
"""Columns that are left out where none of these costs was spent."""
_IN_UNIT: dict[str, Callable[[Any], str]] = {"bytes": size, "count": count, "seconds": lambda spent: f"{spent:.3g} s"}


def _spent(*names: str) -> dict[str, Callable[[Row], str]]:
    """A column for each of some costs, under its label and in its unit."""
    return {METRICS[name].label: _value(name, _IN_UNIT[METRICS[name].unit]) for name in names}


_ACCURACY: dict[str, Callable[[Row], str]] = {
    "partition": _value("shown_partition", str),
    "method": _method,
    "seeds": _value("seeds", str),
    "start{of}": _start,
    "final": _interval("accuracy", percent),
    "Δ": _interval("delta", points),
    "verdict vs start": _verdict("start_verdict", "seeds"),
    "p vs start": _value("start_adjusted_p", p_value),
    "vs {baseline}": _paired,
    "verdict vs {baseline}": _verdict("verdict", "pairs"),
    "p vs {baseline}": _value("adjusted_p", p_value),
}
_DETAIL: dict[str, Callable[[Row], str]] = {
    "partition": _value("shown_partition", str),
    "method": _method,
    "at val's choice": _interval("chosen_accuracy", percent),
    "rank": _value("rank", lambda rank: f"{rank:.2g}" if rank < 10 else f"{rank:.3g}"),
    "gained": _value("gained", percent),
    "lost": _value("lost", percent),
    "worst client": _value("worst_client", percent),
    "success": lambda row: percent(row["success_rate"], 0) + ("" if pd.isna(row["success_rate"]) else " %"),
}
_SCORES: dict[str, tuple[str, Callable[[Row], str]]] = {
    "bits per byte": ("bits_per_byte", _value("bits_per_byte", lambda bits: f"{bits:.3f}")),
    "at the start": ("start_bits_per_byte", _value("start_bits_per_byte", lambda bits: f"{bits:.3f}")),
    "ece": ("ece", _interval("ece", percent)),
    "personal": ("personal_accuracy", _value("personal_accuracy", percent)),
    "spread": ("client_std", _value("client_std", percent)),
    "range": ("client_range", _value("client_range", percent)),
    "forgetting": ("forgetting", _interval("forgetting", points)),
    "forgot": ("forgot", _value("forgot", lambda share: f"{percent(share, 0)} %")),
    "agreement": ("agreement", _value("agreement", percent)),
    "teacher accuracy": ("teacher_accuracy", _value("teacher_accuracy", percent)),
    "teacher loss": ("teacher_loss", _value("teacher_loss", lambda loss: f"{loss:.2f}")),
}
_QUALITY: dict[str, Callable[[Row], str]] = {
    "partition": _value("shown_partition", str),
    "method": _method,
    **{name: text for name, (_, text) in _SCORES.items()},
}
_COST: dict[str, Callable[[Row], str]] = {
    "partition": _value("shown_partition", str),
    "method": _method,
    "bytes": _value("bytes", size),
    "steps": _value("steps", count),
    "samples": _value("samples", count),
    **_spent("seconds", "pretrain_seconds", *_TUNING),
    "target": _value("target", percent),
    "rounds to target": _reach("rounds_to_target", count),
    "bytes to target": _reach("bytes_to_target", size),
    "arrived": lambda row: NOTHING if pd.isna(row["target"]) else f"{row['reached']}/{row['seeds']}",
}

"""The comparison table in words: headers and rows of text for a terminal, Markdown, or the report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from analysis.censoring import Reach
from analysis.summary import Summary
from analysis.units import NOTHING, around, count, percent, points, size

Part = Literal["accuracy", "quality", "cost"]
PARTS: tuple[Part, ...] = ("accuracy", "quality", "cost")
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

    part: "accuracy" says what came out, "quality" what else the models became, "cost" what it took. Columns that no
    row of a block has a value for are left out; so is a block of "quality" that would have no column.
    """
    columns = {"accuracy": _ACCURACY, "quality": _QUALITY, "cost": _COST}[part]
    tables = []
    for title, block in summary.blocks():
        # Shown only where some method was tuned: three columns of zeros say less than their absence.
        tuned = bool((block.rows[["tuning_steps", "tuning_samples", "tuning_bytes"]] > 0).to_numpy().any())
        shown = {name: text for name, text in columns.items() if tuned or not name.startswith("tuning")}
        if not (block.rows["pretrain_seconds"] > 0).any():
            shown.pop("pre-training", None)
        # One comparison needs no correction, and two methods no ranks.
        shown = {name: text for name, text in shown.items() if name not in _MANY or block.rows["family"].max() > 1}
        if part == "quality":
            known = {name for name, (score, _) in _SCORES.items() if block.rows[score].notna().any()}
            shown = {name: text for name, text in shown.items() if name in known or name not in _SCORES}
            if not known:
                continue
        headers = [name.format(baseline=summary.baseline) for name in shown]
        rows = [[text(row) for text in shown.values()] for row in block.rows.to_dict("records")]
        tables.append(TextTable(title, headers, rows))
    return tables


def caption(summary: Summary, part: Part = "accuracy") -> str:
    """What the columns mean, which interval it is, and what is assumed."""
    level = f"{100 * summary.level:g} %"
    if part == "accuracy":
        return (
            "Test accuracy in percent, averaged over clients, or that of the global model where the server holds one, "
            f"then over seeds. ± is the half-width of a {level} Student-t interval over seeds (none with one seed); "
            "from ten seeds on a BCa bootstrap, in brackets. "
            "final: last round. at val's choice: the round of best mean validation accuracy, ties to the "
            "earliest, round 0 included; the test set chooses nothing. Δ: final minus round 0, in points. "
            f"vs {summary.baseline}: paired difference on the same seeds; better or worse where its interval "
            "excludes 0, else undecided; not corrected for the number of comparisons. "
            f"Holm: the verdict corrected over all methods against {summary.baseline} in that partition, with the "
            "adjusted p of the paired t-test. rank: mean rank over the seeds that all methods have, 1 is best. "
            "gained, lost: share of test samples that went from wrong to right and from right to wrong, "
            "Δ = gained − lost, for a global model since its consolidated start. "
            "worst client: lowest final accuracy of any client's own model. "
            "success: share of clients with Δ > 0."
        )
    if part == "quality":
        return (
            "Means over clients, then over seeds. ece: expected calibration error on test, last round, in points. "
            "personal: final test accuracy of the clients' own models beside a global one. spread: standard deviation "
            "of final test accuracy over clients, range: best minus worst client, in points. forgetting: accuracy on "
            "the client's own distribution at round 0 minus at the last round, in points; forgot: share of clients "
            "that lost there. agreement: share of transfer samples where student and merged teacher name the same "
            "class; teacher accuracy, teacher loss: the merged soft labels against the true transfer labels. bits per "
            "byte: of test text, last round and start; it compares tokenisers."
        )
    if summary.target is None:
        target = "the best method's mean final accuracy in that partition minus one point"
    else:
        target = f"{percent(summary.target)} %"
    starts = summary.starts
    many, share = ("starts", "are") if starts.number > 1 else ("start", "is")
    pretraining = (
        "pre-training: seconds of computing that the start took, which is trained once, belongs to all federations "
        f"that begin from it and is in no other column; here {starts.number} {many}, {starts.seconds:.3g} s in all, "
        f"{share} shared by {starts.federations} federations. "
    )
    return (
        "Sums over clients and rounds, means over seeds. bytes: up and down, tuning included. "
        "steps: optimiser steps, equal for every method by design; samples: examples back-propagated; computing: "
        f"seconds, clients run side by side; tuning is charged in its own columns. {pretraining * (starts.number > 0)}"
        f"Target: {target}; to target: Kaplan-Meier median over seeds; arrived: seeds that got there; "
        "“>” marks a median that was not reached within the rounds run (censored, not dropped)."
    )


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
        return show(row[name]) + around(row[name], row[f"{name}_low"], row[f"{name}_high"], show)

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


def _corrected(row: Row) -> str:
    if not row["corrected"] or pd.isna(row["adjusted_p"]):
        return NOTHING
    p = row["adjusted_p"]
    return f"{row['corrected']}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


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
    "Holm": _corrected,
    "rank": _value("rank", lambda rank: f"{rank:.2g}" if rank < 10 else f"{rank:.3g}"),
    "gained": _value("gained", percent),
    "lost": _value("lost", percent),
    "worst client": _value("worst_client", percent),
    "success": lambda row: percent(row["success_rate"], 0) + ("" if pd.isna(row["success_rate"]) else " %"),
}
_MANY = ("Holm", "rank")
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
    "partition": _value("partition", str),
    "method": _value("method", str),
    **{name: text for name, (_, text) in _SCORES.items()},
}
_COST: dict[str, Callable[[Row], str]] = {
    "partition": _value("partition", str),
    "method": _value("method", str),
    "bytes": _value("bytes", size),
    "steps": _value("steps", count),
    "samples": _value("samples", count),
    "computing": _value("seconds", lambda seconds: f"{seconds:.3g} s"),
    "pre-training": _value("pretrain_seconds", lambda seconds: f"{seconds:.3g} s"),
    "tuning steps": _value("tuning_steps", count),
    "tuning samples": _value("tuning_samples", count),
    "tuning bytes": _value("tuning_bytes", size),
    "target": _value("target", percent),
    "rounds to target": _reach("rounds_to_target", count),
    "bytes to target": _reach("bytes_to_target", size),
    "arrived": lambda row: f"{row['reached']}/{row['seeds']}",
}

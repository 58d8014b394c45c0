"""A comparison in a few sentences for each partition: which methods win, at which cost, and what is undecided."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.measures.summary import Summary
from analysis.results.units import around, count, percent, points, size
from analysis.statistics.censoring import Reach
from analysis.statistics.comparisons import BOUND, baseline_of, loses_less, paired_values
from analysis.statistics.intervals import DECIDED_FROM, paired_gaps
from analysis.statistics.power import MOST_SEEDS, POWER, seeds_to_decide

Row = Any  # one row of Summary.rows, by column name


@dataclass(frozen=True)
class Sentence:
    """One statement about some methods: a head, and each method with its numbers."""

    head: str
    methods: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Short:
    """The result of a comparison in one partition."""

    where: str
    sentences: tuple[Sentence, ...]


def in_short(summary: Summary) -> list[Short]:
    """One `Short` for each block and partition, in the order of the table. Bounds are left out: they cannot win."""
    blocks = summary.blocks()
    result = []
    for title, block in blocks:
        for partition, rows in block.rows.groupby("partition", sort=False):
            where = block.names.of("partition", partition)
            where = f"{title}, {where}" if len(blocks) > 1 else where
            panel = block.scores[block.scores["partition"] == partition]
            known = rows[rows["accuracy"].notna() & (rows["start_verdict"] != BOUND)]
            if len(known):
                sentences = _sentences(known, panel, block)
                result.append(Short(where, tuple(_named(each, block) for each in sentences)))
    return result


def _named(sentence: Sentence, block: Summary) -> Sentence:
    """The sentence with the names that the recipe gives to its arms."""
    return Sentence(sentence.head, tuple((block.names.of("method", spec), text) for spec, text in sentence.methods))


def explanation(summary: Summary) -> str:
    """How the sentences are to be read."""
    return (
        "Differences are in points; a method beats what the corrected test says it beats. So many seeds would decide "
        f"with a chance of {100 * POWER:.0f} % if the mean difference and its spread stayed what they are, at the "
        f"level that Holm's correction asks of the smallest p: {100 * (1 - summary.level):g} % over the number of "
        "comparisons."
    )


def _sentences(rows: pd.DataFrame, panel: pd.DataFrame, block: Summary) -> Iterator[Sentence]:
    base = baseline_of(rows, block.baseline)
    every: list[Row] = rows.sort_values("accuracy", ascending=False, kind="stable").to_dict("records")
    others = [row for row in every if row["method"] != base]
    against = f" and {block.reference}" if base is not None else ""
    few = int(rows["seeds"].max())
    winners = [row for row in others if _wins(row, base)]
    if few < DECIDED_FROM:
        yield Sentence(f"{few} seed{'s' * (few > 1)} decide{'s' * (few == 1)} nothing; {DECIDED_FROM} are the fewest")
    elif winners:
        yield Sentence(f"Beats its start{against}", tuple((row["method"], _lead(row, block)) for row in winners))
    else:
        yield Sentence(f"No method is shown to beat its start{against}")
    for head, wanted in (
        (f"Beats {block.reference}, and is not told from its start", ("better", "undecided")),
        (f"Beats its start, and is worse than {block.reference}", ("worse", "better")),
        (f"Worse than {block.reference}", ("worse", "undecided")),
    ):
        alike = [row for row in others if (row["verdict"], row["start_verdict"]) == wanted]
        if alike:
            yield Sentence(head, tuple((row["method"], _lead(row, block)) for row in alike))
    fallen = [row for row in every if row["start_verdict"] == "worse"]
    if fallen:
        yield Sentence("Ends below its start", tuple((row["method"], _fallen(row, block, base)) for row in fallen))
    undecided = [(row["method"], text) for row in others if (text := _undecided(row, panel, block, base))]
    if undecided:
        yield Sentence("Undecided", tuple(undecided))


def _wins(row: Row, base: str | None) -> bool:
    return row["start_verdict"] == "better" and (base is None or row["verdict"] == "better")


def _lead(row: Row, block: Summary) -> str:
    """By how much, at what bytes and rounds."""
    texts = [f"{_gap(row, 'delta')} to its start"]
    if not pd.isna(row["difference"]):
        texts.append(f"{_gap(row, 'difference')} to {block.reference}")
    texts.append(size(row["bytes"]))
    reach = row["rounds_to_target"]
    if isinstance(reach, Reach):
        texts.append(f"{reach} round{'s' * (str(reach) != '1')} to {percent(row['target'])} %")
    return ", ".join(texts)


def _fallen(row: Row, block: Summary, base: str | None) -> str:
    if row["method"] != base and row["verdict"] == loses_less(block.reference):
        return f"{_gap(row, 'delta')}, {row['verdict']}"
    return _gap(row, "delta") + (f", worse than {block.reference}" if row["verdict"] == "worse" else "")


def _undecided(row: Row, panel: pd.DataFrame, block: Summary, base: str | None) -> str:
    """What of a method is open, with the number of seeds that would decide it."""
    method, texts = row["method"], []
    if row["start_verdict"] in ("", "undecided"):
        gaps = paired_values(panel, "delta")[method].dropna().to_numpy(dtype="float64")
        seeds = seeds_to_decide(gaps, block.level, row["start_family"])
        texts.append(f"{_gap(row, 'delta')} to its start ({_needed(seeds, gaps.size)})")
    if base is not None and row["verdict"] in ("", "undecided"):
        values = paired_values(panel)
        gaps = paired_gaps(values[method], values[base])
        seeds = seeds_to_decide(gaps, block.level, row["family"])
        texts.append(f"{_gap(row, 'difference')} to {block.reference} ({_needed(seeds, gaps.size)})")
    return ", ".join(texts)


def _gap(row: Row, name: str) -> str:
    return points(row[name]) + around(row[name], row[f"{name}_low"], row[f"{name}_high"], points)


def _needed(seeds: float, there: int) -> str:
    if math.isnan(seeds):
        return "too few seeds to say how many would decide"
    if math.isinf(seeds):
        return f"not even {count(MOST_SEEDS)} seeds would decide"
    return f"about {count(max(seeds, there + 1.0, float(DECIDED_FROM)))} seeds would decide"

"""Every figure of a report: one figure an idea, one panel a partition."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.curves import accuracy_against_bytes, accuracy_against_rounds
from analysis.drawing.gains import delta_intervals, gained_and_lost, rows_height
from analysis.drawing.heatmaps import tuned_methods, tuning_heatmap
from analysis.drawing.picture import Picture, picture, slug
from analysis.drawing.shards import MOST_BARS, partition_heatmap, partition_measures, partition_picture
from analysis.drawing.style import Look, looks
from analysis.figures.findings import draw_findings
from analysis.measures.summary import Summary
from analysis.results.values import frozen_teachers
from analysis.statistics.intervals import INTERVAL_FROM

__all__ = ["Picture", "draw_block", "draw_partitions", "slug"]


def draw_block(
    table: pd.DataFrame, title: str, block: Summary, order: Sequence[str], folder: Path, suffix: str
) -> list[Picture]:
    """The figures of one block: curves, costs, gains, knowledge, the grids where something was tuned, and whatever
    `findings.draw_findings` has something to say about.

    table: the rows of this block. title: its settings in words. order: methods in the study's order, so that
    every block gives a method the same look. suffix: appended to file names. Files go to `folder`.
    """
    styles = looks(order)
    seeds = _seeds(table)
    over = f"Line or dot: mean over {seeds}; band or bar: {100 * block.level:g} % Student-t interval over seeds" + (
        "." if table["seed"].nunique() >= INTERVAL_FROM else f" (none below {INTERVAL_FROM} seeds)."
    )
    ranked = list(dict.fromkeys(block.rows["partition"])) or list(dict.fromkeys(table["partition"]))
    parts = [(str(name), table[table["partition"] == name]) for name in ranked]
    note = "Axes differ between panels. " if len(parts) > 1 else ""
    frozen = frozen_teachers(table)
    axis = (
        f"Frozen teachers ({', '.join(frozen)}): knowledge travels once, so later rounds are local epochs. "
        if frozen
        else ""
    )
    drawn = [
        picture(
            "accuracy-rounds" + suffix,
            f"Accuracy against rounds: {title}",
            "Mean test accuracy over clients, or of the global model where the server holds one; round 0 is the "
            f"common start. {over} {axis}{note}",
            [(name, _curve(accuracy_against_rounds, part, block, styles)) for name, part in parts],
            folder,
        ),
        picture(
            "accuracy-bytes" + suffix,
            f"Accuracy against communication: {title}",
            "Mean test accuracy against the bytes sent so far by and to all clients, tuning included. "
            "A point is a round, the large one the last round with its interval; methods are set a "
            "few pixels apart where costs agree. Dashed horizontals send "
            f"nothing, the dotted one is the start. {over} {note}",
            [(name, _curve(accuracy_against_bytes, part, block, styles)) for name, part in parts],
            folder,
        ),
    ]
    rows = [(name, block.rows[block.rows["partition"] == name]) for name, _ in parts]
    rows = [(name, each) for name, each in rows if len(each)]
    height = max((rows_height(each["method"]) for _, each in rows), default=0.9)
    if rows:
        drawn.append(
            picture(
                "gain" + suffix,
                f"Gain over the start: {title}",
                f"Δ = final minus start test accuracy, in points, mean over clients or of the global model. {over} "
                "Intervals that overlap do not mean no difference: the paired differences are in the table.",
                [(name, _bars(delta_intervals, each, styles)) for name, each in rows],
                folder,
                width=4.0,
                height=height,
                legend=False,
                same_x=True,
            )
        )
    if rows and block.rows["gained"].notna().any():
        drawn.append(
            picture(
                "knowledge" + suffix,
                f"Knowledge gained and lost: {title}",
                "Shares of all test samples whose prediction went from wrong to right (gained) "
                f"and from right to wrong (lost) between the start and the last round, "
                f"mean over clients and {seeds}.",
                [(name, _bars(gained_and_lost, each, None)) for name, each in rows],
                folder,
                width=4.0,
                height=height,
                same_x=True,
            )
        )
    tuned = [(name, method, part) for name, part in parts for method in tuned_methods(part)]
    if tuned:
        names = ", ".join(dict.fromkeys(method for _, method, _ in tuned))
        several = len({method for _, method, _ in tuned}) > 1
        drawn.append(
            picture(
                "tuning" + suffix,
                f"What tuning found: {title}",
                "Validation accuracy in percent of every tuned cell, mean over clients and seeds. "
                "Framed cells were chosen, with how many of the choices fell on them. Colours are "
                f"scaled in each panel. Tuned: {names}.",
                [
                    (f"{name} · {method}" if several else name, _heat(part[part["method"] == method]))
                    for name, method, part in tuned
                ],
                folder,
                width=4.0,
                height=3.3,
                legend=False,
            )
        )
    return drawn + draw_findings(table, title, block, styles, folder, suffix)


def draw_partitions(partitions: Sequence[Mapping[str, Any]], folder: Path) -> list[Picture]:
    """Who holds what, one figure a data set, one panel a partition: the first seed of each.

    partitions: entries of study.json with dataset, partition, seed, counts (clients × classes) and classes;
    entries without counts are left out.
    """
    first: dict[tuple[str, str, int], Mapping[str, Any]] = {}
    for entry in partitions:
        if entry.get("counts") and entry.get("classes"):
            first.setdefault((str(entry["dataset"]), str(entry["partition"]), len(entry["counts"])), entry)
    drawn = []
    for dataset in dict.fromkeys(name for name, _, _ in first):
        mine = {(name, clients): entry for (data, name, clients), entry in first.items() if data == dataset}
        several = len({clients for _, clients in mine}) > 1
        seeds = sorted({str(entry.get("seed")) for entry in mine.values()})
        drawn.append(
            picture(
                "partitions" + ("" if len({data for data, _, _ in first}) == 1 else f"-{slug(dataset)}"),
                f"Who holds what: {dataset}",
                f"Private samples of each class at each client, seed {', '.join(seeds)}. {_measures(mine)}",
                [
                    (f"{name} · {clients} clients" if several else name, _bar(entry))
                    for (name, clients), entry in mine.items()
                ],
                folder,
                **_size(mine.values()),
            )
        )
    return drawn


def _seeds(table: pd.DataFrame) -> str:
    numbers = table.groupby(["partition", "method"])["seed"].nunique()
    least, most = int(numbers.min()), int(numbers.max())
    if least < most:
        return f"{least} to {most} seeds"
    return f"{most} seeds" if most != 1 else "one seed"


def _curve(draw: Callable[..., Axes], part: pd.DataFrame, block: Summary, styles: Mapping[str, Look]) -> Any:
    present = set(part["method"])
    mine = {method: look for method, look in styles.items() if method in present}
    return lambda ax: draw(part, ax, level=block.level, styles=mine)


def _bars(draw: Callable[..., Axes], rows: pd.DataFrame, styles: Mapping[str, Look] | None) -> Any:
    return lambda ax: draw(rows, ax) if styles is None else draw(rows, ax, styles=styles)


def _heat(part: pd.DataFrame) -> Any:
    return lambda ax: tuning_heatmap(part, ax)


def _bar(entry: Mapping[str, Any]) -> Any:
    """Bars up to ten classes; nobody can tell more colours apart, and then a map shows who holds what."""
    names = [str(name) for name in entry["classes"]]
    draw = partition_picture if len(names) <= MOST_BARS else partition_heatmap
    return lambda ax: draw(entry["counts"], names, ax)


def _size(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Room for a panel: many classes or clients take more of it, and so fewer panels a row."""
    classes = max(len(entry["classes"]) for entry in entries)
    clients = max(len(entry["counts"]) for entry in entries)
    if classes <= MOST_BARS and clients <= 30:
        return {"height": 2.7}
    return {"width": 6.0, "height": 2.7 if classes <= MOST_BARS else min(2.4 + 0.03 * classes, 6.0), "most": 2}


def _measures(entries: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    texts = []
    for (name, clients), entry in entries.items():
        measures = partition_measures(entry["counts"])
        texts.append(
            f"{name}, {clients} clients: {measures['samples'].min()}–{measures['samples'].max()} samples, "
            f"label entropy {measures['entropy'].mean():.2f} bits on average"
        )
    return "; ".join(texts) + "."

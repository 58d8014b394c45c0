"""Figures that are drawn only where they have something to say: each states above what it is worth a place."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from analysis.drawing.gains import rows_height
from analysis.drawing.picture import Panel, Picture, picture
from analysis.drawing.refinement import TEXT_METRIC, keep_levels, loss_against_keep, loss_against_steps, steps_curves
from analysis.drawing.sides import calibration_bars, class_changes, client_spread, gain_against, gain_by_model
from analysis.drawing.standing import arrivals_against, rank_diagram
from analysis.drawing.style import Look, looks
from analysis.drawing.teaching import accuracy_against_noise, noise_levels, taught_bars, taught_shares
from analysis.measures.breakdown import class_scores, client_gains, model_scores
from analysis.measures.summary import Summary
from analysis.measures.targets import REFERENCE, arrivals, reading_split, share_targets
from analysis.results.table import finished
from analysis.results.units import percent
from analysis.results.values import CLASS
from analysis.statistics.comparisons import RANKED_FROM, is_bound, paired_values
from analysis.statistics.ranks import rank_methods

NOTABLE = 0.02
"""A change or a gap below two points is not worth a figure."""
WIDE = 30
"""With more classes, a panel of them takes a figure of its own."""
SHARE = 0.90
"""The share of `pooled` whose arrivals are drawn."""


def draw_findings(
    table: pd.DataFrame, title: str, block: Summary, styles: Mapping[str, Look], folder: Path, suffix: str
) -> list[Picture]:
    """The further figures of one block. table: its rows. styles: looks by method. Files go to `folder`."""
    if block.rows.empty:
        return []
    done = finished(table)
    names = list(dict.fromkeys(str(name) for name in block.rows["partition"]))
    drawn: list[Picture] = []

    def add(name: str, heading: str, caption: str, parts: Sequence[Panel], **more: float | bool) -> None:
        settings = {"width": 4.0, **more}
        drawn.append(picture(name + suffix, f"{heading}: {title}", caption, parts, folder, **settings))  # type: ignore[arg-type]

    rows = {name: block.rows[block.rows["partition"] == name] for name in names}
    tall = max(rows_height(each["method"]) for each in rows.values())
    _ranks(block, styles, add)
    _arrivals(done, block, names, styles, add)
    if (done["metric"].astype("str").str.startswith(CLASS)).any():
        classes = class_scores(done)
        most = float(classes["delta"].abs().max())
        if most >= NOTABLE:
            changes: list[Panel] = [
                (name, partial(class_changes, each, limit=most))
                for name in names
                if len(each := _in_order(classes, rows[name]))
            ]
            wide = classes["class"].nunique() > WIDE
            for place, part in enumerate([[part] for part in changes] if wide else [changes]):
                add(
                    f"classes-{place + 1}" if wide and len(changes) > 1 else "classes",
                    "Change of every class",
                    "Δ test accuracy of each class between the start and the last round, in points, mean over clients "
                    "and seeds; blue rose, vermilion fell. Colours agree between panels.",
                    part,
                    height=tall,
                    width=11.0 if wide else 4.0,
                    legend=False,
                    same_rows=True,
                )
    gains = client_gains(done)
    uneven = gains.groupby(["partition", "method", "seed"])["delta"].std()
    if uneven.max() >= NOTABLE:
        parts = [(name, _in_order(gains, rows[name])) for name in names]
        add(
            "clients",
            "Who gains and who pays",
            "Δ test accuracy of every client's own model in every seed, in points. Box: first to third quartile with "
            "the median; line: worst to best client.",
            [(name, partial(client_spread, each, styles=styles)) for name, each in parts if len(each)],
            height=tall,
            legend=False,
            same_x=True,
        )
    if _differs(block.rows, "forgetting"):
        add(
            "forgetting",
            "Forgetting against gain",
            "Across: accuracy on the client's own distribution lost since round 0; up: gain on the common test set. "
            "Top left gains without forgetting. Bars: intervals over seeds.",
            _scatter(rows, "forgetting", "forgetting on the own distribution, points", styles),
        )
    if _differs(block.rows, "ece"):
        add(
            "calibration",
            "Calibration",
            "Expected calibration error on test, mean over clients and seeds, with its interval; shorter is better.",
            [(name, partial(calibration_bars, each)) for name, each in rows.items() if each["ece"].notna().any()],
            height=tall,
            same_x=True,
        )
    for score, label in (("agreement", "agreement with the merged teacher (%)"), ("teacher_accuracy", _TEACHER)):
        if _differs(block.rows, score):
            add(
                score.replace("_", "-"),
                "Agreement against gain" if score == "agreement" else "Teachers against gain",
                "Across: share of transfer samples where student and merged teacher name the same class, last round."
                if score == "agreement"
                else "Across: share of transfer samples on which the merged soft labels name the true class.",
                _scatter(rows, score, label, styles),
            )
    _teaching(done, rows, styles, add)
    _refinement(done, names, styles, add)
    models = model_scores(done, block.level)
    if len(models):
        looked = looks(list(dict.fromkeys(str(name) for name in models["model"])))
        parts = [(name, _in_order(models, rows[name])) for name in names]
        add(
            "models",
            "Gain of every architecture",
            "Δ test accuracy of the clients that hold each model, mean over them, with the interval over seeds.",
            [(name, partial(gain_by_model, each, styles=looked)) for name, each in parts if len(each)],
            height=tall,
            same_x=True,
        )
    return drawn


_TEACHER = "accuracy of the merged soft labels (%)"


def _teaching(
    done: pd.DataFrame, rows: Mapping[str, pd.DataFrame], styles: Mapping[str, Look], add: Callable[..., None]
) -> None:
    shares = taught_shares(done)
    if len(shares):
        parts = [(name, _in_order(shares, each)) for name, each in rows.items()]
        add(
            "taught",
            "What was distilled",
            "Samples of the transfer set, mean over clients, rounds and seeds: distilled where the teacher is right, "
            "distilled although it is wrong, revised towards the label, or left to ground truth. Right and wrong are "
            "as the labels say that the client knows.",
            [(name, partial(taught_bars, each)) for name, each in parts if len(each)],
            height=rows_height(shares["method"].unique()),
            same_x=True,
        )
    levels = noise_levels(pd.concat(rows.values()))
    if levels["noise"].nunique() >= 3:
        add(
            "noise",
            "Accuracy against teacher noise",
            "Test accuracy at the last round against the share of wrong labels that the noisy clients were trained "
            "on, mean over clients and seeds; bars: intervals over seeds.",
            [("all partitions", partial(accuracy_against_noise, levels, styles=styles))],
            width=5.0,
            height=3.4,
        )


def _refinement(done: pd.DataFrame, names: Sequence[str], styles: Mapping[str, Look], add: Callable[..., None]) -> None:
    if not (done["metric"] == TEXT_METRIC).any():
        return
    curves = {name: steps_curves(done[done["partition"] == name]) for name in names}
    add(
        "loss-steps",
        "Loss against steps",
        "Bits per byte of the test text after so many optimiser steps, mean over clients and seeds; bars at the end: "
        "intervals over seeds. The start is left out.",
        [(name, partial(loss_against_steps, each, styles=styles)) for name, each in curves.items() if len(each)],
        height=3.4,
    )
    levels = {name: keep_levels(each) for name, each in curves.items()}
    if any(len(each) for each in levels.values()):
        add(
            "loss-keep",
            "Loss against the share kept",
            "Bits per byte of the test text at the last round against α, the share of the data that was learnt from, "
            "mean over clients and seeds; bars: intervals over seeds.",
            [(name, partial(loss_against_keep, each)) for name, each in levels.items() if len(each)],
            height=3.4,
        )


def _ranks(block: Summary, styles: Mapping[str, Look], add: Callable[..., None]) -> None:
    values = paired_values(block.scores, pair=("partition", "seed")).dropna(axis=1, how="all")
    values = values[[method for method in values.columns if not is_bound(str(method))]]
    if values.shape[1] < 3 or len(values.dropna()) < RANKED_FROM:
        return
    ranks = rank_methods(values, block.level)
    add(
        "ranks",
        "Mean ranks",
        "Final test accuracy ranked in each (partition, seed), 1 is best, ties averaged; bounds are not ranked. "
        f"Bars reach half of Nemenyi's critical difference ({ranks.critical:.2f}) to either side: methods whose bars "
        "do not overlap differ; the band holds those that the first is not told from. Partitions share their "
        "seeds, so the test takes the blocks for more independent than they are.",
        [("all partitions", partial(rank_diagram, ranks, styles=styles))],
        height=rows_height(ranks.table.index),
        width=5.0,
        legend=False,
    )


def _arrivals(
    done: pd.DataFrame, block: Summary, names: Sequence[str], styles: Mapping[str, Look], add: Callable[..., None]
) -> None:
    others = done[[str(method).split("(")[0] != REFERENCE for method in done["method"]]]
    if block.scores["seed"].nunique() < 2 or others["method"].nunique() in (0, done["method"].nunique()):
        return
    split = reading_split(done)
    targets = share_targets(done, SHARE, split=split)
    found = arrivals(others, targets)
    parts = [(name, found[found["partition"] == name]) for name in names]
    add(
        "arrivals",
        f"Rounds to {percent(SHARE, 0)} % of {REFERENCE}",
        _arrival_caption(split, targets.notes),
        [(name, partial(arrivals_against, each, styles=styles)) for name, each in parts if len(each)],
        width=3.5,
    )


def draw_starts(table: pd.DataFrame, folder: Path) -> list[Picture]:
    """Where a study swept `start`: how soon the same method reaches its target from each of them, the rounds of the
    consolidation included. One figure, a panel for each method, partition and other settings that differ. table: the
    whole study, as `load` gives it."""
    done = finished(table)
    if "start" not in done.columns or done["start"].nunique() < 2:
        return []
    split = reading_split(done)
    targets = share_targets(done, SHARE, split=split)
    found = arrivals(done[[str(name).split("(")[0] != REFERENCE for name in done["method"]]], targets)
    starts = looks(list(dict.fromkeys(str(name) for name in found["start"])))
    known = ["federation", "method", "seed", "start", "target", "rounds_to_target", "bytes_to_target"]
    keys = [name for name in found.columns if name not in known and (name == "partition" or found[name].nunique() > 1)]
    parts: list[Panel] = []
    for values, panel in found.groupby(["method", *keys], sort=False):
        if panel["start"].nunique() > 1:
            parts.append((" · ".join(map(str, values)), partial(arrivals_against, panel, by="start", styles=starts)))
    if not parts:
        return []
    caption = "Lines are starts; rounds of a consolidation count. " + _arrival_caption(split, targets.notes)
    return [picture("starts", f"Rounds to {percent(SHARE, 0)} % of {REFERENCE} by start", caption, parts, folder)]


def _arrival_caption(split: str, notes: Sequence[str]) -> str:
    return (
        f"Share of seeds whose {split} accuracy has reached {percent(SHARE, 0)} % of {REFERENCE}'s final one, on the "
        "same partition and seed: 1 − Kaplan-Meier survival. Vertical ticks: seeds lost from sight before they "
        "arrived. Numbers: how many arrived. " + " ".join(notes)
    ).strip()


def _in_order(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame that belong to a panel, its methods in the order of the comparison table."""
    partition = rows["partition"].iloc[0]
    place = {method: number for number, method in enumerate(rows["method"])}
    mine: pd.DataFrame = frame[(frame["partition"] == partition) & frame["method"].isin(list(place))]
    return mine.iloc[mine["method"].map(place).argsort(kind="stable")]


def _differs(rows: pd.DataFrame, score: str) -> bool:
    """Whether some panel has methods that differ notably in a score."""
    known = rows.groupby("partition")[score]
    return bool((known.max() - known.min()).max() >= NOTABLE)


def _scatter(rows: Mapping[str, pd.DataFrame], score: str, label: str, styles: Mapping[str, Look]) -> list[Panel]:
    return [
        (name, partial(gain_against, each, column=score, label=label, styles=styles))
        for name, each in rows.items()
        if each[score].notna().any()
    ]

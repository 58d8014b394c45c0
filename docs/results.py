"""docs/results.md: what the studies of `simulations/recipes/` say about the claims, from their results folders.

FEDKD_DATA=… fedkd run tuning && …            one study a recipe; results go to results/<recipe>
python -m docs.results [--results results]     tables, figures and verdicts of what is there
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.censoring import restricted_difference
from analysis.claims import Claim, judge
from analysis.ratios import ratio_of_means
from analysis.scores import federation_scores
from analysis.statistics import paired_difference
from analysis.table import finished, load, read_study
from analysis.targets import arrivals, reading_split, share_targets
from analysis.values import client_values

HERE = Path(__file__).parent
NEAR = 0.01
"""Accuracy within which two methods are near each other."""


INTRODUCTION = """# Results

What the shipped studies say about the claims of the field, as measured. The value is the mean over seeds of the paired
difference, the interval is at 95 % (Student's t, bootstrap from ten seeds on), and a claim is held where the interval
lies wholly on the claimed side, not held where it lies wholly on the other, else undecided. Fewer than five seeds
decide nothing. Every number is on the test set, which nothing was chosen by. Made by `python -m docs.results` from the
results folders.

"""


class Study:
    """The finished federations of one results folder, by what a claim asks for."""

    def __init__(self, folder: Path) -> None:
        self.table = finished(load(folder))
        self.about = read_study(folder)
        self.scores = federation_scores(self.table)

    @property
    def partitions(self) -> list[str]:
        """In the order of the recipe."""
        named = self.about.get("recipe", {}).get("partition", [])
        named = [named] if isinstance(named, str) else named
        present = list(dict.fromkeys(self.scores["partition"]))
        return [name for name in named if name in present] or present

    def by_seed(self, value: str, partition: str, method: str, **settings: str) -> pd.Series[float]:
        """One score of one method, indexed by seed; `method` is a label or the name of the only spec of that name."""
        rows = self.scores[self.scores["partition"] == partition]
        for key, wanted in settings.items():
            rows = rows[rows[key] == wanted]
        exact = rows[rows["method"] == method]
        if exact.empty:
            exact = rows[rows["method"].str.split("(").str[0] == method]
        return exact.set_index("seed")[value].astype("float64")


def tuning(study: Study) -> list[Claim]:
    """1. Tuning helps, and by more under strong skew than under uniform data."""
    claims, margins = [], {}
    for partition in study.partitions:
        tuned, plain = (study.by_seed("delta", partition, method) for method in ("tuned_kd", "kd"))
        margins[partition] = tuned - plain
        claims.append(judge(f"Δ of tuned_kd ≥ Δ of kd, {partition}, points", paired_difference(tuned, plain)))
        claims.append(judge(f"Δ of tuned_kd / Δ of kd, {partition}", ratio_of_means(tuned, plain), bound=1.0))
    uniform, skewed = study.partitions[0], study.partitions[-1]
    found = paired_difference(margins[skewed], margins[uniform])
    return [*claims, judge(f"margin under {skewed} − margin under {uniform}, points", found)]


def cells(study: Study) -> list[Claim]:
    """2. The cell that uniform data choose is worse under skew than the one that skew itself chooses."""
    uniform, skewed = study.partitions[0], study.partitions[-1]
    final = study.table[study.table["metric"] == "accuracy"]
    validation = client_values(final, "accuracy", "val").groupby(level=["federation", "round"]).mean()
    last = validation.groupby(level="federation").tail(1).droplevel("round")
    chosen = study.scores.assign(validation=last.reindex(study.scores.index))
    gaps = {}
    for seed, rows in chosen.groupby("seed"):
        ranked = {place: rows[rows["partition"] == place].set_index("method") for place in (uniform, skewed)}
        own, foreign = (str(ranked[place]["validation"].idxmax()) for place in (skewed, uniform))
        gaps[seed] = (ranked[skewed]["accuracy"][own], ranked[skewed]["accuracy"][foreign])
    pairs = pd.DataFrame.from_dict(gaps, orient="index", columns=["own", "foreign"]).astype("float64")
    found = paired_difference(pairs["own"], pairs["foreign"])
    return [judge(f"accuracy under {skewed}: its own best cell − the best cell of {uniform}, points", found)]


def weak_teachers(study: Study) -> list[Claim]:
    """3. With weaker teachers dp_kd succeeds more often than plain distillation, and loses less knowledge."""
    claims = []
    for partition in study.partitions:
        parts, plain = "dp_kd", "kd(weight=1.0)"
        for text, score, sign in (("success rate", "success_rate", 1), ("knowledge lost, less", "lost", -1)):
            ours, theirs = (sign * study.by_seed(score, partition, method) for method in (parts, plain))
            claims.append(judge(f"{text}: dp_kd − KL-Dist, {partition}, points", paired_difference(ours, theirs)))
    return claims


def masks(study: Study) -> list[Claim]:
    """4. The unsupervised mask is near the supervised one under uniform data, and behind where classes are unseen."""
    uniform, unseen = study.partitions[0], study.partitions[-1]
    claims = []
    for partition in (uniform, unseen):
        known, guessed = (study.by_seed("accuracy", partition, m) for m in ('dp_kd(mask="supervised")', "dp_kd"))
        if known.empty:
            known = study.by_seed("accuracy", partition, "dp_kd(mask='supervised')")
        found = paired_difference(known, guessed)
        if partition == uniform:
            text = f"supervised − unsupervised below {100 * NEAR:.0f} point, {partition}, points"
            claims.append(judge(text, found, side="below", bound=NEAR))
        else:
            claims.append(judge(f"supervised − unsupervised, {partition}, points", found))
    return claims


def mutual(study: Study) -> list[Claim]:
    """5. Mutual learning lifts both of two equal small models over training alone, under uniform data."""
    values = client_values(study.table, "accuracy", "test")
    final = values.groupby(level=["federation", "client"]).tail(1).droplevel("round").unstack("client")
    claims = []
    for client in final.columns:
        both = {}
        for method in ("dml", "local"):
            rows = study.scores[study.scores["method"] == method]
            both[method] = final[client].reindex(rows.index).set_axis(rows["seed"]).astype("float64")
        found = paired_difference(both["dml"], both["local"])
        claims.append(judge(f"dml − local, client {client}, points", found))
    return claims


def consolidation(study: Study) -> list[Claim]:
    """6. A consolidated start reaches a share of pooled accuracy in fewer rounds than a random one, or the average."""
    claims = []
    arrived = arrivals(study.table, share_targets(study.table, 0.9, split=reading_split(study.table)))
    starts = [start for start in dict.fromkeys(arrived["start"]) if start not in ("random", "average", "pretrained")]
    for partition in study.partitions:
        rows = arrived[(arrived["partition"] == partition) & (arrived["method"] == "fedavg")]
        places = {start: mine.set_index("seed")["rounds_to_target"] for start, mine in rows.groupby("start")}
        for start in starts:
            for other in ("random", "average"):
                if start in places and other in places:
                    fewer, end = restricted_difference(places[start], places[other])
                    text = f"rounds to 90 % of pooled (up to {end:g}), {start} − {other}, {partition}"
                    claims.append(judge(text, fewer, side="below"))
    return claims


CLAIMS: dict[str, tuple[Callable[[Study], Sequence[Claim]], float]] = {
    "tuning": (tuning, 100.0),
    "cells": (cells, 100.0),
    "weak_teachers": (weak_teachers, 100.0),
    "masks": (masks, 100.0),
    "mutual": (mutual, 100.0),
    "consolidation": (consolidation, 1.0),
}
"""Recipe → what it is asked, and the unit: points of accuracy, or rounds."""


def section(name: str, folder: Path) -> str:
    """One study as text: claims with their intervals and verdicts, then every method."""
    judged, unit = CLAIMS[name]
    study = Study(folder)
    lines = [
        f"## {(judged.__doc__ or '').strip()}",
        "",
        f"Recipe `{name}`; {study.scores['seed'].nunique()} seeds, {len(study.scores)} federations.",
        "",
        "| claim | value | 95 % interval | seeds | verdict |",
        "|---|--:|---|--:|---|",
    ]
    for claim in judged(study):
        scale = 1.0 if " / " in claim.text else unit
        low, high = (_number(scale * bound) for bound in (claim.low, claim.high))
        why = f" ({claim.reason})" if claim.reason else ""
        cells = (claim.text.replace("|", "\\|"), _number(scale * claim.value), f"{low} to {high}", str(claim.n))
        lines.append(f"| {' | '.join(cells)} | **{claim.verdict}**{why} |")
    keys = ["partition", *(["start"] if "start" in study.scores else []), "method"]
    known = study.scores.groupby(keys, sort=False)[["start_accuracy", "accuracy", "delta", "gained", "lost", "bytes"]]
    lines += [
        "",
        f"| {' | '.join(keys)} | start | final | Δ | gained | lost | bytes |",
        "|---" * len(keys) + "|--:" * 6 + "|",
    ]
    for place, row in known.mean().iterrows():
        named = " | ".join(f"`{part}`" for part in (place if isinstance(place, tuple) else (place,)))
        shares = (row[each] for each in ("start_accuracy", "accuracy", "delta", "gained", "lost"))
        lines.append(f"| {named} | {' | '.join(_number(100 * share) for share in shares)} | {row['bytes']:,.0f} |")
    figure = folder / "figures" / "gain.png"
    if figure.is_file():
        kept = HERE / "figures" / "claims" / f"{name}.png"
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(figure, kept)
        lines += ["", f"![Gain over the start, recipe {name}](figures/claims/{name}.png)"]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def main() -> None:
    """Write the page from the studies that are there."""
    parser = argparse.ArgumentParser(description="docs/results.md from the results of the shipped recipes")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results folders")
    results = parser.parse_args().results
    there = [name for name in CLAIMS if (results / name / "study.json").is_file()]
    text = INTRODUCTION
    missing = [name for name in CLAIMS if name not in there]
    if missing:
        text += f"Not run yet: {', '.join(f'`{name}`' for name in missing)}.\n\n"
    (HERE / "results.md").write_text(
        text + "\n".join(section(name, results / name) for name in there), encoding="utf-8"
    )
    print(f"{HERE / 'results.md'}: {len(there)} of {len(CLAIMS)} studies")


if __name__ == "__main__":
    main()

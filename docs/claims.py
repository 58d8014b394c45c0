"""What the shipped recipes put to the test, each on one data set: a study in, verdicts out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from analysis.measures.targets import arrivals, reading_split, share_targets
from analysis.results.values import client_values
from analysis.statistics.censoring import restricted_difference
from analysis.statistics.claims import Claim, decide
from analysis.statistics.intervals import RATE, interval, paired_difference
from analysis.statistics.ratios import ratio_of_means
from docs.study import Study
from fedkd.tensors.ties import mean_share, rank_key

NEAR = 0.01
"""Accuracy within which two methods are near each other."""


def tuning(study: Study) -> list[Claim]:
    """1. Tuning temperature and weight raises the gain, and by more under strong skew than under uniform data."""
    claims, margins = [], {}
    for partition in study.partitions:
        tuned, plain = (study.by_seed("delta", partition, method) for method in ("tuned_kd", "kd"))
        margins[partition] = tuned - plain
        claims.append(decide(f"Δ of tuned_kd − Δ of kd, {partition}, points", paired_difference(tuned, plain)))
        claims.append(decide(f"Δ of tuned_kd / Δ of kd, {partition}", ratio_of_means(tuned, plain), bound=1.0))
        for other in ("local", "dml", "dp_kd"):
            same = study.by_seed("delta", partition, f"tuned(method='{other}'")
            text = f"Δ of tuned_kd − Δ of tuned {other}, {partition}, points"
            claims.append(decide(text, paired_difference(tuned, same)))
    uniform, skewed = study.partitions[0], study.partitions[-1]
    found = paired_difference(margins[skewed], margins[uniform])
    return [*claims, decide(f"margin over kd under {skewed} − margin under {uniform}, points", found)]


def cells(study: Study) -> list[Claim]:
    """2. The cell that uniform data choose is worse under skew than the one that skew itself chooses."""
    uniform, skewed = study.partitions[0], study.partitions[-1]
    at_end = pd.DataFrame(
        {
            metric: client_values(study.table, metric, "val").groupby(level=["federation", "client"]).tail(1)
            for metric in ("accuracy", "loss")
        }
    )
    standings = {
        str(name): rank_key(rows["accuracy"].tolist(), rows["loss"].tolist())
        for name, rows in at_end.groupby(level="federation")
    }
    chosen = study.scores.assign(rank_key=study.scores.index.map(standings))
    grids = {
        place: {score: rows.pivot(index="seed", columns="method", values=score) for score in ("rank_key", "accuracy")}
        for place, rows in chosen.groupby("partition")
    }
    reached = grids[skewed]["accuracy"]

    # Of equal cells the first of the recipe is chosen.
    def by_validation(place: str, seed: int) -> str:
        found = grids[place]["rank_key"].loc[seed].to_dict()
        return min(study.methods, key=found.__getitem__)

    def by_other_seeds(place: str, seed: int) -> str:
        # Never by the seed that it is judged on: the best of many cells is lucky there.
        others = grids[place]["accuracy"].drop(index=seed)
        means = {str(cell): mean_share(found.tolist()) for cell, found in others.items()}
        return max(study.methods, key=means.__getitem__)

    claims = []
    for choose, how in ((by_validation, "own validation"), (by_other_seeds, "test accuracy in the other seeds")):
        own, foreign = (
            pd.Series({seed: float(reached.loc[seed, choose(place, seed)]) for seed in reached.index})
            for place in (skewed, uniform)
        )
        text = f"accuracy under {skewed}: best cell there − best cell of {uniform}, chosen by {how}, points"
        claims.append(decide(text, paired_difference(own, foreign)))
    return claims


def weak_teachers(study: Study) -> list[Claim]:
    """3. With weaker teachers dp_kd succeeds more often than plain distillation, and loses less knowledge."""
    claims = []
    for partition in study.partitions:
        for text, score, sign in (("success rate", "success_rate", 1), ("knowledge lost, less", "lost", -1)):
            ours, theirs = (sign * study.by_seed(score, partition, method) for method in ("dp_kd", "kd(weight=1.0)"))
            claims.append(decide(f"{text}: dp_kd − KL-Dist, {partition}, points", paired_difference(ours, theirs)))
    return claims


def masks(study: Study) -> list[Claim]:
    """4. The unsupervised mask is near the supervised one under uniform data, and behind where classes are unseen."""
    uniform, unseen = study.partitions[0], study.partitions[-1]
    claims = []
    for partition in (uniform, unseen):
        known, guessed = (study.by_seed("accuracy", partition, m) for m in ("dp_kd(mask='supervised')", "dp_kd"))
        found = paired_difference(known, guessed)
        if partition == uniform:
            text = f"supervised − unsupervised below {100 * NEAR:.0f} point, {partition}, points"
            claims.append(decide(text, found, side="below", bound=NEAR))
        else:
            claims.append(decide(f"supervised − unsupervised, {partition}, points", found))
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
        claims.append(decide(f"dml − local, client {client}, points", found))
    return claims


def consolidation(study: Study) -> list[Claim]:
    """6. A consolidated start reaches 90 % of pooled accuracy in fewer rounds than a random one or the average."""
    # The average takes no round of its own: that arm is plain fedavg from the pre-trained clients.
    claims = []
    arrived = arrivals(study.table, share_targets(study.table, 0.9, split=reading_split(study.table)))
    starts = [start for start in dict.fromkeys(arrived["start"]) if start not in ("random", "average", "pretrained")]
    for partition in study.partitions:
        rows = arrived[(arrived["partition"] == partition) & (arrived["method"] == "fedavg")]
        places = {start: mine.set_index("seed")["rounds_to_target"] for start, mine in rows.groupby("start")}
        for start in starts:
            for other in ("random", "average"):
                fewer, end = restricted_difference(places[start], places[other])
                text = f"rounds to 90 % of pooled (up to {end:g}), {start} − {other}, {partition}"
                claims.append(decide(text, fewer, side="below"))
    return claims


def reffakd(study: Study) -> list[Claim]:
    """7. ReffAKD is at least as good as plain cross-entropy and near vanilla KD; and how far from uniform smoothing."""
    claims = []
    for partition in study.partitions:
        for settings in ("alpha=0.1, temperature=1.0", "alpha=0.5, temperature=4.0"):
            ours = study.by_seed("delta", partition, f"reffakd({settings})")
            uniform = study.by_seed("delta", partition, f"label_smoothing({settings})")
            plain, taught = (study.by_seed("delta", partition, method) for method in ("local", "kd"))
            where = f"{settings}, {partition}, points"
            claims.append(decide(f"reffakd − local, {where}", paired_difference(ours, plain)))
            text = f"reffakd − kd above −{100 * NEAR:.0f} point, {where}"
            claims.append(decide(text, paired_difference(ours, taught), bound=-NEAR))
            claims.append(decide(f"reffakd − label_smoothing, {where}", paired_difference(ours, uniform)))
    return claims


def revision(study: Study) -> list[Claim]:
    """8. Label revision helps the same loss where teachers were trained on noisy labels, and more with more noise."""
    claims, margins = [], []
    for partition in study.partitions:
        plain, revised, both = (
            study.by_seed("delta", partition, f"kd(weight=0.9{more}")
            for more in (")", f"{_REVISED})", f"{_REVISED}, select")
        )
        margins.append(revised - plain)
        claims.append(decide(f"revised − as it is, {partition}, points", paired_difference(revised, plain)))
        claims.append(decide(f"revised and selected − revised, {partition}, points", paired_difference(both, revised)))
    text = f"margin of revision under {study.partitions[-1]} − margin under {study.partitions[0]}, points"
    return [*claims, decide(text, paired_difference(margins[-1], margins[0]))]


_REVISED = ", revise='labels(eta=0.8)'"


def selection(study: Study) -> list[Claim]:
    """9. Selection by influence beats random selection of as many samples, where peers are unreliable."""
    claims = []
    for partition in study.partitions:
        ours = study.by_seed("delta", partition, "kd(weight=0.9, select='influence(keep=0.5)')")
        for other, text in {
            "kd(weight=0.9, select='random": "random",
            "kd(weight=0.9, select='influence(keep=0.5, sign=-1)": "the most harmful",
            "kd(weight=0.9, select='confidence": "the most confident",
            "kd(weight=0.9)": "all samples",
        }.items():
            found = paired_difference(ours, study.by_seed("delta", partition, other))
            claims.append(decide(f"influence − {text}, {partition}, points", found))
    return claims


def miniplm(study: Study) -> list[Claim]:
    """10. Difference sampling's top half teaches more than a random half at equal steps, and the bottom half least."""
    claims = []
    for partition in study.partitions:
        top, bottom, anything, full, poor = (
            study.by_seed("bits_per_byte", partition, method)
            for method in (
                "miniplm(teacher='gpt(layers=2)', keep=0.5)",
                "miniplm(teacher='gpt(layers=2)', score='bottom')",
                "miniplm(score='random')",
                "local",
                "miniplm(teacher='gpt(layers=2)', score='reference')",
            )
        )
        for text, found in {
            "top half − random half": paired_difference(top, anything),
            "top half − full corpus": paired_difference(top, full),
            "top half − highest reference loss": paired_difference(top, poor),
        }.items():
            claims.append(decide(f"{text}, {partition}, bits per byte", found, side="below"))
        for text, other in {"random half": anything, "full corpus": full, "top half": top}.items():
            found = paired_difference(bottom, other)
            claims.append(decide(f"bottom half − {text}, {partition}, bits per byte", found))
    return claims


def noise(folder: Path) -> list[Claim]:
    """10, on noise. From the manifests of `fedkd refine … --noise`, a folder a seed: more than half is dropped."""
    manifests = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*/manifest.json"))]
    kinds = sorted({kind for manifest in manifests for kind in manifest["noise"]})
    dropped = {kind: pd.Series([float(each["noise"][kind]["dropped"]) for each in manifests]) for kind in kinds}
    return [
        decide(f"share of {kind} chunks that is dropped above 50 %, in %", interval(shares, within=RATE), bound=0.5)
        for kind, shares in dropped.items()
    ]


POINTS, ROUNDS, BITS = 100.0, 1.0, 1.0
CLAIMS: dict[str, tuple[Callable[[Study], Sequence[Claim]], float]] = {
    "tuning": (tuning, POINTS),
    "cells": (cells, POINTS),
    "weak_teachers": (weak_teachers, POINTS),
    "masks": (masks, POINTS),
    "mutual": (mutual, POINTS),
    "consolidation": (consolidation, ROUNDS),
    "reffakd": (reffakd, POINTS),
    "revision": (revision, POINTS),
    "selection": (selection, POINTS),
    "miniplm": (miniplm, BITS),
}
"""Recipe → what it is asked, and the unit of the answer: points of accuracy, or rounds."""

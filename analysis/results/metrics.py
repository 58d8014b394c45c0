"""Every metric that a study can measure: its kind, its unit, which way is better, and what it is called.

A metric of a federation is declared here once, and nothing else in this room tells metrics apart by their names. One
that is not declared, as a user's own method may record it, is a value without a unit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Kind = Literal["cost", "value"]
Unit = Literal["share", "bytes", "seconds", "nats", "bits", "count", ""]
Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of them: `accuracy/3` is the member `3` of the family `accuracy`."""

    name: str
    kind: Kind = "value"
    """a cost adds up, over exchanges, rounds and clients; a value is averaged over clients"""
    unit: Unit = ""
    better: Better = ""
    """which way is better; "" where neither is"""
    label: str = ""
    """in words, for an axis or a column"""
    holds: bool = False
    """whether it is of a model alone, and so holds until the model is trained again"""
    family: str = ""
    """what a member of its family is of, "" where there is no family"""


def _costs(unit: Unit, names: dict[str, str]) -> list[Metric]:
    return [Metric(name, "cost", unit, "lower", label) for name, label in names.items()]


_DECLARED = [
    Metric("accuracy", "value", "share", "higher", "accuracy", family="class", holds=True),
    Metric("loss", "value", "nats", "lower", "loss, nats a token", holds=True),
    Metric("bits_per_byte", "value", "bits", "lower", "bits per byte", holds=True),
    Metric("gained", "value", "share", "higher", "knowledge gained", holds=True),
    Metric("lost", "value", "share", "lower", "knowledge lost", holds=True),
    Metric("ece", "value", "share", "lower", "expected calibration error", holds=True),
    *_costs("bytes", {"bytes_up": "bytes up", "bytes_down": "bytes down"}),
    *_costs("seconds", {"seconds": "computing"}),
    *_costs("count", {"steps": "optimiser steps", "samples": "samples back-propagated"}),
    *_costs("seconds", {"pretrain_seconds": "pre-training"}),
    *_costs("count", {"pretrain_steps": "steps of pre-training", "pretrain_samples": "samples of pre-training"}),
    Metric("pretrain_epochs", "value", "count", "", "epochs of pre-training"),
    *_costs("bytes", {"tuning_bytes": "tuning bytes"}),
    *_costs("count", {"tuning_steps": "tuning steps", "tuning_samples": "tuning samples"}),
    Metric("tuning_accuracy", "value", "share", "higher", "validation accuracy of a cell", family="cell"),
    Metric("tuning_loss", "value", "nats", "lower", "validation loss of a cell", family="cell"),
    Metric("tuning_chosen", "value", "", "", "a cell that was chosen", family="cell"),
    Metric("tuning_stopped", "value", "count", "", "the step at which a cell was given up", family="cell"),
    *_costs("bytes", {"encoder_bytes": "bytes of the autoencoder", "refinement_bytes": "bytes of the refined text"}),
    *_costs("count", {"encoder_steps": "steps of the autoencoder", "encoder_samples": "samples of the autoencoder"}),
    Metric("encoder_loss", "value", "", "lower", "reconstruction error of the autoencoder"),
    Metric("similarity", "value", "", "", "similarity of two classes", family="two classes"),
    Metric("boost", "value", "", "", "temperature boost"),
    Metric("agreement", "value", "share", "higher", "agreement with the merged teacher"),
    Metric("teacher_accuracy", "value", "share", "higher", "accuracy of the merged soft labels"),
    Metric("teacher_loss", "value", "nats", "lower", "loss of the merged soft labels"),
    Metric("reference_loss", "value", "nats", "lower", "loss of the reference model"),
    Metric("teacher_wrong", "value", "share", "lower", "samples whose teacher is wrong"),
    Metric("selected", "value", "share", "", "samples distilled"),
    Metric("selected_wrong", "value", "share", "lower", "samples distilled whose teacher is wrong"),
    Metric("revised", "value", "share", "", "samples revised"),
    Metric("influence_factored", "value", "", "", "influence computed in factors"),
    Metric("kept", "value", "share", "", "share of the data that was learnt from"),
    Metric("ngram_diversity", "value", "share", "", "n-gram diversity of what was learnt from"),
    *(
        Metric(f"{role}_{what}", "value", "count", "lower", f"{what.replace('_', ' ')} of the {role}")
        for role in ("teacher", "reference")
        for what in ("tokens", "trained_tokens")
    ),
    Metric("parameters", "value", "count", "", "parameters of the model"),
    Metric("start_rounds", "value", "count", "", "rounds of a consolidated start"),
    Metric("rounds_absent", "value", "count", "", "rounds since the client took part"),
    Metric("train_samples", "value", "count", "", "samples of a client"),
    Metric("train_classes", "value", "count", "", "classes of a client"),
    Metric("label_entropy", "value", "bits", "", "label entropy of a client"),
    Metric("label_distance", "value", "share", "", "distance of a client's labels from everybody's"),
    Metric("mean_label_distance", "value", "share", "", "mean distance of the clients' labels"),
    Metric("size_gini", "value", "share", "", "Gini coefficient of the clients' sizes"),
]

METRICS = {metric.name: metric for metric in _DECLARED}
"""Every declared metric or family, by name."""
SENT = ("bytes_up", "bytes_down")
"""The two costs that are what crossed the wire; other bytes are a part of them."""
TEXT = METRICS["bits_per_byte"]
"""What language models are measured by, and nothing else is."""


def metric(name: str) -> Metric:
    """The declaration of a metric, or of the family that it is a member of."""
    known = METRICS.get(name.partition("/")[0])
    return known if known and (known.family or known.name == name) else Metric(name)


def member(name: str) -> str:
    """What a member of a family is of: `accuracy/3` → `3`; "" for a metric that is no member."""
    return name.partition("/")[2] if metric(name).family else ""


def members(names: Iterable[object], family: str) -> list[str]:
    """Those of some metrics that are members of a family, each once."""
    unique = dict.fromkeys(map(str, names))
    return [name for name in unique if metric(name).name == family and member(name)]


def family_rows(table: pd.DataFrame, family: str) -> pd.DataFrame:
    """The rows of a table that hold members of a family."""
    return table[table["metric"].isin(members(table["metric"].unique(), family))]

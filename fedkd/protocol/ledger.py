"""What is booked of an exchange: rows of results, of which costs add up within a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from fedkd.node.holdings import Row


class Kind(StrEnum):
    """How a metric behaves from exchange to exchange."""

    COST = "cost"
    """adds up over the exchanges of a round"""
    VALUE = "value"
    """the last exchange of a round says it"""
    EVALUATION = "evaluation"
    """a value of the model alone: it holds until the model is trained again"""


KINDS = {
    "bytes_up": Kind.COST,
    "bytes_down": Kind.COST,
    "seconds": Kind.COST,
    "steps": Kind.COST,
    "samples": Kind.COST,
    "tuning_steps": Kind.COST,
    "tuning_samples": Kind.COST,
    "tuning_bytes": Kind.COST,
    "encoder_bytes": Kind.COST,
    "refinement_bytes": Kind.COST,
    "accuracy": Kind.EVALUATION,
    "loss": Kind.EVALUATION,
    "bits_per_byte": Kind.EVALUATION,
    "gained": Kind.EVALUATION,
    "lost": Kind.EVALUATION,
    "ece": Kind.EVALUATION,
}
"""Kind of each metric, or of each family `name/…`; a metric that is not listed is a value."""
ABSENT = "rounds_absent"
"""Rounds since a client took part: so old are its evaluation, and what others know of it."""

Metrics = Mapping[tuple[str, str], float]
"""by (split, metric)"""


def kind(metric: str) -> Kind:
    """How a metric behaves; `accuracy/3` is of the family `accuracy`."""
    return KINDS.get(metric.partition("/")[0], Kind.VALUE)


def rows_of(client: int, metrics: Metrics) -> list[Row]:
    """The metrics of one participant as rows."""
    return [(client, split, metric, value) for (split, metric), value in metrics.items()]


def added(before: Iterable[Row], rows: list[Row], preparation: str = "") -> list[Row]:
    """Rows of one more exchange of the same round: costs are added, of values the newer ones stay.

    The bytes of a `preparation` also stand apart, under that name with `_bytes` behind it.
    """
    if preparation:
        spent = [(client, value) for client, _, metric, value in rows if metric in ("bytes_up", "bytes_down")]
        clients = sorted({client for client, _ in spent})
        rows = rows + [(c, "", f"{preparation}_bytes", sum(v for d, v in spent if d == c)) for c in clients]
    merged = {row[:3]: row[3] for row in before}
    for client, split, metric, value in rows:
        key = (client, split, metric)
        merged[key] = merged[key] + value if key in merged and kind(metric) is Kind.COST else value
    return [(*key, value) for key, value in merged.items()]


def evaluations(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Those metrics that hold until the model is trained again."""
    return {key: value for key, value in metrics.items() if kind(key[1]) is Kind.EVALUATION}


def absent_rows(client: int, evaluated: Metrics, rounds: int, detailed: bool) -> list[Row]:
    """The rows of a client that took no part for some rounds: its model, and so its evaluation, are what they were.

    Accuracies by class are booked only where those of the others are: `detailed`.
    """
    still = {key: value for key, value in evaluated.items() if detailed or "/" not in key[1]}
    return [*rows_of(client, still), (client, "", ABSENT, float(rounds))]

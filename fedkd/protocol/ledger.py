"""The rows of results of an exchange, and their sum over the exchanges of a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from fedkd.node.holdings import Row


class Kind(StrEnum):
    """How a metric behaves from exchange to exchange."""

    COST = "cost"
    """adds up over the exchanges of a round"""
    VALUE = "value"
    """its value is that of the last exchange of a round"""
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
"""Rounds since a client took part: the age of its evaluation and of its last report."""

Metrics = Mapping[tuple[str, str], float]
"""by (split, metric)"""


def kind(metric: str) -> Kind:
    """How a metric behaves; `accuracy/3` is of the family `accuracy`."""
    return KINDS.get(metric.partition("/")[0], Kind.VALUE)


def rows_of(client: int, metrics: Metrics) -> list[Row]:
    """The metrics of one participant as rows."""
    return [(client, split, metric, value) for (split, metric), value in metrics.items()]


def added(before: Iterable[Row], rows: list[Row], preparation: str = "") -> list[Row]:
    """The rows of a round with those of one more exchange: costs are added, newer values replace older ones.

    The bytes of a `preparation` are also counted separately, as the metric `<preparation>_bytes`.
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
    """The metrics that stay valid until the model is trained again."""
    return {key: value for key, value in metrics.items() if kind(key[1]) is Kind.EVALUATION}


def without_evaluations(metrics: Metrics) -> dict[tuple[str, str], float]:
    """The other metrics."""
    return {key: value for key, value in metrics.items() if kind(key[1]) is not Kind.EVALUATION}


def absent_rows(client: int, evaluated: Metrics, rounds: int) -> list[Row]:
    """The rows of a client that took no part for some rounds. Its model and so its evaluation have not changed."""
    return [*rows_of(client, evaluated), (client, "", ABSENT, float(rounds))]

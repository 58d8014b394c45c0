"""How exchanges look as Flower records, and replies that are told of as they come."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedkd.knowledge.knowledge import Knowledge

TRAIN = "train"
FORGET = "query.forget"
EXCHANGE = "exchange"
KNOWLEDGE = "knowledge"
METRICS = "metrics"
_PAUSE = 0.05
"""Seconds between two looks at which replies have come."""

OnStart = Callable[[int, int], None]
"""Called with how many clients have started, and how many there are."""


def to_arrays(knowledge: Knowledge) -> ArrayRecord:
    """One Flower array a tensor, in the bytes that `Knowledge.nbytes` counts."""
    return ArrayRecord(
        {
            name: Array(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), "numpy.ndarray", data)
            for (name, tensor), data in zip(knowledge.items(), knowledge.encoded.values(), strict=True)
        }
    )


def from_arrays(record: ArrayRecord) -> Knowledge:
    """Inverse of `to_arrays`."""
    return Knowledge.decode({name: array.data for name, array in record.items()})


def to_metrics(metrics: dict[tuple[str, str], float]) -> MetricRecord:
    """Metrics by (split, metric) under flat names."""
    return MetricRecord({f"{split}|{metric}": float(value) for (split, metric), value in metrics.items()})


def from_metrics(content: RecordDict) -> dict[tuple[str, str], float]:
    """Inverse of `to_metrics`, from the content of a reply."""
    flat = content.metric_records[METRICS]
    named = ((key.partition("|"), value) for key, value in flat.items())
    return {(split, metric): float(str(value)) for (split, _, metric), value in named}


def as_they_come(grid: Grid, messages: list[Message], on_start: OnStart, timeout: float | None) -> list[Message]:
    """The replies to some messages, as `Grid.send_and_receive` gives them, which tells of none before the last."""
    open_ones, replies = set(grid.push_messages(messages)), list[Message]()
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while open_ones and time.monotonic() < deadline:
        came = list(grid.pull_messages(open_ones))
        open_ones -= {reply.metadata.reply_to_message_id for reply in came}
        replies += came
        if came:
            on_start(len(replies), len(messages))
        else:
            time.sleep(_PAUSE)
    return replies

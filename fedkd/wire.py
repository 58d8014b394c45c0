"""How exchanges look as Flower records."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fedkd.knowledge import Knowledge

TRAIN = "train"
FORGET = "query.forget"
EXCHANGE = "exchange"
KNOWLEDGE = "knowledge"
METRICS = "metrics"


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

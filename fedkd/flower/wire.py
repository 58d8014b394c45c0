"""How exchanges look as Flower records: one message carries what a group of clients is sent, or answers.

A group is the clients that one Flower node serves. In a deployment it is one client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedkd.knowledge.knowledge import Knowledge
from fedkd.protocol.client import Reply

TRAIN = "train"
FORGET = "query.forget"
_EXCHANGE, _KNOWLEDGE, _METRICS, _FAILURES = "exchange", "knowledge/", "metrics/", "failures"


@dataclass(frozen=True)
class Request:
    """What a group is asked in one exchange."""

    federation: str
    """all settings as JSON"""
    exchange: int
    knowledge: Mapping[int, Knowledge]
    """by client"""
    store: str | None = None
    """folder for the clients' state; None: the node's own"""
    beside: Sequence[str] = ()
    """folders in which the user's files are looked for"""

    def content(self) -> RecordDict:
        """As the content of a message."""
        settings = ConfigRecord(
            {"federation": self.federation, "exchange": self.exchange, "clients": list(self.knowledge)}
        )
        if self.store is not None:
            settings["store"] = self.store
        if self.beside:
            settings["beside"] = list(self.beside)
        bags = {f"{_KNOWLEDGE}{client}": to_arrays(bag) for client, bag in self.knowledge.items()}
        return RecordDict({_EXCHANGE: settings, **bags})

    @classmethod
    def read(cls, content: RecordDict) -> Request:
        """Inverse of `content`."""
        settings = content.config_records[_EXCHANGE]
        store, beside = settings.get("store"), settings.get("beside", [])
        assert isinstance(beside, list)
        return cls(
            str(settings["federation"]),
            int(str(settings["exchange"])),
            {c: from_arrays(content.array_records[f"{_KNOWLEDGE}{c}"]) for c in _clients(settings)},
            None if store is None else str(store),
            [str(folder) for folder in beside],
        )


@dataclass(frozen=True)
class Answer:
    """What a group answers: the replies of its clients, and why the others have none."""

    replies: dict[int, Reply] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def content(self) -> RecordDict:
        """As the content of a message."""
        records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
            _EXCHANGE: ConfigRecord({"clients": list(self.replies)})
        }
        for client, reply in self.replies.items():
            records[f"{_METRICS}{client}"] = to_metrics(reply.metrics)
            records[f"{_KNOWLEDGE}{client}"] = to_arrays(reply.report or Knowledge())
        if self.failures:
            records[_FAILURES] = ConfigRecord({str(client): why for client, why in self.failures.items()})
        return RecordDict(records)

    @classmethod
    def read(cls, content: RecordDict) -> Answer:
        """Inverse of `content`; a client that reports nothing has an empty report."""
        replies = {
            client: Reply(
                from_arrays(content.array_records[f"{_KNOWLEDGE}{client}"]),
                from_metrics(content.metric_records[f"{_METRICS}{client}"]),
            )
            for client in _clients(content.config_records[_EXCHANGE])
        }
        failures = content.config_records.get(_FAILURES, ConfigRecord())
        return cls(replies, {int(client): str(why) for client, why in failures.items()})


def forget_content(clients: Iterable[int]) -> RecordDict:
    """Asks a node to remove what some clients left on its disk."""
    return RecordDict({_EXCHANGE: ConfigRecord({"clients": list(clients)})})


def clients_to_forget(message: Message) -> list[int]:
    """Inverse of `forget_content`."""
    return _clients(message.content.config_records[_EXCHANGE])


def _clients(settings: ConfigRecord) -> list[int]:
    clients = settings["clients"]
    assert isinstance(clients, list)
    return [int(str(client)) for client in clients]


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


def to_metrics(metrics: Mapping[tuple[str, str], float]) -> MetricRecord:
    """Metrics by (split, metric) under flat names."""
    return MetricRecord({f"{split}|{metric}": float(value) for (split, metric), value in metrics.items()})


def from_metrics(record: MetricRecord) -> dict[tuple[str, str], float]:
    """Inverse of `to_metrics`."""
    named = ((key.partition("|"), value) for key, value in record.items())
    return {(split, metric): float(str(value)) for (split, _, metric), value in named}

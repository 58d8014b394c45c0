"""Exchanges as Flower records: one message has the knowledge for a group of clients, or their answers.

A group is the clients that one Flower node serves. In a deployment it is one client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedkd.flower.timing import Flight
from fedkd.knowledge.knowledge import Knowledge
from fedkd.protocol.client import Reply

TRAIN = "train"
FORGET = "query.forget"
_EXCHANGE, _KNOWLEDGE, _METRICS, _FAILURES = "exchange", "knowledge", "metrics", "failures"
_SECONDS, _FLIGHT = "seconds", "flight"


@dataclass(frozen=True)
class Request:
    """The request to a group of clients in one exchange."""

    federation: str
    """all settings as JSON"""
    exchange: int
    knowledge: Mapping[int, Knowledge]
    """by client"""
    store: str | None = None
    """folder for the clients' state; None: the node's own"""
    beside: Sequence[str] = ()
    """folders to search for the user's files"""

    def content(self) -> RecordDict:
        """As the content of a message."""
        settings = ConfigRecord(
            {"federation": self.federation, "exchange": self.exchange, "clients": list(self.knowledge)}
        )
        if self.store is not None:
            settings["store"] = self.store
        if self.beside:
            settings["beside"] = list(self.beside)
        return RecordDict({_EXCHANGE: settings, _KNOWLEDGE: to_arrays(self.knowledge)})

    @classmethod
    def read(cls, content: RecordDict) -> Request:
        """Inverse of `content`."""
        settings = content.config_records[_EXCHANGE]
        store, beside = settings.get("store"), settings.get("beside", [])
        assert isinstance(beside, list)
        return cls(
            str(settings["federation"]),
            int(str(settings["exchange"])),
            from_arrays(content.array_records[_KNOWLEDGE], _clients(settings)),
            None if store is None else str(store),
            [str(folder) for folder in beside],
        )


@dataclass(frozen=True)
class Answer:
    """The answer of a group: the replies of its clients, and the errors of clients that failed."""

    replies: dict[int, Reply] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """where the time went, over all clients of the group: see `Reply`"""

    def content(self) -> RecordDict:
        """As the content of a message."""
        return RecordDict(
            {
                _EXCHANGE: ConfigRecord({"clients": list(self.replies)}),
                _KNOWLEDGE: to_arrays({client: reply.report or Knowledge() for client, reply in self.replies.items()}),
                _METRICS: to_metrics({client: reply.metrics for client, reply in self.replies.items()}),
                _FAILURES: ConfigRecord({str(client): why for client, why in self.failures.items()}),
                _SECONDS: MetricRecord(dict(self.seconds)),
            }
        )

    @classmethod
    def read(cls, content: RecordDict) -> Answer:
        """Inverse of `content`; a client that reports nothing has an empty report."""
        clients = _clients(content.config_records[_EXCHANGE])
        reports = from_arrays(content.array_records[_KNOWLEDGE], clients)
        metrics = from_metrics(content.metric_records[_METRICS], clients)
        return cls(
            {client: Reply(reports[client], metrics[client]) for client in clients},
            {int(client): str(why) for client, why in content.config_records[_FAILURES].items()},
            _floats(content.metric_records[_SECONDS]),
        )


def header(message: Message) -> tuple[str, int, list[int]]:
    """The federation as JSON, the exchange and the clients of a request, without what it carries."""
    settings = message.content.config_records[_EXCHANGE]
    return str(settings["federation"]), int(str(settings["exchange"])), _clients(settings)


def store_of(message: Message) -> Path | None:
    """The folder for the clients' state that a request names."""
    store = message.content.config_records[_EXCHANGE].get("store")
    return None if store is None else Path(str(store))


def move_store(message: Message, store: Path) -> None:
    """Name another folder for the clients' state in a request."""
    message.content.config_records[_EXCHANGE]["store"] = str(store)


def out_of_memory(reply: Message) -> bool:
    """Whether a client failed because its GPU had too little memory."""
    if reply.has_error():
        reasons = [str(reply.error.reason)]
    else:
        reasons = [str(why) for why in reply.content.config_records.get(_FAILURES, {}).values()]
    return any("CUDA" in why and "out of memory" in why for why in reasons)


def trained(reply: Message) -> bool:
    """Whether clients took steps of training for this reply."""
    if reply.has_error() or _METRICS not in reply.content.metric_records:
        return False
    metrics = _floats(reply.content.metric_records[_METRICS])
    return any(name.endswith("steps") and value > 0 for name, value in metrics.items())


def stamp(reply: Message, handed: float, back: float) -> None:
    """Note on a reply when a worker got its message and when it was back, by `time.perf_counter` of this process."""
    if not reply.has_error():
        reply.content[_FLIGHT] = MetricRecord({"handed": handed, "back": back})


def flight(reply: Message, sent: float, back: float) -> Flight:
    """The flight of a reply; without a stamp, as in a deployment, it began with the sending and ended now."""
    records = reply.content.metric_records
    times = _floats(records[_FLIGHT]) if _FLIGHT in records else {"handed": sent, "back": back}
    return Flight(times["handed"], times["back"], _floats(records[_SECONDS]))


def forget_content(clients: Iterable[int]) -> RecordDict:
    """Content of a message that asks a node to delete the state of some clients."""
    return RecordDict({_EXCHANGE: ConfigRecord({"clients": list(clients)})})


def clients_to_forget(message: Message) -> list[int]:
    """Inverse of `forget_content`."""
    return _clients(message.content.config_records[_EXCHANGE])


def _clients(settings: ConfigRecord) -> list[int]:
    clients = settings["clients"]
    assert isinstance(clients, list)
    return [int(str(client)) for client in clients]


def to_arrays(knowledge: Mapping[int, Knowledge]) -> ArrayRecord:
    """One Flower array a client and tensor, in the bytes that `Knowledge.nbytes` counts."""
    return ArrayRecord(
        {
            f"{client}/{name}": Array(
                str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), "numpy.ndarray", data
            )
            for client, bag in knowledge.items()
            for (name, tensor), data in zip(bag.items(), bag.encoded.values(), strict=True)
        }
    )


def from_arrays(record: ArrayRecord, clients: Iterable[int]) -> dict[int, Knowledge]:
    """Inverse of `to_arrays`; a client without arrays has empty knowledge."""
    encoded: dict[int, dict[str, bytes]] = {client: {} for client in clients}
    for key, array in record.items():
        client, _, name = key.partition("/")
        encoded[int(client)][name] = array.data
    # A model that is sent to all clients of a group is in the message once, and so it is decoded once.
    decoded: dict[int, Tensor] = {}
    return {client: Knowledge.decode(arrays, decoded) for client, arrays in encoded.items()}


def to_metrics(metrics: Mapping[int, Mapping[tuple[str, str], float]]) -> MetricRecord:
    """Metrics by (split, metric) of each client under flat names."""
    return MetricRecord(
        {
            f"{client}|{split}|{metric}": float(value)
            for client, measured in metrics.items()
            for (split, metric), value in measured.items()
        }
    )


def from_metrics(record: MetricRecord, clients: Iterable[int]) -> dict[int, dict[tuple[str, str], float]]:
    """Inverse of `to_metrics`."""
    metrics: dict[int, dict[tuple[str, str], float]] = {client: {} for client in clients}
    for key, value in record.items():
        client, split, metric = key.split("|", 2)
        metrics[int(client)][split, metric] = float(str(value))
    return metrics


def _floats(record: MetricRecord) -> dict[str, float]:
    return {name: float(str(value)) for name, value in record.items()}

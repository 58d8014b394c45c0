"""Messages to be answered, the workers that do it, and what the dispatcher needs of Ray for it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import Context, Message

from simulations.engine.resources import Need, Room
from simulations.engine.workers import Answered


class NoWorkersError(RuntimeError):
    """No worker is left, and there is no room for another."""


@dataclass(eq=False)
class Job:
    """A message that is to be answered."""

    message: Message
    context: Context
    kinds: frozenset[str]
    """kinds of the clients' models: see `Sizes`"""
    size: int
    """clients in the group"""
    parcel: Any
    """what is handed to the worker: the message, or a reference to it in the object store"""
    outcome: Future[Answered] = field(default_factory=Future)
    attempts: int = 0
    handed: float = 0.0
    """when a worker got it, by `time.perf_counter`"""

    @property
    def node(self) -> int:
        return self.message.metadata.dst_node_id


@dataclass(eq=False)
class Handle:
    """A worker as the dispatcher knows it."""

    actor: Any
    need: Need
    job: Job | None = None
    ready: bool = False
    leaving: bool = False
    """it is to end when it has answered"""
    distant: bool = False
    """whether it does not see the driver's disk"""


class Cluster(Protocol):
    """What the dispatcher needs of Ray."""

    @property
    def changes(self) -> bool:
        """Whether nodes may come and go."""

    def rooms(self) -> list[Room]:
        """What the living nodes have."""

    def start(self, need: Need) -> Any:
        """A new actor."""

    def greet(self, actor: Any) -> Future[bool]:
        """Done when the actor is ready; whether it is distant."""

    def call(self, actor: Any, job: Job, distant: bool) -> Future[Answered]:
        """Have an actor answer a message."""

    def kill(self, actor: Any) -> None:
        """End an actor."""

    def is_of_the_worker(self, error: BaseException) -> bool:
        """Whether an error means that the worker died, and not that its code raised."""


def first(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

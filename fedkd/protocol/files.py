"""The files of clients' state: one for each client and exchange, in the store of a federation."""

from __future__ import annotations

from pathlib import Path

from fedkd.base.store import read_tensors
from fedkd.node.moment import Moment
from fedkd.protocol.keeping import saved_model
from fedkd.protocol.schedule import Schedule


def drop_outdated(schedule: Schedule, client: int, moment: Moment, store: Path) -> None:
    """Remove the state that a client no longer needs after an exchange.

    The state that this exchange has read stays, because the server may repeat the exchange.
    """
    if moment.exchange > 0:
        read = schedule.previous(client, moment)
        if read.exchange > 0:
            state_file(store, client, schedule.previous(client, read).exchange).unlink(missing_ok=True)


def files_to_read(schedule: Schedule, client: int, moment: Moment, store: Path) -> list[Path]:
    """The files in `store` that a client reads or may replace in an exchange."""
    files = [saved_model(store, client)]
    if moment.exchange > 0:
        files.append(state_file(store, client, schedule.previous(client, moment).exchange))
    return [file for file in files if file.is_file()]


def forget(client: int, store: Path) -> None:
    """Delete all state of this client from its disk."""
    for file in store.glob(f"client-{client}-*"):
        file.unlink(missing_ok=True)


def started(store: Path) -> int:
    """Number of clients that have written their state of the start."""
    return sum(1 for _ in store.glob("client-*-0.state"))


def has_state(store: Path, client: int, exchange: int) -> bool:
    """Whether a client could continue after this exchange: its state exists and is complete."""
    return read_tensors(state_file(store, client, exchange)) is not None


def state_file(store: Path, client: int, exchange: int) -> Path:
    """The file with a client's state after an exchange."""
    return store / f"client-{client}-{exchange}.state"

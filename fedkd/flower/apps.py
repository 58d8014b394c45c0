"""The clients of one node as a Flower app: the same in simulation and in a deployment."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedkd.base.files import look_beside
from fedkd.base.own_code import reason
from fedkd.base.stopwatch import Stopwatch
from fedkd.data import cache_root
from fedkd.flower import wire
from fedkd.node.holdings import Loader
from fedkd.protocol.client import Reply, set_up_process
from fedkd.protocol.files import forget
from fedkd.protocol.together import take_part_together
from fedkd.settings.federation import Federation

RAISED = 2
"""Flower's code for the error reply of a node that raised."""


class _App(ClientApp):
    """A ClientApp that is pickled as two names. By value, its functions would be pickled with every message."""

    def __init__(self, load: Loader) -> None:
        super().__init__()
        self._load = load

    def __reduce__(self) -> tuple[Callable[[Loader], ClientApp], tuple[Loader]]:
        return client_app, (self._load,)


@cache
def client_app(load: Loader) -> ClientApp:
    """A Flower ClientApp whose nodes take their clients' data from `load`.

    `load` is best a module-level function: the app travels with every message of a simulation and must not carry data.
    """
    app = _App(load)

    @app.train()
    def exchange(message: Message, context: Context) -> Message:
        try:
            answer = _serve(wire.Request.read(message.content), load, context.run_id)
        except Exception as error:
            logging.getLogger("flwr").exception("a node failed")
            return Message(Error(code=RAISED, reason=reason(error)), reply_to=message)
        return Message(answer.content(), reply_to=message)

    @app.query("forget")
    def tidy(message: Message, context: Context) -> Message:
        for client in wire.clients_to_forget(message):
            forget(client, _store(None, context.run_id))
        return Message(RecordDict(), reply_to=message)

    return app


def _serve(request: wire.Request, load: Loader, run_id: int) -> wire.Answer:
    """Run one exchange of every client of the group. A failing client does not stop the others."""
    watch = Stopwatch()
    set_up_process()
    look_beside(list(request.beside))
    federation = Federation.from_json(request.federation)
    store, answer = _store(request.store, run_id), wire.Answer()
    for client, outcome in take_part_together(federation, request.exchange, request.knowledge, load, store):
        # Caught there, a failure has the same text in all engines; each engine would wrap the exception differently.
        if isinstance(outcome, Reply):
            answer.replies[client] = outcome
        else:
            logging.getLogger("flwr").error("client %d failed", client, exc_info=outcome)
            answer.failures[client] = reason(outcome)
    for reply in answer.replies.values():
        for part, seconds in reply.seconds.items():
            answer.seconds[part] = answer.seconds.get(part, 0.0) + seconds
    # What is left is the loading of data.
    answer.seconds["state"] = answer.seconds.get("state", 0.0) + watch.total - sum(answer.seconds.values())
    return answer


def _store(given: str | None, run_id: int) -> Path:
    return Path(given) if given is not None else cache_root() / "nodes" / str(run_id)

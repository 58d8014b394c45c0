"""The client as a Flower app: the same in simulation and in a deployment."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import cast

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedkd.base.files import look_beside
from fedkd.base.own_code import reason
from fedkd.data import cache_root
from fedkd.flower import wire
from fedkd.knowledge.knowledge import Knowledge
from fedkd.node.holdings import Loader
from fedkd.protocol.client import forget, serve, use_one_thread
from fedkd.settings.federation import Federation

RAISED = 2
"""Flower's code for the error reply of a client that raised."""


class _App(ClientApp):
    """A ClientApp that travels as two names: by value, its functions would be pickled with every message."""

    def __init__(self, load: Loader) -> None:
        super().__init__()
        self._load = load

    def __reduce__(self) -> tuple[Callable[[Loader], ClientApp], tuple[Loader]]:
        return client_app, (self._load,)


@cache
def client_app(load: Loader) -> ClientApp:
    """A Flower ClientApp whose nodes take their data from `load`.

    `load` is best a module-level function: the app travels with every message of a simulation and must not carry data.
    """
    app = _App(load)

    @app.train()
    def exchange(message: Message, context: Context) -> Message:
        # Said here, a failure reads the same whatever carries it: engines wrap what a client raises, each its own way.
        try:
            return answer(message, context)
        except Exception as error:
            logging.getLogger("flwr").exception("a client failed")
            return Message(Error(code=RAISED, reason=reason(error)), reply_to=message)

    def answer(message: Message, context: Context) -> Message:
        use_one_thread()
        settings = message.content.config_records[wire.EXCHANGE]
        look_beside(cast("list[str]", settings.get("beside", [])))
        federation = Federation.from_json(str(settings["federation"]))
        client, number = int(str(settings["client"])), int(str(settings["exchange"]))
        knowledge = wire.from_arrays(message.content.array_records[wire.KNOWLEDGE])
        reply = serve(federation, client, number, knowledge, load(federation, client), _store(settings, context.run_id))
        content = RecordDict(
            {
                wire.EXCHANGE: ConfigRecord({"client": client}),
                wire.METRICS: wire.to_metrics(reply.metrics),
                wire.KNOWLEDGE: wire.to_arrays(reply.report or Knowledge()),
            }
        )
        return Message(content, reply_to=message)

    @app.query("forget")
    def tidy(message: Message, context: Context) -> Message:
        settings = message.content.config_records[wire.EXCHANGE]
        forget(int(str(settings["client"])), _store(settings, context.run_id))
        return Message(RecordDict(), reply_to=message)

    return app


def _store(settings: ConfigRecord, run_id: int) -> Path:
    given = settings.get("store")
    return Path(str(given)) if given is not None else cache_root() / "nodes" / str(run_id)

"""What the grids of both engines share: a Flower grid without a network, whose nodes are contexts in this process."""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

CLIENT_RAISED = 2
"""Flower's code for an error reply of a client that raised."""


class LocalGrid(Grid):
    """A Flower grid that names nodes and messages; its subclasses have the messages answered."""

    def __init__(self, nodes: int) -> None:
        self._run = Run.create_empty(run_id=uuid.uuid4().int >> 65)
        self._run.federation_id = NOOP_FEDERATION_ID
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, self._run.run_id, 1
        self._contexts = {
            node: Context(
                run_id=self._run.run_id,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": nodes},
                state=RecordDict(),
                run_config={},
            )
            for node in range(1, nodes + 1)
        }

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        return Message(*arguments, **named)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def get_nodes(self) -> Iterable[Any]:
        return []


def name_message(message: Message) -> str:
    """Give a message the id by which its reply is known."""
    name = str(uuid.uuid4())
    vars(message.metadata)["_message_id"] = name
    return name


def answered(app: ClientApp, message: Message, context: Context) -> tuple[Message, Context]:
    """The reply of a node and its context afterwards. A client that raises leaves the context as it was."""
    changed = copy.deepcopy(context)
    try:
        return app(message, changed), changed
    except Exception as error:
        logging.getLogger("flwr").error("client on node %d failed", message.metadata.dst_node_id, exc_info=error)
        return failed(message, f"{type(error).__name__}: {error}"), context


def failed(message: Message, reason: str) -> Message:
    """The error reply to a message."""
    return Message(Error(code=CLIENT_RAISED, reason=reason), reply_to=message)

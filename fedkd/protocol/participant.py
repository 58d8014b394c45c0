"""A client or the server of a federation, as its method sees it."""

from __future__ import annotations

import torch

from fedkd.node.holdings import Holdings
from fedkd.node.moment import AT_START, Moment
from fedkd.node.node import Node
from fedkd.protocol.schedule import Schedule
from fedkd.tensors.compute import CPU


def participant(
    schedule: Schedule, id: int, holdings: Holdings, moment: Moment = AT_START, device: torch.device = CPU
) -> Node:
    """The node of a client, or of `SERVER`, with what lies on its disk; it has no model yet."""
    federation = schedule.federation
    return Node(
        id,
        federation.clients,
        federation.seed,
        federation.train,
        holdings.classes,
        data=holdings.data,
        val=holdings.val,
        transfer=holdings.transfer,
        device=device,
        students=federation.students and federation.learners,
        teachers=federation.teachers and federation.tutors,
        specs=federation.client_models,
        shape=holdings.shape,
        channel=schedule.channel,
        moment=moment,
        rounds=federation.rounds,
    )

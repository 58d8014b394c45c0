"""What a federation is: everything its numbers depend on, as plain values."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from typing import Annotated, Literal

from annotated_types import Ge, Interval
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from fedkd.base.added import ADDED
from fedkd.base.catalogue import STRICT
from fedkd.base.files import file_cache
from fedkd.models import ARCHITECTURES, assignment
from fedkd.settings.evaluation import Evaluation
from fedkd.settings.training import Pretraining, Training


@dataclass(frozen=True, config=STRICT)
class Federation:
    """One federation. Equal settings give equal numbers, on every engine.

    `dataset`, `partition`, `transfer` and `val` describe the data to whoever loads them (`Loader`) and to the
    reader of the results; nothing here interprets them.
    """

    method: str
    """spec string of the method"""
    models: str = "cnn"
    """model of the clients; "cnn|mlp" gives them out in turn, "cnn*3|mlp" by weight, "0: resnet20 | cnn" by client"""
    clients: Annotated[int, Ge(1)] = 10
    """number of clients"""
    students: tuple[Annotated[int, Ge(0)], ...] = ()
    """ids of the clients that learn; empty: all. The others keep the model that they start with"""
    teachers: tuple[Annotated[int, Ge(0)], ...] = ()
    """ids of the clients that may teach; empty: all"""
    rounds: Annotated[int, Ge(0)] = 10
    """rounds after the start"""
    participation: Annotated[float, Interval(gt=0, le=1), ADDED] = 1.0
    """share of the clients that learn in a round, drawn from the seed, the same for every method; at least one"""
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 0
    """seed of everything that is drawn: partition, initial weights, batches"""
    dataset: str = "digits"
    """data source"""
    partition: str = "iid"
    """how the training data are distributed to the clients"""
    transfer: str = "public(fraction=0.2)"
    """the transfer set"""
    channel: Annotated[str, ADDED] = "none"
    """what happens to reports on their way to the server: "none", or "noise(sigma=1.0)" """
    val: Literal["local", "common", "none"] = "local"
    """where validation samples come from: "local": 10 % of each client's own shard; "common": 10 % of the training
    data, uniform, before they are distributed, on which only the server scores; "none": none, all samples train"""
    init: Literal["common", "per_client"] = "common"
    """initial weights before pre-training: shared by equal architectures, or each client's own"""
    start: str = "pretrained"
    """where the rounds begin: "pretrained", "random", or one model for all: "best_client", "average", a method spec"""
    save: Literal["none", "last", "best"] = "none"
    """which of each client's models is saved: none, the last, or the one of best validation accuracy"""
    pretrain: Pretraining = Pretraining()
    """the [pretrain] table"""
    train: Training = Training()
    """the [train] table"""
    evaluate: Evaluation = Evaluation()
    """the [evaluate] table"""

    @cached_property
    def learners(self) -> tuple[int, ...]:
        """Ids of the clients that learn, ascending."""
        return tuple(sorted(self.students)) or tuple(range(self.clients))

    @cached_property
    def tutors(self) -> tuple[int, ...]:
        """Ids of the clients that may teach, ascending."""
        return tuple(sorted(self.teachers)) or tuple(range(self.clients))

    @cached_property
    def client_models(self) -> tuple[str, ...]:
        """Spec string of each client's model.

        Raises:
            UserError: `models` cannot be given out to so many clients.
        """
        return assignment(self.models, self.clients)

    @cached_property
    def bringers(self) -> tuple[int, ...]:
        """Ids of the clients whose model brings weights of its own, ascending."""
        specs = {spec: ARCHITECTURES.build(spec).brings_weights for spec in dict.fromkeys(self.client_models)}
        if not any(specs.values()):
            return ()
        return tuple(client for client, spec in enumerate(self.client_models) if specs[spec])

    def to_json(self) -> str:
        """All settings as one JSON object."""
        return self._json

    @cached_property
    def _json(self) -> str:
        # A federation sends it with every message.
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Federation:
        """Inverse of `to_json`, checked like any other input."""
        return _parsed(text)


_ADAPTER = TypeAdapter(Federation)


@file_cache(maxsize=256)
def _parsed(text: str) -> Federation:
    # A client is sent the same settings with every message.
    return _ADAPTER.validate_json(text)

"""How steps are taken: the tables `[train]` and `[pretrain]` of a recipe."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval
from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from fedkd.base.added import ADDED
from fedkd.base.catalogue import STRICT
from fedkd.base.numerics import Precision


def _full_name(precision: object) -> object:
    """One name for one precision, because names of results hold it."""
    return "bfloat16" if precision == "bf16" else precision


@dataclass(frozen=True, config=STRICT)
class Optimisation:
    """How steps are taken."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """optimiser; its state starts afresh each round"""
    lr: Annotated[float, Gt(0)] = 0.05
    """learning rate, which `warmup` and `schedule` change from step to step"""
    schedule: Annotated[str, ADDED] = "constant"
    """how the learning rate falls over all rounds, such as "cosine" or "step(every=10, factor=0.1)"; in pre-training,
    over all epochs, which are 300 where it ends by itself"""
    warmup: Annotated[float, Ge(0), ADDED] = 0.0
    """rounds, or parts of one, in which the learning rate rises evenly up to `lr` before the schedule begins; in
    pre-training, epochs"""
    clip: Annotated[float, Ge(0), ADDED] = 0.0
    """norm to which a longer gradient of a step is scaled down; 0: none is"""
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """momentum of sgd"""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """weight decay"""
    precision: Annotated[Precision, BeforeValidator(_full_name), ADDED] = "float32"
    """in which type networks compute, "bf16" for short; weights, predictions and losses are float32 in either case"""
    compile: Annotated[bool, ADDED] = False
    """have torch compile the networks, which takes about a minute: worth it where rounds take many"""
    batch_size: Annotated[int, Gt(0)] = 32
    """samples a step, of each kind: private and transfer batches have the same size"""
    augment: str = ""
    """random changes of labelled private images, such as "crop(padding=4)+flip"; empty: none. What is distilled is
    never changed, because its soft predictions were made for the images as they are"""


@dataclass(frozen=True, config=STRICT)
class Training(Optimisation):
    """How models are trained in a round: the `[train]` table, equal for every method of a study."""

    epochs: Annotated[int, Gt(0)] = 1
    """local epochs a round, of ⌈private samples / batch_size⌉ steps each"""
    steps: Annotated[int, Ge(0)] = 0
    """optimiser steps a round; 0 counts in epochs"""
    stack: Annotated[Annotated[int, Ge(1)] | Literal["auto"], ADDED] = 1
    """clients of one model that one worker trains in lockstep, in the pre-training and in searches too, where one node
    serves several; "auto": as many as have been measured to pay for the model and the size of its inputs"""

    def steps_a_round(self, samples: int) -> int:
        """Optimiser steps in one round of a client with this many private samples."""
        return self.steps or self.epochs * math.ceil(samples / self.batch_size)


@dataclass(frozen=True, config=STRICT)
class Pretraining(Optimisation):
    """How each client's model is trained on its own shard before the federation begins: the `[pretrain]` table."""

    epochs: Literal["auto", "converged", "early_stopping"] | Annotated[int, Ge(0)] = "auto"
    """a number; "converged": until the training loss has not fallen by 1 % over `patience` epochs;
    "early_stopping": until the validation loss has not fallen over `patience` epochs, then back to its lowest;
    both at most 300. "auto": 0 for a model that brings weights (a checkpoint, published weights), "converged" for any
    other"""
    patience: Annotated[int, Gt(0)] = 10
    """epochs to wait for a fall"""
    target: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """validation accuracy at which training ends at once, however many epochs are left; 0: no such end"""

    def settled(self, brings_weights: bool) -> Pretraining:
        """The same settings with "auto" decided, for a model that brings weights or for one that does not."""
        return self if self.epochs != "auto" else replace(self, epochs=0 if brings_weights else "converged")

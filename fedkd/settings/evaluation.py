"""What models are evaluated on, and when: the table `[evaluate]` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from annotated_types import Ge
from pydantic import field_validator
from pydantic.dataclasses import dataclass

from fedkd.base.added import ADDED
from fedkd.base.catalogue import STRICT

Split = Literal["test", "local_test", "val"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""What models can be evaluated on; the first of them that a study has is what its accuracy is."""

Whose = Literal["clients", "server"]
BOTH: tuple[Whose, ...] = get_args(Whose)
"""Whose models can be evaluated."""


@dataclass(frozen=True, config=STRICT)
class Evaluation:
    """What models are evaluated on, and when: the `[evaluate]` table, equal for every method of a study.

    It changes what is measured, never what is learnt.
    """

    every: Annotated[int, Ge(1), ADDED] = 1
    """evaluate in rounds that are multiples of this, and always at the start and in the last round; the other rounds
    have only costs in the results"""
    on: Annotated[tuple[Split, ...], ADDED] = SPLITS
    """splits: "test", the common test set; "local_test", a client's own part of it; "val", its validation samples.
    The accuracy of a study is that on the first of these that is named"""
    of: Annotated[tuple[Whose, ...], ADDED] = BOTH
    """whose models: "clients", and "server" for methods in which the server has one; without one of them its models
    are never evaluated"""
    samples: Annotated[int, Ge(0), ADDED] = 0
    """samples of the common test set, drawn by class from the seed, the same for all clients, rounds and methods;
    0: all. At the start and in the last round of a client all are used"""

    @field_validator("on")
    @classmethod
    def _some(cls, on: tuple[Split, ...]) -> tuple[Split, ...]:
        if not on:
            raise ValueError(f"it should name at least one of {', '.join(map(repr, SPLITS))}")
        return tuple(split for split in SPLITS if split in on)

    @field_validator("of")
    @classmethod
    def _someone(cls, of: tuple[Whose, ...]) -> tuple[Whose, ...]:
        if not of:
            raise ValueError(f"it should name {' or '.join(map(repr, BOTH))}, or both")
        return tuple(whose for whose in BOTH if whose in of)

    @property
    def main(self) -> Split:
        """The split whose accuracy is that of the study."""
        return self.on[0]

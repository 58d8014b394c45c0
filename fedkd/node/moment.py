"""What an exchange is for: the phases of a federation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """What happens in an exchange."""

    START = "start"
    """Every client takes up its first model and is evaluated."""
    HANDOVER = "handover"
    """On the way to one common model, one client distils and passes the model on."""
    TAKE_UP = "take up"
    """Every client takes up the common model."""
    PREPARE = "prepare"
    """The method prepares its rounds: it searches settings, or scores samples."""
    ROUND = "round"
    """Clients learn."""


@dataclass(frozen=True)
class Moment:
    """One exchange: a message to each client that takes part, and its answer."""

    phase: Phase = Phase.START
    step: int = 0
    """number within the phase, from 1: which hand-over, which preparation, which round of the method"""
    exchange: int = 0
    """number within the federation, from 0"""
    since: int = 0
    """exchanges since the one in which the method begins"""
    booked: int = 0
    """round of the results to which its costs belong"""
    begins: bool = True
    """whether the method begins here: with the start, or with the common model"""
    last: bool = False
    """whether it is the last of the federation"""

    @property
    def round(self) -> int:
        """Round of the method, from 1; 0 before the first."""
        return self.step if self.phase is Phase.ROUND else 0


AT_START = Moment()


def in_round(number: int) -> Moment:
    """Round `number` of a method without preparations that begins with the start; 0: the start itself."""
    if number == 0:
        return AT_START
    return Moment(Phase.ROUND, step=number, exchange=number, since=number, booked=number, begins=False)

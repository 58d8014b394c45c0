"""Who teaches whom: `others`, `self`, `one(2)`, `k(3)`."""

from __future__ import annotations

import re
from typing import Annotated

import torch
from pydantic import AfterValidator

from fedkd.errors import UserError

_FORMS = 'it should be "others", "self", "one(ID)" or "k(NUMBER)"'
_CHOICE = re.compile(r"(others|self)|(one|k)\((\d+)\)")


def _known(teachers: str) -> str:
    if not _CHOICE.fullmatch(teachers):
        raise ValueError(_FORMS)
    return teachers


Teachers = Annotated[str, AfterValidator(_known)]
"""A choice of teachers, checked when a method is made."""


def choose(teachers: str, student: int, clients: int, rng: torch.Generator) -> list[int]:
    """The ids of one student's teachers, ascending.

    Raises:
        UserError: there are not that many other clients, or no client has the id.
    """
    others = [client for client in range(clients) if client != student]
    match = _CHOICE.fullmatch(teachers)
    assert match is not None
    if teachers == "self":
        return [student]
    if teachers == "others":
        if not others:
            raise UserError(
                'teachers = "others": one client alone has no teachers; use clients ≥ 2 or teachers = "self"'
            )
        return others
    number = int(match[3])
    if match[2] == "one":
        if number >= clients:
            raise UserError(f'teachers = "{teachers}": clients are 0 to {clients - 1}')
        return [number]
    if not 1 <= number <= len(others):
        raise UserError(f'teachers = "{teachers}": each student has {len(others)} other clients to choose from')
    chosen = torch.randperm(len(others), generator=rng)[:number]
    return sorted(others[int(i)] for i in chosen)

"""Who teaches whom: `others`, `all`, `self`, `one(2)`, `k(3)`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator

from fedkd.errors import UserError

_FORMS = 'it should be "others", "all", "self", "one(ID)" or "k(NUMBER)"'
_CHOICE = re.compile(r"(others|all|self)|(one|k)\((\d+)\)")


def _known(teachers: str) -> str:
    if not _CHOICE.fullmatch(teachers):
        raise ValueError(_FORMS)
    return teachers


Teachers = Annotated[str, AfterValidator(_known)]
"""A choice of teachers, checked when a method is made."""


def choose(teachers: str, student: int, tutors: Sequence[int], rng: torch.Generator) -> list[int]:
    """The ids of one student's teachers among those who may teach (`tutors`, ascending), ascending.

    Raises:
        UserError: there are not that many others who may teach, or none of them has the id.
    """
    others = [client for client in tutors if client != student]
    match = _CHOICE.fullmatch(teachers)
    assert match is not None
    if teachers == "self":
        return [student]
    if teachers == "all":
        return list(tutors)
    if teachers == "others":
        if not others:
            raise UserError(
                f'teachers = "others": nobody else may teach client {student}; '
                'use clients ≥ 2, a longer recipe key teachers, or teachers = "self"'
            )
        return others
    number = int(match[3])
    if match[2] == "one":
        if number not in tutors:
            raise UserError(f'teachers = "{teachers}": clients that may teach are {_listed(tutors)}')
        return [number]
    if not 1 <= number <= len(others):
        raise UserError(f'teachers = "{teachers}": each student has {len(others)} other clients to choose from')
    chosen = torch.randperm(len(others), generator=rng)[:number]
    return sorted(others[int(i)] for i in chosen)


def _listed(ids: Sequence[int]) -> str:
    whole = list(ids) == list(range(ids[0], ids[-1] + 1))
    return f"{ids[0]} to {ids[-1]}" if whole else ", ".join(map(str, ids))

"""Who teaches whom: `others`, `all`, `self`, `one(2)`, `k(3)`, and `+autoencoder` beside them or alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator, ValidationError

from fedkd.base.catalogue import parameters
from fedkd.base.errors import UserError
from fedkd.base.spec import parse, terms
from fedkd.distillation.class_teacher import ClassTeacher

_FORMS = (
    'it should be "others", "all", "self", "one(ID)", "k(NUMBER)", "autoencoder", or one of the peers with it, '
    'as in "others+autoencoder"'
)
_CHOICE = re.compile(r"(others|all|self)|(one|k)\((\d+)\)")


def _known(teachers: str) -> str:
    peers = terms(teachers, "+")
    with_classes = [term for term in peers if term.split("(")[0] == "autoencoder"]
    rest = [term for term in peers if term not in with_classes]
    if len(with_classes) > 1 or len(rest) > 1 or any(not _CHOICE.fullmatch(term) for term in rest):
        raise ValueError(_FORMS)
    if with_classes and rest == ["self"]:
        raise ValueError('"self" teaches alone; use "autoencoder", or "others+autoencoder"')
    if with_classes:
        _class_teacher(with_classes[0])
    return teachers


def peers_in(teachers: str) -> str:
    """The choice of peers without the autoencoder; empty if the autoencoder is the only teacher."""
    return next((term for term in terms(teachers, "+") if not term.startswith("autoencoder")), "")


def class_teacher_in(teachers: str) -> ClassTeacher | None:
    """The autoencoder among the teachers; None if there is none."""
    autoencoders = [term for term in terms(teachers, "+") if term.startswith("autoencoder")]
    return _class_teacher(autoencoders[0]) if autoencoders else None


def _class_teacher(term: str) -> ClassTeacher:
    spec = parse(term)
    try:
        return ClassTeacher(**spec.arguments)
    except (ValidationError, TypeError) as error:
        known = ", ".join(parameter.name for parameter in parameters(ClassTeacher))
        raise ValueError(f"the autoencoder among the teachers takes {known}; found {term!r}") from error


Teachers = Annotated[str, AfterValidator(_known)]
"""A choice of teachers, checked when a method is made."""


def choose(teachers: str, student: int, tutors: Sequence[int], rng: torch.Generator) -> list[int]:
    """The ids of one student's teachers among those who may teach (`tutors`, ascending), ascending.

    Raises:
        UserError: there are not that many others who may teach, or none of them has the id.
    """
    others = [client for client in tutors if client != student]
    teachers = peers_in(teachers)
    if not teachers:
        return []
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

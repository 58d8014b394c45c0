"""Validation errors of pydantic, as one line for the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError


@dataclass(frozen=True)
class Problem:
    """The first thing that is wrong with some values."""

    field: str
    """whose value it is; empty: that of several together"""
    where: str
    """the same, with the index of an item in a list: `shape.0`"""
    message: str
    """what would be right; where several types are, one after the other"""
    value: Any
    """what was given"""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}, found {self.value!r}" if self.field else self.message


def first_problem(error: ValidationError) -> Problem:
    """The first problem of a validation error."""
    problems = error.errors(include_url=False)
    first = problems[0]
    if first["type"] in ("missing", "missing_argument"):
        return Problem("", "", f"parameter {str(first['loc'][-1])!r} has no default; give it a value", None)
    # Where several types are right, each has a problem of its own, under the field and its own name.
    same = [problem["msg"] for problem in problems if problem["loc"][:1] == first["loc"][:1]]
    field = str(first["loc"][0]) if first["loc"] else ""
    where = ".".join([field, *(str(part) for part in first["loc"][1:] if isinstance(part, int))])
    return Problem(field, where, " or ".join(dict.fromkeys(map(_plain, same))), first["input"])


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[0].lower() + message[1:]

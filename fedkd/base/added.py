"""Settings that an earlier fedkd did not have.

Results and caches are named by a hash of their settings. A setting marked `ADDED` is no part of that hash while it has
its default, so that what was made before the setting existed stays valid:

    participation: Annotated[float, Interval(gt=0, le=1), ADDED] = 1.0
"""

from __future__ import annotations

import dataclasses
import typing
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class _Added:
    """Type of the mark `ADDED`."""


ADDED: Final = _Added()
"""Marks a field, inside `Annotated`, that is newer than the first names made with this version of the numbers."""


@lru_cache(maxsize=64)
def added_defaults(owner: type[DataclassInstance]) -> MappingProxyType[str, Any]:
    """Default of every marked field of a dataclass, by its name; fields of inner dataclasses as `table.field`."""
    defaults: dict[str, Any] = {}
    hints = typing.get_type_hints(owner, include_extras=True)
    for field in dataclasses.fields(owner):
        hint = hints[field.name]
        if ADDED in getattr(hint, "__metadata__", ()):
            assert field.default is not dataclasses.MISSING, f"{field.name} is marked as added and has no default"
            defaults[field.name] = field.default
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
            defaults |= {f"{field.name}.{inner}": value for inner, value in added_defaults(hint).items()}
    return MappingProxyType(defaults)


def identity(settings: DataclassInstance) -> dict[str, Any]:
    """What names results made with these settings: all fields as plain values, without marked ones at their default.

    A table of which nothing is left is left out too.
    """
    values = dataclasses.asdict(settings)
    for key, default in added_defaults(type(settings)).items():
        *tables, name = key.split(".")
        table = values
        for inner in tables:
            table = table[inner]
        if table[name] == default:
            del table[name]
        if tables and not table:
            del values[tables[0]]
    return values

"""Named arms: `method = { tuned = "tuned_kd(…)", plain = "kd" }` instead of a list of specs.

Tables, legends and axes show the names. They are no part of a federation's identity, so new names run nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkd.base.errors import UserError

NAMEABLE = ("method", "partition", "transfer", "start", "channel", "models", "dataset")
"""Keys of a recipe whose values can be named."""


def specs_of(key: str, arms: Mapping[str, Any]) -> list[str]:
    """The values of a key that a recipe gives as a table of names.

    Raises:
        UserError: the table is empty, or a name or value is not what it should be.
    """
    example = f'{key} = {{ NAME = "SPEC", OTHER = "SPEC" }}'
    if not arms:
        raise UserError(f"recipe key {key!r} is an empty table; name at least one arm: {example}")
    for name, value in arms.items():
        if not isinstance(value, str):
            raise UserError(
                f"recipe key {key!r}: the arm {name!r} should be one spec string, {example}, found {value!r}"
            )
        if not name.strip() or not name.isprintable():
            raise UserError(f"recipe key {key!r}: {name!r} is no name for {value!r}; give it one of printable letters")
    return list(arms.values())


def names_by_spec(key: str, arms: Mapping[str, str], specs: list[Any]) -> dict[str, str]:
    """The name of each value of a key. specs: the values in canonical spelling, in the order of `arms`.

    Raises:
        UserError: two arms have one spec, or an arm has the spec of another for its name.
    """
    names: dict[str, str] = {}
    for name, spec in zip(arms, specs, strict=True):
        if spec in names:
            raise UserError(
                f"recipe key {key!r}: the arms {names[spec]!r} and {name!r} are one, {spec}; leave one of them out"
            )
        names[spec] = name
    for spec, name in names.items():
        if name != spec and name in names:
            raise UserError(
                f"recipe key {key!r}: the arm {name!r} is called what the arm {names[name]!r} is; give it another name"
            )
    return names

"""The grid of a search: values for each parameter, and the points that are their combinations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Point = tuple[float, ...]
"""One combination, with one number for each parameter: the index in a list of values, or the value within a range."""


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`: whole ones where both ends are whole."""

    low: float
    high: float
    log: bool = False
    """whether numbers are drawn evenly on a logarithmic scale"""

    @property
    def whole(self) -> bool:
        """Whether the range contains only whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __repr__(self) -> str:
        return repr({"low": self.low, "high": self.high} | ({"log": True} if self.log else {}))


Values = tuple[Any, ...] | Range


@dataclass(frozen=True)
class Grid:
    """Values to try by parameter: `{"temperature": [1.0, 4.0], "weight": {"low": 0.1, "high": 1.0}}`. Hashable."""

    entries: tuple[tuple[str, Values], ...]

    @classmethod
    def read(cls, value: object) -> Grid:
        """The grid that a table describes.

        Raises:
            ValueError: it is not a table of lists and ranges; the message names the key.
        """
        if isinstance(value, Grid):
            return value
        if not isinstance(value, Mapping) or not value:
            raise ValueError('it should be a table of values to try, as in {"temperature": [1.0, 4.0]}')
        return cls(tuple((str(key), _values(str(key), given)) for key, given in value.items()))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        return core_schema.no_info_plain_validator_function(cls.read)

    def __repr__(self) -> str:
        return repr({name: values if isinstance(values, Range) else list(values) for name, values in self.entries})

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the order given."""
        return tuple(name for name, _ in self.entries)

    @property
    def ranges(self) -> tuple[str, ...]:
        """The parameters that are given as ranges."""
        return tuple(name for name, values in self.entries if isinstance(values, Range))

    @property
    def size(self) -> float:
        """Number of points; infinite where a range of real numbers is among the parameters."""
        return math.prod(_count(values) for _, values in self.entries)

    def points(self) -> Iterator[Point]:
        """Every point of a finite grid, the last parameter changing fastest."""
        return itertools.product(*(_coordinates(values) for _, values in self.entries))

    def corners(self) -> Iterator[Point]:
        """Every combination of listed values and ends of ranges."""
        ends = (
            (values.low, values.high) if isinstance(values, Range) else _coordinates(values)
            for _, values in self.entries
        )
        return itertools.product(*ends)

    def values(self, point: Point) -> dict[str, Any]:
        """The parameters' values at a point."""
        return {name: _at(values, coordinate) for (name, values), coordinate in zip(self.entries, point, strict=True)}

    def point(self, values: Mapping[str, Any]) -> Point | None:
        """The point that has these values; None where it is not on the grid."""
        try:
            return tuple(_coordinate(given, values[name]) for name, given in self.entries)
        except ValueError:
            return None


def _count(values: Values) -> float:
    if not isinstance(values, Range):
        return len(values)
    return values.high - values.low + 1 if values.whole else math.inf


def _coordinates(values: Values) -> Iterator[float]:
    if isinstance(values, Range):
        return map(float, range(int(values.low), int(values.high) + 1))
    return map(float, range(len(values)))


def _at(values: Values, coordinate: float) -> Any:
    if not isinstance(values, Range):
        return values[int(coordinate)]
    return int(coordinate) if values.whole else float(coordinate)


def _coordinate(values: Values, value: Any) -> float:
    if not isinstance(values, Range):
        return float(values.index(value))
    if not (_number(value) and values.low <= value <= values.high):
        raise ValueError(f"{value!r} is not in {values!r}")
    return float(value)


def _values(key: str, given: object) -> Values:
    if isinstance(given, Range):
        return given
    if isinstance(given, (list, tuple)) and given:
        return tuple(_frozen(value) for value in given)
    if not isinstance(given, Mapping):
        raise ValueError(
            f'{key}: it should be a list of values, [1.0, 4.0], or a range, {{"low": 1.0, "high": 20.0}}, not {given!r}'
        )
    if unknown := sorted(set(map(str, given)) - {"low", "high", "log"}):
        raise ValueError(f"{key}: a range has low, high and log, not {', '.join(unknown)}")
    low: Any = given.get("low")
    high: Any = given.get("high")
    log: Any = given.get("log", False)
    if not (_number(low) and _number(high) and low < high):
        raise ValueError(f"{key}: a range needs two numbers, low below high, not low={low!r} and high={high!r}")
    if not isinstance(log, bool):
        raise ValueError(f"{key}: log should be true or false, not {log!r}")
    if log and low <= 0:
        raise ValueError(f"{key}: a range with log=true needs low above 0, not {low!r}")
    return Range(low, high, log)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value

"""What specs are called: the name of a method behind its parameters, and names that a recipe gives to its arms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def base_name(spec: object) -> str:
    """The name of a spec without its parameters: `dp_kd(order="random")` → `dp_kd`."""
    return str(spec).partition("(")[0]


@dataclass(frozen=True)
class Names:
    """The names that a recipe gives to values of its keys. They are what a reader sees; results are told apart by the
    values themselves, so that a name changes no number."""

    by_key: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """key of the recipe → value, a spec → name"""

    @classmethod
    def of_study(cls, study: Mapping[str, Any]) -> "Names":
        """The names in a `study.json`; none where it has none."""
        given = study.get("names", {})
        known = given if isinstance(given, Mapping) else {}
        return cls({str(key): dict(names) for key, names in known.items() if isinstance(names, Mapping)})

    def of(self, key: str, value: object) -> str:
        """What a value of a key is called: its name, or the value itself."""
        return str(self.by_key.get(key, {}).get(str(value), value))

    def named(self, key: str, value: object) -> bool:
        """Whether the recipe has given this value a name."""
        return str(value) in self.by_key.get(key, {})

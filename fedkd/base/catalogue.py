"""The catalogue of what spec strings can name: named by files, checked when built, described for the help.

A file that is added to a package adds a name, and no other file changes.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, ValidationError

from fedkd.base.errors import UserError, nearest
from fedkd.base.own_code import load_file
from fedkd.base.problems import first_problem
from fedkd.base.spec import Spec, parse

T = TypeVar("T")

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Config of every dataclass that a spec string builds: no silent conversions, no unknown parameters."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a catalogue entry, as the help and the docs show it."""

    name: str
    type: str
    default: str
    help: str


@dataclass(frozen=True)
class Catalogue(Generic[T]):
    """The objects of one kind that spec strings can name: one file each in `package`."""

    noun: str
    """What an entry is called in messages: "method", "partition", "model"."""
    package: str
    """Import path of the package whose files are the entries."""
    base: type[T]
    """The class that an entry derives from."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every name that exists, sorted."""
        package = importlib.import_module(self.package)
        files = (module.name for module in pkgutil.iter_modules(package.__path__))
        entries = (name for name in files if self.entry(importlib.import_module(f"{self.package}.{name}"), name))
        return tuple(sorted(entries))

    def find(self, spec: Spec) -> type[T]:
        """The class behind a parsed spec.

        Raises:
            UserError: nothing has this name (the message offers the nearest), or the user's file lacks it.
        """
        if spec.file:
            module = load_file(spec.file, self.noun)
            entry = self.entry(module, spec.name)
            if entry is None:
                raise UserError(f"{self.noun} {spec}: {spec.file} defines no {self.base.__name__} called {spec.name!r}")
            return entry
        if spec.name not in self.names:
            raise UserError(f"unknown {self.noun} {spec.name!r}: {nearest(spec.name, self.names)}")
        entry = self.entry(importlib.import_module(f"{self.package}.{spec.name}"), spec.name)
        assert entry is not None
        return entry

    def build(self, text: str) -> T:
        """The object that a spec string stands for, its parameters checked.

        Raises:
            UserError: unknown name or parameter, wrong type, or a value out of range.
        """
        spec = parse(text)
        return made(self.noun, spec, self.find(spec))

    def entry(self, module: ModuleType, name: str) -> type[T] | None:
        """The class of this name in a module, ignoring capitals and underscores; None where there is none."""
        wanted = name.replace("_", "").lower()
        for value in vars(module).values():
            if (
                inspect.isclass(value)
                and issubclass(value, self.base)
                and not inspect.isabstract(value)
                and value.__module__ == module.__name__
                and value.__name__.lower() == wanted
            ):
                return value
        return None


def made(noun: str, spec: Spec, entry: type[T]) -> T:
    """An object of the class `entry` with the checked parameters of a parsed spec; messages call it a `noun`.

    Raises:
        UserError: unknown parameter, wrong type, or a value out of range.
    """
    known = {parameter.name for parameter in parameters(entry)}
    takes = "argument" in known
    written = f"it is written {getattr(entry, 'usage', spec.name)}"
    if takes != (spec.argument is not None):
        raise UserError(f"{noun} {str(spec)!r}: {written}")
    for key in spec.arguments:
        if key not in known - {"argument"}:
            hint = nearest(key, known - {"argument"}) if known - {"argument"} else "it has no parameters"
            raise UserError(f"{noun} {spec.name}: unknown parameter {key!r}; {hint}")
    arguments = {key: _as_tuple(value) for key, value in spec.arguments.items()}
    if takes:
        arguments["argument"] = spec.argument
    try:
        return entry(**arguments)
    except ValidationError as error:
        raise UserError(f"{noun} {spec.name}: {first_problem(error)}") from error
    except TypeError as error:  # a plain dataclass in a user's file
        raise UserError(f"{noun} {spec.name}: {error}") from error


def parameters(entry: type[object]) -> tuple[Parameter, ...]:
    """Name, type, default and help of every parameter of a dataclass; the docstring under a field is its help."""
    known = _PARAMETERS.get(entry)
    if known is None:
        known = _PARAMETERS[entry] = tuple(_read_parameters(entry))
    return known


_PARAMETERS: dict[type[object], tuple[Parameter, ...]] = {}


def _read_parameters(entry: type[object]) -> Iterator[Parameter]:
    if not dataclasses.is_dataclass(entry):
        return
    docs: dict[str, str] = {}
    for owner in reversed(entry.__mro__):
        if dataclasses.is_dataclass(owner):
            docs.update(_field_docs(owner))
    hints = typing.get_type_hints(entry, include_extras=True)
    for field in dataclasses.fields(entry):
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        default = "required" if made is dataclasses.MISSING else repr(_plain(made))
        yield Parameter(field.name, _type_name(hints[field.name]), default, docs.get(field.name, ""))


def summary(entry: type[object]) -> str:
    """The first line of an entry's docstring."""
    return (inspect.getdoc(entry) or "").split("\n", 1)[0]


def _field_docs(owner: type[object]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, doc in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(doc, ast.Expr)
            and isinstance(doc.value, ast.Constant)
            and isinstance(doc.value.value, str)
        ):
            docs[field.target.id] = " ".join(doc.value.value.split())
    return docs


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        inner, *extras = typing.get_args(hint)
        bounds = [limit for extra in extras for limit in _bounds(extra)]
        return " ".join([_type_name(inner), *bounds])
    if typing.get_origin(hint) is tuple:
        return f"list of {_type_name(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(_type_name(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(repr(choice) for choice in typing.get_args(hint))
    if hint is type(None):
        return "none"
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint).replace("typing.", "")


def _bounds(extra: object) -> list[str]:
    """The limits that an annotation sets, in signs: `> 0`, `≤ 1`."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = ((sign, getattr(extra, name, None)) for name, sign in signs.items())
    return [f"{sign} {limit}" for sign, limit in limits if limit is not None]


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def _as_tuple(value: Any) -> Any:
    """Values of frozen objects are hashable: a list in a spec string becomes a tuple."""
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value

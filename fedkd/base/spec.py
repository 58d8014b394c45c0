"""Spec strings: `name(key=value, …)`, `name:argument(key=value, …)` → object, and the catalogue of what exists.

A spec string is at once recipe value, run-config value, command-line argument, cache key and plot label.
It is parsed as a literal and never evaluated; a catalogue finds its object by file name, so that adding a
file to a package adds a name, and no other file changes.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from fedkd.base.errors import UserError
from fedkd.base.files import code_hash, located

_SHAPE = "a name, with parameters in parentheses where it has any: name(key=value, …)"
_OWN_FILE = re.compile(r"^(?P<file>[^()]+\.py):(?P<call>.+)$", re.DOTALL)
# What follows the colon is the user's: a path may hold brackets, so only a call at the very end is one.
_ARGUMENT = re.compile(
    r"^(?P<name>[^\W\d]\w*):(?P<argument>.+?)(?P<call>\(\s*(?:[^\W\d]\w*\s*=(?!=).*)?\))?$", re.DOTALL
)


@dataclass(frozen=True)
class Spec:
    """A parsed spec string. `str(spec)` is its canonical spelling."""

    name: str
    arguments: dict[str, Any]
    file: str | None = None
    """the user's own file that holds the entry"""
    argument: str | None = None
    """what follows the colon, for entries that have one: `npz:FILE`, `torchvision:resnet18`"""

    def __str__(self) -> str:
        prefix = f"{self.file}:" if self.file else ""
        head = f"{prefix}{self.name}" if self.argument is None else f"{prefix}{self.name}:{self.argument}"
        inside = ", ".join(f"{key}={_shown(value)}" for key, value in self.arguments.items())
        return f"{head}({inside})" if inside else head


LONGEST = 4000
"""Characters of the longest spec string that is read."""


def parse(text: str) -> Spec:
    """Parse one spec string.

    >>> str(parse("kd( temperature=4.0 )"))
    'kd(temperature=4.0)'

    Raises:
        UserError: the text is not `name(key=literal, …)`.
    """
    spec = _parsed(text)
    # Clients read the same specs in every exchange; what they do with the arguments is theirs.
    return replace(spec, arguments=copy.deepcopy(spec.arguments))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Spec:
    if len(text) > LONGEST:
        raise UserError(f"cannot read the spec {_short(text)}: it has {len(text)} characters, of at most {LONGEST}")
    own_file = _OWN_FILE.match(text.strip())
    call = own_file["call"] if own_file else text
    argument = None
    if not own_file and (split := _ARGUMENT.match(text.strip())):
        argument = split["argument"].strip()
        call = split["name"] + (split["call"] or "")
    try:
        node = ast.parse(call.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"cannot read the spec {_short(text)}; it should be {_SHAPE}") from error
    file = own_file["file"] if own_file else None
    if isinstance(node, ast.Name):
        return Spec(node.id, {}, file, argument)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise UserError(f"cannot read the spec {text!r}; it should be {_SHAPE}")
    name = node.func.id
    if node.args:
        raise UserError(f"{name}: parameters are given by name, as in {name}(key=value); found {_short(text)}")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise UserError(f"{name}: found '**' in {_short(text)}; parameters are given by name")
        if keyword.arg in arguments:
            raise UserError(f"{name}: parameter {keyword.arg!r} is given twice in {_short(text)}; give it once")
        arguments[keyword.arg] = _literal(keyword.value, f"{name}({keyword.arg}=…)")
    return Spec(name, arguments, file, argument)


def terms(text: str, sign: str) -> tuple[str, ...]:
    """The parts of `text` between signs ("+" or "|") that stand outside of brackets and quotes, stripped.

    >>> terms('dirichlet(alpha=0.3) + noise(sigma=0.5)', "+")
    ('dirichlet(alpha=0.3)', 'noise(sigma=0.5)')
    """
    parts, depth, quote, start = [], 0, "", 0
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[index - 1] != "\\" else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == sign and not depth:
            parts.append(text[start:index].strip())
            start = index + 1
    return (*parts, text[start:].strip())


def specs_in(text: str) -> Iterator[Spec]:
    """Every spec that a text holds: its terms joined by "+", and those in the quoted text of their parameters.

    >>> [spec.name for spec in specs_in('tuned(method="kd(revise=\\"labels\\")")')]
    ['tuned', 'kd', 'labels']
    """
    for term in terms(text, "+"):
        try:
            spec = parse(term)
        except UserError:
            continue  # a parameter that is plain text
        yield spec
        for inner in _texts(list(spec.arguments.values())):
            yield from specs_in(inner)


def own_code(text: str) -> dict[str, str]:
    """Hash of every Python file of the user's own that the specs in `text` name, and of what it imports beside it.

    Raises:
        UserError: a file is not there, or is not Python.
    """
    return {spec.file: code_hash(located(spec.file)) for spec in specs_in(text) if spec.file}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))


def _literal(node: ast.expr, where: str) -> Any:
    """The value that a literal stands for."""
    try:
        value = ast.literal_eval(_LowerCase().visit(node))
        written = repr(value)
        if "inf" in written and ast.literal_eval(written) != value:
            raise ValueError
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise UserError(
            f"{where}: its value is not a literal; finite numbers, quoted text, true, false and lists of them are"
        ) from error
    return value


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


class _LowerCase(ast.NodeTransformer):
    """Recipes are TOML, where booleans are lower case: true and false mean what they mean there."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        known = {"true": True, "false": False}
        return ast.Constant(known[node.id]) if node.id in known else node

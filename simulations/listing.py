"""Lists of methods, models and so on with their parameters, for the terminal and for docs/catalogue.md."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.markup import escape

from fedkd.base.catalogue import Catalogue, Parameter, parameters, summary
from fedkd.base.errors import UserError, nearest
from fedkd.base.spec import parse
from fedkd.channels.contract import CHANNELS
from fedkd.data import SOURCES
from fedkd.distillation.revision import REVISIONS
from fedkd.distillation.selection import SELECTIONS
from fedkd.method import METHODS
from fedkd.models import ARCHITECTURES
from fedkd.models.own import USAGE as OWN_USAGE
from fedkd.models.own import Dressing
from fedkd.settings.federation import Federation
from fedkd.training.rates import SCHEDULES
from simulations.arms import NAMEABLE
from simulations.recipe import TABLES
from simulations.shipped import shipped
from simulations.splits import PARTITIONS

CATALOGUES: dict[str, Catalogue[Any]] = {
    "methods": METHODS,
    "revisions": REVISIONS,
    "selections": SELECTIONS,
    "channels": CHANNELS,
    "schedules": SCHEDULES,
    "partitions": PARTITIONS,
    "models": ARCHITECTURES,
    "datasets": SOURCES,
}

_HEADS = {
    "methods": "Recipe key `method`; one file each in `fedkd/methods/`.",
    "revisions": "Parameter `revise` of methods that distil; one file each in `fedkd/distillation/revisions/`.",
    "selections": "Parameter `select` of methods that distil; one file each in `fedkd/distillation/selections/`.",
    "channels": "Recipe key `channel`: what changes reports before they travel; one file each in `fedkd/channels/`.",
    "schedules": "Keys `schedule` of the tables `[train]` and `[pretrain]`: how the learning rate falls; one file each "
    "in `fedkd/training/schedules/`.",
    "partitions": "Recipe key `partition`; one file each in `partitions/`. Terms of a sum are joined by `+`: at most "
    "one deals the samples, the others thin them out or change what the clients see.",
    "models": "Recipe key `models`; one file each in `fedkd/models/`. `a|b` gives them out in turn, `a*3|b` by weight, "
    "`0: a | 1-4: b | c` by client.",
    "datasets": "Recipe key `dataset`; one file each in `fedkd/data/sources/`. Each also takes `limit=N`: a seeded "
    "subset of so many images, stratified by class, for quick studies.",
}


ALSO = ("keys", "recipes")
"""What else can be listed."""
_ALSO_HEADS = {
    "keys": "Keys of a recipe; those with a dot stand in a table: `[train]`, and below it `lr = 0.05`, for `train.lr`. "
    "A list where one value would do sweeps; a table names what it sweeps, and the names are what tables and figures "
    'show: `method = { tuned = "tuned_kd(…)", plain = "kd" }`. Keys that take names: '
    f"{', '.join(f'`{key}`' for key in NAMEABLE)}.",
    "recipes": "Recipes that come with fedkd: `fedkd run NAME`; the files are in `simulations/recipes/`.",
}


def named(name: str) -> Iterator[tuple[str, type[Any]]]:
    """(kind, class) of every entry with this name.

    Raises:
        UserError: there is none.
    """
    matches = [(kind, each) for kind, each in CATALOGUES.items() if name in each.names]
    if not matches:
        known = {each for catalogue in CATALOGUES.values() for each in catalogue.names}
        raise UserError(f"list {name!r} is unknown: {nearest(name, {*CATALOGUES, *ALSO, *known})}")
    for kind, catalogue in matches:
        yield kind, catalogue.find(parse(name))


def keys() -> Iterator[Parameter]:
    """Every key of a recipe, tables dotted."""
    for each in parameters(Federation):
        if each.name not in TABLES:
            yield each
    for table, owner in TABLES.items():
        for each in parameters(owner):
            yield replace(each, name=f"{table}.{each.name}")


def listed(kind: str) -> Iterator[tuple[str, str, tuple[Parameter, ...]]]:
    """(how it is written, one-line description, parameters in brackets) of every entry of one kind."""
    catalogue = CATALOGUES[kind]
    if kind == "models":
        yield OWN_USAGE, summary(Dressing), parameters(Dressing)
    for name in catalogue.names:
        entry = catalogue.find(parse(name))
        known = tuple(each for each in parameters(entry) if each.name != "argument")
        yield getattr(entry, "usage", name), summary(entry), known


def shown(what: str) -> Iterator[str]:
    """Lines for the terminal, in rich markup, about a kind, the keys, the recipes, or one entry by its name.

    Raises:
        UserError: there is no such kind or entry.
    """
    if what == "recipes":
        yield "[bold]recipes[/]"
        for each in shipped():
            yield f"  [cyan]{escape(each.name)}[/]  {escape(each.asks)}"
            yield f"      {escape(each.time)}. Data: {escape(each.data)}"
    elif what == "keys":
        yield "[bold]keys[/]"
        yield f"  [dim]{escape(_ALSO_HEADS['keys'])}[/]"
        yield from (line for each in keys() for line in _parameter(each, "  "))
    elif what in CATALOGUES:
        yield f"[bold]{what}[/]"
        for usage, description, known in listed(what):
            yield f"  [cyan]{escape(usage)}[/]  {escape(description)}"
            yield from (line for each in known for line in _parameter(each, "      "))
    else:
        for kind, entry in named(what):
            yield f"[bold]{kind}[/]: [cyan]{escape(getattr(entry, 'usage', what))}[/]"
            yield from (f"  {escape(line)}".rstrip() for line in (inspect.getdoc(entry) or "").splitlines())
            for parameter in parameters(entry):
                if parameter.name != "argument":
                    yield from _parameter(parameter, "      ")


def _parameter(each: Parameter, indent: str) -> Iterator[str]:
    yield f"{indent}{escape(f'{each.name}: {each.type} = {each.default}')}"
    yield f"{indent}    [dim]{escape(each.help)}[/]"


def markdown() -> str:
    """All kinds as one page of tables."""
    lines = [
        "# Everything a recipe can name",
        "",
        "Made from the code by `make docs`, from which `fedkd list` tells the same. A spec string is",
        "`name(key=value, …)`; parameters that are not given have their defaults.",
    ]
    for kind in CATALOGUES:
        lines += ["", f"## {kind.capitalize()}", "", _HEADS[kind]]
        for usage, description, known in listed(kind):
            lines += ["", f"### `{usage}`", "", _cell(description)]
            if known:
                lines += ["", "| parameter | type | default | |", "|---|---|---|---|"]
                lines += [
                    f"| `{each.name}` | {_cell(each.type)} | {_code(each.default)} | {_cell(each.help)} |"
                    for each in known
                ]
    lines += ["", "## Keys", "", _ALSO_HEADS["keys"], "", "| key | type | default | |", "|---|---|---|---|"]
    lines += [f"| `{e.name}` | {_cell(e.type)} | {_code(e.default)} | {_cell(e.help)} |" for e in keys()]
    lines += ["", "## Recipes", "", _ALSO_HEADS["recipes"]]
    for each in shipped():
        lines += ["", f"### `{each.name}`", "", each.asks, "", f"{each.time}. Data: {each.data}"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(default: str) -> str:
    return default if default == "required" else f"`{default}`".replace("|", "\\|")

"""What exists, and with which parameters: for the terminal, and as the tables of docs/catalogue.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedkd.data import SOURCES
from fedkd.method import METHODS
from fedkd.models import ARCHITECTURES
from fedkd.models.own import USAGE as OWN_USAGE
from fedkd.models.own import Dressing
from fedkd.revision import REVISIONS
from fedkd.selection import SELECTIONS
from fedkd.spec import Catalogue, Parameter, parameters, parse, summary
from simulations.splits import PARTITIONS

CATALOGUES: dict[str, Catalogue[Any]] = {
    "methods": METHODS,
    "revisions": REVISIONS,
    "selections": SELECTIONS,
    "partitions": PARTITIONS,
    "models": ARCHITECTURES,
    "datasets": SOURCES,
}

_HEADS = {
    "methods": "Recipe key `method`; one file each in `fedkd/methods/`.",
    "revisions": "Parameter `revise` of methods that distil; one file each in `fedkd/revisions/`.",
    "selections": "Parameter `select` of methods that distil; one file each in `fedkd/selections/`.",
    "partitions": "Recipe key `partition`; one file each in `partitions/`. Terms of a sum are joined by `+`: at most "
    "one deals the samples, the others thin them out or change what the clients see.",
    "models": "Recipe key `models`; one file each in `fedkd/models/`. `a|b` gives them out in turn, `a*3|b` by weight, "
    "`0: a | 1-4: b | c` by client.",
    "datasets": "Recipe key `dataset`; one file each in `fedkd/data/sources/`. Each also takes `limit=N`: a seeded "
    "subset of so many images, stratified by class, for quick studies.",
}


def listed(kind: str) -> Iterator[tuple[str, str, tuple[Parameter, ...]]]:
    """(how it is written, one-line description, parameters in brackets) of every entry of one kind."""
    catalogue = CATALOGUES[kind]
    if kind == "models":
        yield OWN_USAGE, summary(Dressing), parameters(Dressing)
    for name in catalogue.names:
        entry = catalogue.find(parse(name))
        known = tuple(each for each in parameters(entry) if each.name != "argument")
        yield getattr(entry, "usage", name), summary(entry), known


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
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(default: str) -> str:
    return default if default == "required" else f"`{default}`".replace("|", "\\|")

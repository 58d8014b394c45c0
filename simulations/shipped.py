"""The recipes that come with fedkd: question, running time and data of each, and an error if data are missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedkd.base.errors import UserError
from fedkd.base.files import located
from fedkd.base.spec import Spec, parse
from simulations.recipe import SHIPPED, Recipe

TIME, DATA = "Takes ", "Data: "
"""First words of the comments about a recipe's running time and about its data."""
FILES = ("npz", "images", "text")
"""Sources whose argument is a file or a folder."""
STAND_INS = {"mnist.npz": "mnist", "cifar10-jpeg.tar.xz": "cifar10"}
"""Files that shipped recipes name → the source that downloads them instead."""


@dataclass(frozen=True)
class Shipped:
    """The first comments of a recipe."""

    name: str
    asks: str
    """its question, and what one should know about it"""
    time: str
    data: str


def shipped() -> Iterator[Shipped]:
    """All recipes that come with fedkd, by name.

    Their first comments are prose, then a line that begins with "Takes", then one or more that begin with "Data:".
    """
    for file in sorted(SHIPPED.glob("*.toml")):
        parts = {"": "", TIME: "", DATA: ""}
        current = ""
        for line in file.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            text = line.removeprefix("#").strip()
            current = next((start for start in (TIME, DATA) if text.startswith(start)), current)
            parts[current] = f"{parts[current]} {text}".strip()
        yield Shipped(file.stem, parts[""], parts[TIME].rstrip("."), parts[DATA].removeprefix(DATA))


def check_data(recipe: Recipe) -> None:
    """Raise UserError if a recipe that comes with fedkd names files that are not on this machine."""
    if recipe.folder is not None or not (SHIPPED / f"{recipe.name}.toml").is_file():
        return
    sources = list(dict.fromkeys(federation.dataset for federation in recipe.federations))
    missing = [spec for spec in map(parse, sources) if spec.name in FILES and not located(spec.argument or "").exists()]
    if not missing:
        return
    files = " and ".join(str(spec.argument) for spec in missing)
    here = f"{files} {'is' if len(missing) == 1 else 'are'} neither in {Path.cwd()} nor in the folder FEDKD_DATA names"
    instead = [_instead(parse(source)) for source in sources]
    ways = [f"--set {_assigned(instead)} downloads them instead"] if all(instead) else []
    ways.append("--set dataset=digits takes images that are always there")
    them = "it" if len(missing) == 1 else "them"
    raise UserError(f"recipe {recipe.name}: {here}; put {them} there, or: {'; '.join(ways)}")


def _instead(source: Spec) -> str:
    """The source that downloads the data of a file; empty if there is none."""
    if source.name not in FILES:
        return str(source)
    name = STAND_INS.get(Path(source.argument or "").name)
    return str(Spec(name, source.arguments)) if name else ""


def _assigned(sources: list[str]) -> str:
    return f"'dataset={sources[0] if len(sources) == 1 else json.dumps(sources)}'"

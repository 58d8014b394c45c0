"""A recipe: validated TOML, expanded to federations. A list instead of one value makes a sweep."""

from __future__ import annotations

import itertools
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedkd.base.errors import UserError, nearest
from fedkd.base.files import look_beside
from fedkd.base.problems import first_problem
from fedkd.base.spec import parse, terms
from fedkd.models import ARCHITECTURES
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.evaluation import Evaluation
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining, Training
from fedkd.training.augment import augmentation
from fedkd.training.rates import SCHEDULES
from simulations.arms import NAMEABLE, names_by_spec, specs_of
from simulations.ray_settings import RaySettings, check_models
from simulations.splits import partition_strategy
from simulations.transfer import labelled

TABLES: dict[str, type[Any]] = {
    "pretrain": Pretraining,
    "train": Training,
    "evaluate": Evaluation,
    "ray": RaySettings,
}
SPECS = ("method", "partition", "transfer", "start", "channel")
LISTS = ("students", "teachers", "evaluate.on", "evaluate.of")
"""Keys whose value is a list: several such lists sweep."""
FIXED = {"ray": "it changes no result", "evaluate": "all federations of a study are measured alike"}
"""Tables whose keys take one value, and why."""
SHIPPED = Path(__file__).parent / "recipes"
_ORDER = ("dataset", "partition", "seed")
"""Keys that vary slowest."""


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe: all federations of a study."""

    name: str
    federations: tuple[Federation, ...]
    swept: tuple[str, ...]
    """keys that take more than one value"""
    ray: RaySettings
    source: Mapping[str, Any]
    """the flat key → value or list of values, as written and overridden"""
    folder: Path | None = None
    """the folder of the recipe, where files that it names are looked for first"""
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """key → spec → name, of the arms with a name; it changes no federation"""


@cache
def known_keys() -> dict[str, str]:
    """Every key of a recipe, tables dotted, with its help."""
    from fedkd.base.catalogue import parameters

    keys = {p.name: p.help for p in parameters(Federation) if p.name not in TABLES}
    for table, owner in TABLES.items():
        keys |= {f"{table}.{parameter.name}": parameter.help for parameter in parameters(owner)}
    return keys


def read(path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file, or one that ships with fedkd by its bare name, and apply `KEY=VALUE` overrides.

    Files that the recipe names are looked for beside it first, by this process from now on.

    Raises:
        UserError: the file is missing or broken, a key is unknown, or a value is not what it should be.
    """
    file = Path(path)
    if not file.is_file():
        shipped = SHIPPED / f"{path}.toml"
        if not shipped.is_file():
            names = (recipe.stem for recipe in SHIPPED.glob("*.toml"))
            raise UserError(
                f"recipe {path!r} is no file, and none of that name ships with fedkd: {nearest(path, names)}"
            )
        file = shipped
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"recipe {path}: not TOML: {error}") from error
    folder = None if file.is_relative_to(SHIPPED) else file.absolute().parent
    look_beside([folder] if folder else [])
    return replace(expand(file.stem, content, overrides), folder=folder)


def expand(name: str, content: Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """The federations of a recipe given as nested or dotted keys.

    Raises:
        UserError: a key is unknown, or a value is not what it should be.
    """
    flat = _flat(content) | _flat(dict(_override(text) for text in overrides))
    known = known_keys()
    for key in flat:
        if key not in known:
            raise UserError(f"recipe key {key!r} is unknown; {nearest(key, known)}")
    if "method" not in flat:
        raise UserError("recipe key 'method' is missing; name at least one, for example method = \"kd\"")
    values = {key: _options(key, value) for key, value in flat.items()}
    for key, options in values.items():
        if not options:
            raise UserError(f"recipe key {key!r} is an empty list; give at least one value")
        if key in SPECS:
            values[key] = [canonical(option) for option in options]
    tables = {key: value for key, value in flat.items() if isinstance(value, Mapping) and "." not in key}
    names = {key: names_by_spec(key, arms, values[key]) for key, arms in tables.items()}
    for table, why in FIXED.items():
        for key, options in values.items():
            if key.startswith(f"{table}.") and len(options) > 1:
                raise UserError(f"recipe key {key!r} cannot be swept: {why}; give one value")
    ray = {key: options for key, options in values.items() if key.startswith("ray.")}
    keys = sorted((key for key in values if key not in ray), key=_rank)
    federations = tuple(
        dict.fromkeys(
            _bound_once(_federation(dict(zip(keys, choice, strict=True))), values.get("start", []))
            for choice in itertools.product(*(values[key] for key in keys))
        )
    )
    swept = tuple(key for key in keys if len(dict.fromkeys(map(repr, values[key]))) > 1)
    settings = _checked("ray", RaySettings, {key.removeprefix("ray."): options[0] for key, options in ray.items()})
    # Whether specs work together does not depend on the seed.
    alike: dict[Federation, Federation] = {}
    for federation in federations:
        alike.setdefault(replace(federation, seed=0), federation)
    for federation in alike.values():
        check(federation)
    check_models(settings, (model for federation in federations for model in federation.client_models))
    return Recipe(name, federations, swept, settings, flat, names=names)


def _bound_once(federation: Federation, starts: Sequence[Any]) -> Federation:
    """The federation itself; for a pooled method and several `starts`, the same federation for all of them."""
    bounds = len(starts) > 1 and schedule_of(federation).method.pools
    return replace(federation, start="pretrained") if bounds else federation


def check(federation: Federation) -> None:
    """Raise UserError if the specs of a federation do not work together. Reads no data."""
    for key, ids in (("students", federation.students), ("teachers", federation.teachers)):
        if absent := [client for client in ids if client >= federation.clients]:
            raise UserError(
                f"recipe key {key!r}: there is no client {absent[0]}; clients are 0 to {federation.clients - 1}"
            )
        if len(set(ids)) < len(ids):
            raise UserError(f"recipe key {key!r}: {list(ids)} names a client twice")
    known = labelled(federation.transfer)
    partition_strategy(federation.partition)
    for model in dict.fromkeys(federation.client_models):
        ARCHITECTURES.build(model)
    if federation.val != "local" and (federation.pretrain.epochs == "early_stopping" or federation.pretrain.target):
        raise UserError(
            'pre-training that watches validation accuracy needs val = "local", validation samples at the client; '
            f"found val = {federation.val!r}"
        )
    if federation.val == "none" and federation.save == "best":
        raise UserError('save = "best" goes by validation accuracy, and val = "none" holds no samples out; use "last"')
    _check_evaluation(federation)
    for table in (federation.pretrain, federation.train):
        augmentation(table.augment)
        SCHEDULES.build(table.schedule)
    schedule_of(federation).check(known)


def _check_evaluation(federation: Federation) -> None:
    """Raise UserError if what a federation asks for is not measured."""
    evaluate, schedule = federation.evaluate, schedule_of(federation)
    if federation.save == "best" and not ("val" in evaluate.on and "clients" in evaluate.of):
        raise UserError(
            "recipe key 'save': \"best\" is by validation accuracy of the clients, but [evaluate] on = "
            f"{list(evaluate.on)}, of = {list(evaluate.of)} leaves it out; "
            'add "val" and "clients", or use save = "last"'
        )
    if federation.val == "none" and evaluate.main == "val":
        raise UserError('[evaluate] on = ["val"]: val = "none" holds no samples out; add "test" or "local_test"')
    if "clients" not in evaluate.of and not schedule.method.has_global_model:
        raise UserError(
            f'[evaluate] of = ["server"]: in method {federation.method} the server has no model; add "clients"'
        )


def settings_of(federation: Federation) -> dict[str, Any]:
    """All settings under flat, dotted keys."""
    nested = TypeAdapter(Federation).dump_python(federation)
    return {key: value for key, value in _flat(nested).items() if key in known_keys()}


def _rank(key: str) -> int:
    """Sort rank of a key: slow keys first, methods last, so that federations with the same start are neighbours."""
    if key in _ORDER:
        return _ORDER.index(key)
    after_the_start = key == "rounds" or key.startswith("train.")
    return len(_ORDER) + (2 if key == "method" else int(after_the_start))


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and key not in NAMEABLE and "." not in key:
            if key not in TABLES:
                raise UserError(f"recipe table [{key}] is unknown; {nearest(key, [*TABLES, *NAMEABLE])}")
            flat |= {f"{key}.{inner}": option for inner, option in value.items()}
        elif key in TABLES:
            raise UserError(f"recipe key {key!r} is a table: write [{key}] and its keys below, found {value!r}")
        else:
            flat[key] = value
    return flat


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"--set {text!r}: it should be KEY=VALUE, for example --set rounds=5")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        if value.strip().startswith("{"):
            raise UserError(f"--set {text!r}: not a table of names ({error}); write {key}={{NAME='SPEC'}}") from error
        return key, value.strip()  # a bare word is text: --set method=kd


def _options(key: str, value: Any) -> list[Any]:
    """The values of one key: those of a sweep, or the only one."""
    if isinstance(value, Mapping):
        return [value] if key.startswith("ray.") else list(specs_of(key, value))
    if not isinstance(value, list):
        return [(value,)] if key in LISTS and isinstance(value, str) else [value]
    if key in LISTS:
        nested = any(isinstance(item, list) for item in value)
        return [tuple(item) if isinstance(item, list) else item for item in value] if nested else [tuple(value)]
    return value


def canonical(option: Any) -> Any:
    """A spec string, or a sum of them, in canonical spelling; other values unchanged."""
    return "+".join(str(parse(term)) for term in terms(option, "+")) if isinstance(option, str) else option


def _federation(flat: Mapping[str, Any]) -> Federation:
    nested: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        table, dot, inner = key.partition(".")
        if dot:
            tables.setdefault(table, {})[inner] = value
        else:
            nested[key] = value
    for table, inside in tables.items():
        nested[table] = _checked(table, TABLES[table], inside)
    return typing.cast("Federation", _checked("", Federation, nested))


def _checked(table: str, owner: type[Any], values: Mapping[str, Any]) -> Any:
    try:
        return owner(**values)
    except ValidationError as error:
        problem = first_problem(error)
        key = f"{table}.{problem.field}" if table else problem.field
        default = next((field.default for field in fields(owner) if field.name == problem.field), MISSING)
        example = f" (default {default!r})" if default is not MISSING else ""
        given = values.get(problem.field)
        raise UserError(f"recipe key {key!r}: {problem.message}{example}, found {given!r}") from error

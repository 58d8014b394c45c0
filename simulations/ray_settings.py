"""The `[ray]` table of a recipe. It is not in the engine, so that a recipe can be read without Flower."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError, nearest
from fedkd.base.spec import parse

AMOUNTS = ("num_cpus", "num_gpus")


def _address(given: str) -> str:
    if given in ("", "auto") or (re.fullmatch(r"[^\s:/]+:\d+", given) and int(given.rpartition(":")[2]) < 2**16):
        return given
    raise ValueError('it should be "" (this machine), "auto" (the cluster that runs here) or "HOST:PORT"')


def _of_models(given: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    for model, amounts in given.items():
        for name, amount in amounts.items():
            if name not in AMOUNTS:
                raise ValueError(f"{model}: {name!r} is unknown; {nearest(name, AMOUNTS)}")
            if amount < 0 or (amount == 0 and name == "num_cpus"):
                raise ValueError(f"{model}: {name} should be greater than 0")
    return given


@dataclass(frozen=True, config=STRICT)
class RaySettings:
    """The `[ray]` table: where clients run, and what each is given while it runs. It changes no result."""

    num_cpus: Annotated[float, Gt(0)] = 1.0
    """CPUs a client; there are never more workers than CPU cores, or than memory allows"""
    num_gpus: Annotated[float, Ge(0)] | Literal["auto"] = 0.0
    """GPUs a client, a share of one where below 1; "auto": a whole one, until it is measured how many clients fit"""
    address: Annotated[str, AfterValidator(_address)] = ""
    """a Ray cluster to run on: "auto" for one that runs on this machine, or HOST:PORT; empty: Ray on this machine"""
    shared_disk: bool | Literal["auto"] = "auto"
    """whether the nodes of a cluster see this machine's files; if not, data and state travel; "auto": looked for"""
    resources: Annotated[dict[str, dict[str, float]], AfterValidator(_of_models)] = field(default_factory=dict)
    """for clients of some models other num_cpus and num_gpus: resources = {resnet18 = {num_gpus = 0.5}}"""


def check_models(settings: RaySettings, models: Iterable[str]) -> None:
    """Raise UserError if `resources` names a model that no client has."""
    used = dict.fromkeys(models)
    for name in settings.resources:
        if not any(entry(settings.resources, model) == name for model in used):
            known = [*dict.fromkeys(parse(model).name for model in used), *used]
            raise UserError(f"recipe key 'ray.resources': no client has the model {name!r}; {nearest(name, known)}")


def entry(resources: Mapping[str, object], model: str) -> str:
    """The key of `resources` that a model's spec string comes under: the whole of it, or its name; "" for none."""
    if not resources:
        return ""
    spec = parse(model)
    return next((name for name in resources if name == spec.name or str(parse(name)) == str(spec)), "")

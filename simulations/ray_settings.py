"""The `[ray]` table of a recipe. It is not in the engine, so that a recipe can be read without Flower."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT


@dataclass(frozen=True, config=STRICT)
class RaySettings:
    """The `[ray]` table: what each client is given while it runs. It changes no result."""

    num_cpus: Annotated[float, Gt(0)] = 1.0
    """CPUs a client"""
    num_gpus: Annotated[float, Ge(0)] = 0.0
    """GPUs a client, a share of one where below 1"""

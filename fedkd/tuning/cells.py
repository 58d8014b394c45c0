"""A cell: one setting of a method and of its optimisation, with the label that results use."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import ValidationError

from fedkd.base.catalogue import parameters
from fedkd.base.errors import UserError, nearest
from fedkd.base.files import file_cache
from fedkd.base.problems import first_problem
from fedkd.base.spec import Spec, parse
from fedkd.method import METHODS, Method
from fedkd.settings.training import Training
from fedkd.tuning.grid import Grid, Point

OPTIMISATION = ("lr", "momentum", "weight_decay")
"""Keys of `[train]` that a grid may contain beside the parameters of the method. They change no number of steps."""


@dataclass(frozen=True)
class Cell:
    """One setting that is tried."""

    label: str
    """only the tuned parameters, as in `temperature=4.0,weight=0.5`"""
    method: Method
    training: Training
    point: Point | None
    """its point on the grid; None: it is the untuned cell, which is not on the grid"""


@file_cache(maxsize=4096)
def cell(method: str, grid: Grid, training: Training, point: Point | None) -> Cell:
    """The cell at a point of the grid; None: the method as given.

    Raises:
        UserError: the method refuses the values; the message names them.
    """
    spec, values = parse(method), {} if point is None else grid.values(point)
    known = {parameter.name for parameter in parameters(METHODS.find(spec))}
    described = ", ".join(f"{name}={value!r}" for name, value in values.items())
    try:
        arguments = spec.arguments | {name: value for name, value in values.items() if name in known}
        built = METHODS.build(str(Spec(spec.name, arguments, spec.file, spec.argument)))
        trained = replace(training, **{name: value for name, value in values.items() if name not in known})
    except ValidationError as error:
        raise UserError(f"grid, at {described}: {first_problem(error)}") from error
    except UserError as error:
        raise UserError(f"grid, at {described}: {error}" if values else str(error)) from error
    made = {name: getattr(built if name in known else trained, name) for name in grid.names}
    label = ",".join(f"{name}={value!r}" for name, value in made.items())
    return Cell(label, built, trained, grid.point(made) if point is None else point)


def check_names(method: str, grid: Grid) -> None:
    """Raise UserError if a grid has a parameter that neither the method nor the optimisation has."""
    entry = METHODS.find(parse(method))
    known = {parameter.name for parameter in parameters(entry)}
    for name in grid.names:
        if name not in known | set(OPTIMISATION):
            raise UserError(
                f"grid: unknown parameter {name!r} of method {method!r}; {nearest(name, known | set(OPTIMISATION))}"
            )

"""The engines: Flower on Ray, and Flower inline in one process.

Both provide *lanes*: a Flower grid and some of its nodes, each of which serves a group of clients. A lane runs one
federation at a time. Lanes run in parallel, so that workers stay busy while servers merge. All code that uses a
deprecated or private part of Flower, or Ray, is in this folder.
"""

from flwr.clientapp import ClientApp

from simulations.engine.inline import Inline as Inline
from simulations.engine.inline import InlineGrid as InlineGrid
from simulations.engine.jobs import NoWorkersError as NoWorkersError
from simulations.engine.lanes import Drive as Drive
from simulations.engine.lanes import Lane as Lane
from simulations.engine.on_ray import OnRay as OnRay
from simulations.ray_settings import RaySettings

Engine = Inline | OnRay


def chosen(runtime: str, app: ClientApp, settings: RaySettings, verbose: bool = False) -> Engine:
    """The engine "ray" or "inline": `begin` starts it, `close` ends it.

    Raises:
        UserError: a client is to have more CPUs or GPUs than there are.
    """
    return Inline(app, verbose) if runtime == "inline" else OnRay(app, settings, verbose)

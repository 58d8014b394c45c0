"""The two apps that `flwr run .` starts: one federation, with its settings from the run configuration.

    flwr run . --run-config "method='kd(temperature=4.0)' rounds=5" \\
        --federation-config "num-supernodes=10 client-resources-num-cpus=1"
"""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.flower.strategy import tidy_up, wait_for_nodes
from fedkd.node.holdings import Row
from fedkd.protocol.client import use_one_thread
from fedkd.protocol.schedule import schedule_of
from simulations.accuracy import Accuracy
from simulations.data import load_holdings
from simulations.recipe import expand

client = client_app(load_holdings)
server = ServerApp()
_LOG = logging.getLogger("flwr")


@server.main()
def main(grid: Grid, context: Context) -> None:
    """One federation on whatever nodes the grid has; each round is logged, and journalled where `out` is a folder."""
    from simulations.folder import ResultsFolder
    from simulations.identity import header_of
    from simulations.preparing import skew_rows

    use_one_thread()
    config = dict(context.run_config)
    out = str(config.pop("out", ""))
    if not config.get("clients"):
        wait_for_nodes(grid, 2)
        config["clients"] = len(list(grid.get_node_ids()))
    recipe = expand("flwr", {}, [f"{key}={value}" for key, value in config.items()])
    federation = recipe.federations[0]
    journal = ResultsFolder(Path(out)).journal(header_of(federation)) if out else None
    nodes = wait_for_nodes(grid, federation.clients)
    last_round, accuracy = schedule_of(federation).last_round, Accuracy(federation)

    def on_round(number: int, rows: list[Row]) -> None:
        if journal:
            journal.append(number, rows if number else [*rows, *skew_rows(federation)])
        accuracy.add(number, rows)
        if number in accuracy.by_round:
            split = federation.evaluate.main
            _LOG.info("round %d of %d: mean %s accuracy %.3f", number, last_round, split, accuracy.by_round[number])
        else:
            _LOG.info("round %d of %d", number, last_round)

    Rounds(federation, load_holdings).start(grid, nodes, on_round)
    tidy_up(grid, nodes)

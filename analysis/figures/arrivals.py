"""Shares of seeds that have reached a target, by method."""

from collections.abc import Iterator

from analysis.drawing.arrivals import arrivals_against
from analysis.drawing.picture import Sheet
from analysis.figure import Block, Figure
from analysis.measures.targets import REFERENCE, SHARE, arrivals, arrivals_caption, reading_split, share_targets
from analysis.results.names import base_name
from analysis.results.units import percent


class Arrivals(Figure):
    order = 70

    def sheets(self, block: Block) -> Iterator[Sheet]:
        others = block.table[[base_name(method) != REFERENCE for method in block.table["method"]]]
        several_seeds = block.results and block.summary.scores["seed"].nunique() > 1
        if not several_seeds or others["method"].nunique() in (0, block.table["method"].nunique()):
            return
        split = reading_split(block.table)
        targets = share_targets(block.table, SHARE, split=split)
        reached = arrivals(others, targets)
        yield Sheet(
            f"Rounds to {percent(SHARE, 0)} % of {REFERENCE}",
            arrivals_caption(split, targets.notes, block.summary.evaluated.delay),
            block.panels(arrivals_against, reached, styles=block.styles),
            width=3.5,
        )

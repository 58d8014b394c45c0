"""Shares of seeds that have reached a target, by start."""

from collections.abc import Iterator
from functools import partial

from analysis.drawing.arrivals import arrivals_against
from analysis.drawing.picture import Panel, Sheet
from analysis.drawing.style import looks
from analysis.figure import Block, Figure
from analysis.measures.targets import REFERENCE, SHARE, arrivals, arrivals_caption, reading_split, share_targets
from analysis.results.names import base_name
from analysis.results.units import percent


class Starts(Figure):
    order = 20
    of_study = True

    def sheets(self, block: Block) -> Iterator[Sheet]:
        """How soon the same method reaches its target from each start, the rounds of the consolidation included: a
        panel for each method, partition and other settings that differ."""
        if "start" not in block.table.columns or block.table["start"].nunique() < 2:
            return
        split = reading_split(block.table)
        targets = share_targets(block.table, SHARE, split=split)
        learners = block.table[[base_name(method) != REFERENCE for method in block.table["method"]]]
        reached = block.shown(arrivals(learners, targets))
        styles = looks(list(dict.fromkeys(str(name) for name in reached["start"])))
        known = ["federation", "method", "seed", "start", "target", "rounds_to_target", "bytes_to_target"]
        settings = [key for key in reached.columns if key not in known]
        keys = [key for key in settings if key == "partition" or reached[key].nunique() > 1]
        panels: list[Panel] = []
        for values, panel in reached.groupby(["method", *keys], sort=False):
            if panel["start"].nunique() > 1:
                title = " · ".join(map(str, values))
                panels.append((title, partial(arrivals_against, panel, by="start", styles=styles)))
        if panels:
            caption = arrivals_caption(split, targets.notes, block.summary.evaluated.delay)
            yield Sheet(
                f"Rounds to {percent(SHARE, 0)} % of {REFERENCE} by start",
                f"Lines are starts; rounds of a consolidation count. {caption}",
                panels,
            )

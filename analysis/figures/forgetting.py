"""Forgetting against gain."""

from collections.abc import Iterator

from analysis.drawing.picture import Sheet
from analysis.figure import Block, Figure


class Forgetting(Figure):
    order = 100

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if block.differs("forgetting"):
            yield Sheet(
                "Forgetting against gain",
                "Across: accuracy on the client's own distribution lost since round 0; up: gain in "
                f"{block.split} accuracy. Top left gains without forgetting. Bars: intervals over seeds.",
                block.scatter("forgetting", "forgetting on the own distribution, points"),
                width=4.0,
            )

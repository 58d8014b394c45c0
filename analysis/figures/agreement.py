"""Agreement of student and teacher against gain."""

from collections.abc import Iterator

from analysis.drawing.picture import Sheet
from analysis.figure import Block, Figure


class Agreement(Figure):
    order = 120

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if block.differs("agreement"):
            yield Sheet(
                "Agreement against gain",
                "Across: share of transfer samples where student and merged teacher name the same class, last round.",
                block.scatter("agreement", "agreement with the merged teacher (%)"),
                width=4.0,
            )

"""Agreement of student and teacher against gain."""

from collections.abc import Iterator

from analysis.drawing.picture import Sheet
from analysis.figure import Block, Figure
from analysis.results.metrics import METRICS


class Agreement(Figure):
    order = 120

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if block.differs("agreement"):
            yield Sheet(
                "Agreement against gain",
                "Across: share of transfer samples where student and merged teacher name the same class, last round.",
                block.scatter("agreement", f"{METRICS['agreement'].label} (%)"),
                width=4.0,
            )

"""Accuracy of the teachers against gain."""

from collections.abc import Iterator

from analysis.drawing.picture import Sheet
from analysis.figure import Block, Figure
from analysis.results.metrics import METRICS


class TeacherAccuracy(Figure):
    order = 130

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if block.differs("teacher_accuracy"):
            yield Sheet(
                "Teachers against gain",
                "Across: share of transfer samples on which the merged soft labels name the true class.",
                block.scatter("teacher_accuracy", f"{METRICS['teacher_accuracy'].label} (%)"),
                width=4.0,
            )

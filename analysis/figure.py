"""What a figure of the report is: it takes the results of a block and gives the sheets that have something to say."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.picture import Panel, Sheet
from analysis.drawing.rows import rows_height
from analysis.drawing.scatter import gain_against
from analysis.drawing.style import Look, looks
from analysis.measures.summary import Summary
from analysis.results.names import base_name
from analysis.statistics.intervals import INTERVAL_FROM

NOTABLE = 0.02
"""A change or a gap below two points is not worth a figure."""


class Figure(ABC):
    """One figure of the report. A file of `analysis/figures` holds one, and its name is the name of the file."""

    order: ClassVar[int]
    """Where it stands in the report: figures with lower numbers come first."""
    of_study: ClassVar[bool] = False
    """Drawn once, of the whole study, instead of once for each block."""

    @abstractmethod
    def sheets(self, block: "Block") -> Iterator[Sheet]:
        """The sheets of this figure, most often one; none where it has nothing to say."""


@dataclass(frozen=True)
class Block:
    """What a figure can draw from: the results of one block, or of the whole study."""

    table: pd.DataFrame
    """Long rows of finished federations; where none has finished, of all, as far as they go."""
    summary: Summary
    """The comparison of this block, without rows where no federation has finished."""
    title: str = ""
    """Its settings in words; empty for the whole study."""
    order: Sequence[str] = ()
    """Methods in the order of the study, so that every block gives a method the same look."""
    splits: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    """The partitions of the study, as study.json lists them."""
    times: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    """The rounds of the last run with their seconds by part, if it was profiled: see `analysis.results.times`."""

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of the comparison, one for each partition and method."""
        return self.summary.rows

    @cached_property
    def styles(self) -> dict[str, Look]:
        """Looks by what each method is called."""
        methods = self.order or list(dict.fromkeys(map(str, self.table["method"])))
        named = {self.name("method", method): base_name(method) for method in methods}
        return looks(list(named), named)

    @cached_property
    def measured(self) -> dict[str, pd.DataFrame]:
        """Rows of the table by partition, in the order of the comparison."""
        names = list(dict.fromkeys(self.rows["partition"])) or list(dict.fromkeys(self.table["partition"]))
        return {str(name): self.table[self.table["partition"] == name] for name in names}

    @cached_property
    def results(self) -> dict[str, pd.DataFrame]:
        """Rows of the comparison by partition; empty where no federation has finished."""
        each = {name: self.rows[self.rows["partition"] == name] for name in self.measured}
        return {name: rows for name, rows in each.items() if len(rows)}

    @property
    def height(self) -> float:
        """Inches of a panel with a row for each method, the same for all panels of the block."""
        return max((rows_height(self.shown(rows)["method"]) for rows in self.results.values()), default=0.9)

    @cached_property
    def seeds(self) -> str:
        """How many seeds there are, in words."""
        numbers = self.table.groupby(["partition", "method"])["seed"].nunique()
        least, most = int(numbers.min()), int(numbers.max())
        if least < most:
            return f"{least} to {most} seeds"
        return f"{most} seeds" if most != 1 else "one seed"

    @property
    def lines(self) -> str:
        """What lines, bands, dots and bars are, for a caption."""
        few = f" (none below {INTERVAL_FROM} seeds)" * (self.table["seed"].nunique() < INTERVAL_FROM)
        level = f"{100 * self.summary.level:g} %"
        return f"Line or dot: mean over {self.seeds}; band or bar: {level} Student-t interval over seeds{few}."

    @property
    def split(self) -> str:
        """The split whose accuracy is that of the study."""
        return self.summary.evaluated.split

    @property
    def several(self) -> str:
        """What a caption says of several panels whose axes differ."""
        return "Axes differ between panels. " if len(self.measured) > 1 else ""

    def name(self, key: str, value: object) -> str:
        """What a value of a recipe key is called."""
        return self.summary.names.of(key, value)

    def shown(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame whose values have the names that a reader is to see."""
        keys = [key for key in self.summary.names.by_key if key in frame.columns]
        return frame.assign(**{key: [self.name(key, value) for value in frame[key]] for key in keys})

    def differs(self, score: str) -> bool:
        """Whether some panel has methods that differ notably in a score of the comparison."""
        if not self.results:
            return False
        scores = self.rows.groupby("partition")[score]
        return bool((scores.max() - scores.min()).max() >= NOTABLE)

    def panels(
        self, draw: Callable[..., Axes], frame: pd.DataFrame | None = None, *, score: str = "", **more: Any
    ) -> list[Panel]:
        """A panel for each partition that has rows: `draw(rows, ax, **more)`.

        frame: with columns partition and method; by default the comparison itself. Methods are in the order of the
        comparison. score: a column that some row of a panel has to know.
        """
        panels: list[Panel] = []
        for name, rows in self.results.items():
            part = rows if frame is None else _in_order(frame, rows)
            if len(part) and (not score or part[score].notna().any()):
                panels.append((self.name("partition", name), partial(_draw, draw, self.shown(part), more)))
        return panels

    def curves(self, draw: Callable[..., Axes]) -> list[Panel]:
        """A panel for each partition, drawn from the long rows of the table."""
        panels: list[Panel] = []
        for name, rows in self.measured.items():
            part = self.shown(rows)
            present = set(part["method"])
            styles = {method: look for method, look in self.styles.items() if method in present}
            more = {"level": self.summary.level, "styles": styles}
            panels.append((self.name("partition", name), partial(_draw, draw, part, more)))
        return panels

    def scatter(self, score: str, label: str) -> list[Panel]:
        """A panel for each partition: gain against another score of the comparison. label: of the x axis."""
        return self.panels(gain_against, score=score, column=score, label=label, styles=self.styles, split=self.split)


def _draw(draw: Callable[..., Axes], rows: pd.DataFrame, more: Mapping[str, Any], ax: Axes) -> Axes:
    return draw(rows, ax, **more)


def _in_order(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame that belong to a panel, its methods in the order of the comparison."""
    order = {method: number for number, method in enumerate(rows["method"])}
    part: pd.DataFrame = frame[(frame["partition"] == rows["partition"].iloc[0]) & frame["method"].isin(list(order))]
    return part.iloc[part["method"].map(order).argsort(kind="stable")]

"""Where the time of a round went."""

from collections.abc import Iterator
from functools import partial

from analysis.drawing.picture import Sheet
from analysis.drawing.rows import rows_height
from analysis.drawing.times import COLORS, stacked_times
from analysis.figure import Block, Figure


class Profile(Figure):
    order = 900
    of_study = True

    def sheets(self, block: Block) -> Iterator[Sheet]:
        """Mean seconds of a round by part, for a study that was run with `--profile`."""
        rounds = block.times[block.times["round"].notna()] if len(block.times) else block.times
        if rounds.empty:
            return
        known = list(dict.fromkeys([*block.order, *rounds["method"]]))
        rounds = rounds.iloc[rounds["method"].map(known.index).argsort(kind="stable")]
        # The start is round 0: it pre-trains, which is not what a round does.
        start, later = rounds[rounds["round"] == 0], rounds[rounds["round"] > 0]
        panels = [
            (title, partial(stacked_times, block.shown(part).drop(columns="start-up")))
            for title, part in (("a round", later), ("the start", start))
            if len(part)
        ]
        startup = block.times.loc[block.times["round"].isna(), "start-up"].sum()
        shares = later[[part for part in COLORS if part in later.columns]].sum()
        largest = str(shares.idxmax()) if shares.sum() else "training"
        yield Sheet(
            f"Where the time goes: most of a round is {largest}" if len(later) else "Where the time of the start goes",
            "Mean seconds by the clock of a round and of the start, which pre-trains or loads what was pre-trained. "
            "waiting: for workers that are busy with other federations. What workers do side by side is counted once. "
            f"Before the first round the study took {startup:.1f} s.",
            panels,
            width=4.6,
            height=rows_height(list(dict.fromkeys(map(str, rounds["method"])))),
            most=2,
            same_rows=True,
        )

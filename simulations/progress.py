"""Progress over federations and rounds, with time left: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedkd.federation import Federation
from simulations.study import Watcher


class Bar(Watcher):
    """Shows what a study tells; used as a context, in which the bar is on the screen."""

    def __init__(self, out: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._out = out
        self._bar = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
        self._task = self._bar.add_task("rounds", total=None, visible=False)
        self._federations = self._rounds = self._finished = self._complete = 0
        self._began = time.monotonic()
        self._tenth = -1

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def preparing(self, what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth != self._tenth:
            self._tenth = tenth
            self._out.print(f"preparing {escape(what)}: {done} of {total}")

    def begins(self, federations: int, rounds: int) -> None:
        self._federations, self._rounds, self._began = federations, rounds, time.monotonic()
        if not federations:
            self._out.print("all federations are complete already")
            return
        self._out.print(f"{federations} to run, {rounds} rounds in all; starting workers")
        self._bar.update(self._task, total=rounds, visible=True)

    def superseded(self, federations: int, why: str, folder: Path) -> None:
        which = "1 federation" if federations == 1 else f"{federations} federations"
        self._out.print(f"{escape(why)}: {which} set aside in {escape(str(folder))}, to be run again")

    def round(self, federation: Federation, number: int) -> None:
        del federation, number
        self._complete += 1
        self._bar.advance(self._task)

    def finished(self, federation: Federation, accuracy: dict[int, float]) -> None:
        self._finished += 1
        spent = time.monotonic() - self._began
        left = spent / max(self._complete, 1) * (self._rounds - self._complete)
        self._out.print(
            f"[dim]{self._finished:>4}/{self._federations}[/]  "
            f"{accuracy[min(accuracy)]:.3f} → {accuracy[max(accuracy)]:.3f}  {escape(federation.method)}, "
            f"{escape(federation.partition)}, seed {federation.seed}  [dim]{spent:.0f} s, about {left:.0f} s left[/]"
        )

    def failed(self, federation: Federation, why: str) -> None:
        del federation
        self._out.print(f"[red]failed[/] {escape(why)}")

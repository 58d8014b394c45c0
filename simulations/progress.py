"""Progress over federations and rounds, with time left: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fedkd.settings.federation import Federation
from simulations.watcher import Watcher


class Bar(Watcher):
    """Shows the progress of a study. It is a context manager; the bar is on the screen inside it.

    Each round counts 1; the start, which is round 0, counts by the share of clients that have started. The time left
    is shown after the first complete federation. It assumes that all rounds take the same time.
    """

    def __init__(self, out: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._out = out
        self._bar = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
        self._task = self._bar.add_task("rounds", total=None, visible=False, left="")
        self._federations = self._rounds = self._finished = self._complete = 0
        self._starting: dict[Federation, tuple[int, int]] = {}
        """(clients that have started, clients) of federations in round 0"""
        self._began = time.monotonic()
        self._tenth = -1

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def done(self) -> float:
        """Number of complete rounds; a start counts by the share of clients that have started."""
        return self._complete + sum(done / clients for done, clients in self._starting.values())

    def left(self) -> float | None:
        """Seconds that the rest will take; None before the first federation is complete."""
        if not self._finished:
            return None
        return (time.monotonic() - self._began) / self.done * (self._rounds - self.done)

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

    def starting(self, federation: Federation, done: int, clients: int) -> None:
        self._starting[federation] = done, clients
        self._show()

    def round(self, federation: Federation, number: int) -> None:
        del number
        self._starting.pop(federation, None)
        self._complete += 1
        self._show()

    def finished(self, federation: Federation, accuracy: dict[int, float]) -> None:
        self._finished += 1
        self._show()
        main = federation.evaluate.main
        split = f" ({main})" if main != "test" else ""
        spent, left = time.monotonic() - self._began, self.left()
        self._out.print(
            f"[dim]{self._finished:>4}/{self._federations}[/]  "
            f"{accuracy[min(accuracy)]:.3f} → {accuracy[max(accuracy)]:.3f}{split}  {escape(federation.method)}, "
            f"{escape(federation.partition)}, seed {federation.seed}  [dim]{spent:.0f} s, about {left:.0f} s left[/]"
        )

    def failed(self, federation: Federation, why: str) -> None:
        self._starting.pop(federation, None)
        self._show()
        self._out.print(f"[red]failed[/] {escape(why)}")

    def _show(self) -> None:
        starting = [each for each in self._starting.values() if each[0] < each[1]]
        what = f"rounds; {starting[0][0]} of {starting[0][1]} clients have their start" if starting else "rounds"
        left = self.left()
        text = "" if left is None else f"about {left:.0f} s left"
        self._bar.update(self._task, completed=self.done, description=what, left=text)

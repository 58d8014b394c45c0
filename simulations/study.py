"""A study: all federations of a recipe, several at a time, each resumed after its last complete round."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from fedkd.base.files import forget_files, look_beside
from fedkd.base.own_code import reason
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.node.holdings import Row
from fedkd.protocol.client import use_one_thread
from fedkd.settings.federation import Federation
from simulations import engine
from simulations.accuracy import Accuracy
from simulations.data import load_holdings
from simulations.engine import Engine, Lane
from simulations.folder import ResultsFolder
from simulations.identity import header_of
from simulations.journal import Journal
from simulations.preparing import prepare, skew_rows
from simulations.profile import Profile
from simulations.queue import Queue
from simulations.recipe import Recipe
from simulations.superseding import FOLDER as SUPERSEDED
from simulations.superseding import set_aside
from simulations.watcher import Watcher


class StudyError(RuntimeError):
    """Some federations failed. Complete rounds are on disk, and another run resumes the rest."""


class Interrupted(Exception):  # noqa: N818 - a wish, not an error
    """The user stopped the study. Another run resumes it."""


@dataclass
class Study:
    """The federations of one recipe and the folder of their results."""

    recipe: Recipe
    out: Path
    stop: threading.Event = field(default_factory=threading.Event)
    """set it to end the study after the exchanges in flight"""
    profile: Profile = field(default_factory=Profile)
    """where the time of this run goes"""

    def run(
        self, runtime: str = "ray", lanes: int | None = None, verbose: bool = False, watcher: Watcher | None = None
    ) -> None:
        """Run all unfinished federations, then rebuild the result table.

        Raises:
            UserError: data, partition or results folder cannot be used; nothing has run.
            StudyError: federations failed.
            Interrupted: `stop` was set.
        """
        watcher = watcher or Watcher()
        use_one_thread()
        look_beside([self.recipe.folder] if self.recipe.folder else [])
        forget_files()
        with closing(engine.chosen(runtime, client_app(load_holdings), self.recipe.ray, verbose)) as chosen:
            self._run(chosen, lanes, watcher)

    def _run(self, chosen: Engine, lanes: int | None, watcher: Watcher) -> None:
        partitions = prepare(self.recipe.federations, watcher.preparing)
        headers = [header_of(federation) for federation in self.recipe.federations]
        folder = ResultsFolder(self.out)
        with folder.locked():
            for why, count in set_aside(self.out, {header["federation"]: header for header in headers}).items():
                watcher.superseded(count, why, self.out / SUPERSEDED)
            folder.describe(self.recipe, headers, partitions)
            journals = [folder.journal(header) for header in headers]
            failures = self._run_unfinished(folder, journals, chosen, lanes, watcher)
            folder.remove_empty_state()
            if folder.has_journals:
                from analysis.results.table import rebuild  # imports pandas, which nothing before it needs

                rebuild(self.out)
        if self.stop.is_set():
            raise Interrupted
        if failures:
            raise StudyError(
                f"{len(failures)} of {len(headers)} federations failed; the others are complete, and "
                f"the same command resumes these. First: {sorted(failures)[0]}"
            )

    def _run_unfinished(
        self,
        folder: ResultsFolder,
        journals: Sequence[Journal],
        chosen: Engine,
        lanes: int | None,
        watcher: Watcher,
    ) -> list[str]:
        """Run the federations whose last round is not in their journal; returns the reasons of those that failed."""
        unfinished: list[tuple[Federation, Journal]] = []
        missing = 0
        for federation, journal in zip(self.recipe.federations, journals, strict=True):
            if rounds := journal.missing():
                unfinished.append((federation, journal))
                missing += rounds
            else:
                folder.save_models(federation, journal)  # an earlier run may have been killed before it
        watcher.begins(len(unfinished), missing)
        if not unfinished:
            return []
        chosen.begin(self.profile.started, [federation for federation, _ in unfinished], self.out)
        runs = _Runs(folder, Queue(unfinished), self.stop, watcher, self.profile)
        clients = max(federation.clients for federation, _ in unfinished)
        width = min(lanes or chosen.lanes(clients, len(unfinished)), len(unfinished))
        try:
            chosen.run(runs.drive, clients, width)
        except engine.NoWorkersError as error:
            raise StudyError(f"{error}; complete rounds are kept, and the same command goes on from there") from error
        return runs.failures


@dataclass
class _Runs:
    """The federations of a study that run now, with one thread for each lane."""

    folder: ResultsFolder
    queue: Queue
    stop: threading.Event
    watcher: Watcher
    profile: Profile
    failures: list[str] = field(default_factory=list)
    """the reason of each federation that failed"""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """one callback of the watcher at a time"""

    def drive(self, lanes: Sequence[Lane]) -> None:
        """Run the queue. An exception in a thread is raised here, except for failures of federations."""
        crashes: list[BaseException] = []

        def work(lane: Lane) -> None:
            try:
                while not self.stop.is_set() and (taken := self.queue.take(self.stop)):
                    self._run(lane, *taken)
            except BaseException as error:
                crashes.append(error)
                self.stop.set()

        threads = [threading.Thread(target=work, args=(lane,), name=f"lane-{i}") for i, lane in enumerate(lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if crashes:
            raise crashes[0]

    def _run(self, lane: Lane, federation: Federation, journal: Journal) -> None:
        """Run one federation, beginning after its last complete round."""
        state = self.folder.state(journal)
        accuracy = Accuracy(federation)

        def on_round(number: int, rows: list[Row]) -> None:
            journal.append(number, rows if number else [*rows, *skew_rows(federation)])
            accuracy.add(number, rows)
            self.profile.add(federation, number, rounds.seconds)
            self.queue.started(federation)
            with self._lock:
                self.watcher.round(federation, number)
            if self.stop.is_set():
                raise Interrupted

        def on_start(done: int, clients: int) -> None:
            with self._lock:
                self.watcher.starting(federation, done, clients)

        try:
            rounds = Rounds(federation, load_holdings, state)
            done = journal.complete()
            if done < 0 or not rounds.resume(done):
                shutil.rmtree(state, ignore_errors=True)
                journal.begin()
                rounds = Rounds(federation, load_holdings, state)
            else:
                for number, rows in enumerate(journal.rounds()):
                    accuracy.add(number, rows)
            rounds.kinds, rounds.least = lane.kinds(federation), lane.least
            rounds.start(lane.grid, lane.nodes, on_round, on_start=on_start)
        except Interrupted:
            return
        except engine.NoWorkersError:
            raise
        except Exception as error:
            why = f"{federation.method}, {federation.partition}, seed {federation.seed}: {reason(error)}"
            self.failures.append(why)
            with self._lock:
                self.watcher.failed(federation, why)
            return
        finally:
            self.queue.started(federation)
        self.folder.save_models(federation, journal)
        with self._lock:
            self.watcher.finished(federation, accuracy.by_round)

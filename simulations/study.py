"""A study: every federation of a recipe, several in flight, each resumed from where it was stopped."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.results.table import rebuild
from fedkd.base.errors import UserError
from fedkd.base.files import forget_files, look_beside
from fedkd.base.numerics import NUMERICS
from fedkd.base.own_code import reason
from fedkd.data import load
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.node.holdings import Row
from fedkd.node.node import SERVER
from fedkd.protocol.client import use_one_thread
from fedkd.protocol.keeping import kept_model
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from simulations import engine
from simulations.contents import contents
from simulations.data import load_holdings
from simulations.engine import Lane
from simulations.identity import identify, with_defaults
from simulations.journal import Journal
from simulations.provenance import commit, hardware, versions
from simulations.queue import Queue
from simulations.recipe import Recipe, settings_of
from simulations.splits import SplitKey, split_key, split_of
from simulations.superseding import FOLDER as SUPERSEDED
from simulations.superseding import set_aside


class Watcher:
    """What a study tells whoever watches; it calls from its threads, one at a time. Here: nobody does."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Data are being prepared."""

    def begins(self, federations: int, rounds: int) -> None:
        """So many federations and rounds are still to run."""

    def superseded(self, federations: int, why: str, folder: Path) -> None:
        """Older results were moved to a folder, because newer ones replace them."""

    def starting(self, federation: Federation, done: int, clients: int) -> None:
        """So many of a federation's clients have their start, which may have been trained just now."""

    def round(self, federation: Federation, number: int) -> None:
        """A round is complete."""

    def finished(self, federation: Federation, accuracy: dict[int, float]) -> None:
        """A federation is complete; its mean test accuracy at the start and after the rounds of this run."""

    def failed(self, federation: Federation, why: str) -> None:
        """A federation has failed."""


class StudyError(RuntimeError):
    """Some federations failed; what is complete is kept, and running again resumes the rest."""


class Interrupted(Exception):  # noqa: N818 - a wish, not an error
    """The user stopped the study; running it again resumes it."""


@dataclass
class Study:
    """The federations of one recipe and the folder of their results."""

    recipe: Recipe
    out: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _headers: dict[Federation, dict[str, Any]] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    """set it to end the study after the exchanges in flight"""

    def run(
        self, runtime: str = "ray", lanes: int | None = None, verbose: bool = False, watcher: Watcher | None = None
    ) -> None:
        """Run what is not finished yet, then rebuild the result table.

        Raises:
            UserError: data, partition or results folder cannot be used; nothing has run.
            StudyError: federations failed.
            Interrupted: `stop` was set.
        """
        watcher = watcher or Watcher()
        use_one_thread()
        look_beside([self.recipe.folder] if self.recipe.folder else [])
        forget_files()
        if runtime != "inline":
            engine.check_resources(self.recipe.ray)
        splits = self._prepare(watcher)
        headers = {header["federation"]: header for header in map(self.header, self.recipe.federations)}
        with self._folder():
            for why, count in set_aside(self.out, headers).items():
                watcher.superseded(count, why, self.out / SUPERSEDED)
            self._describe(splits)
            journals = [(federation, self.open(federation)) for federation in self.recipe.federations]
            pending = [(f, journal) for f, journal in journals if journal.complete() < last_round(f)]
            for federation, journal in journals:
                if journal.complete() >= last_round(federation):
                    self._keep_models(federation, self._store(journal))  # a kill may have come before it
            watcher.begins(len(pending), sum(last_round(f) - journal.complete() for f, journal in pending))
            failures: list[str] = []
            if pending:
                clients = max(federation.clients for federation, _ in pending)
                width = min(lanes or engine.lanes_for(clients, len(pending), self.recipe.ray), len(pending))
                queue, app = Queue(pending), client_app(load_holdings)

                def drive(opened: list[Lane]) -> None:
                    self._drive(opened, queue, watcher, failures)

                if runtime == "inline":
                    engine.inline(app, drive, clients, width, verbose)
                else:
                    engine.on_ray(app, drive, clients, width, self.recipe.ray, verbose)
            with contextlib.suppress(OSError):
                (self.out / "state").rmdir()  # goes unless an unfinished federation has left something there
            if any((self.out / "journal").glob("*.jsonl")):
                rebuild(self.out)
        if self.stop.is_set():
            raise Interrupted
        if failures:
            raise StudyError(
                f"{len(failures)} of {len(self.recipe.federations)} federations failed; the others are complete, and "
                f"the same command resumes these. First: {sorted(failures)[0]}"
            )

    def header(self, federation: Federation) -> dict[str, Any]:
        """What the journal of a federation begins with: all that its numbers are made of.

        Raises:
            UserError: a file that it depends on cannot be read.
        """
        if federation not in self._headers:
            read = contents(federation)
            self._headers[federation] = {
                "federation": identify(federation, read),
                "rounds": last_round(federation),
                "settings": settings_of(federation),
                "models": federation.client_models,
                "contents": read,
                "numerics": NUMERICS,
            }
        return self._headers[federation]

    def open(self, federation: Federation) -> Journal:
        """The journal of one federation, begun where there is none."""
        header = self.header(federation)
        journal = Journal(self.out / "journal" / f"{header['federation']}.jsonl", header)
        if journal.complete() < 0:
            journal.begin()
        return journal

    @contextmanager
    def _folder(self) -> Iterator[None]:
        """The results folder, for this process alone; a folder this run has made is removed if nothing came of it."""
        import fcntl

        new = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            lock = (self.out / ".lock").open("w")
        except OSError as error:
            raise UserError(f"--out {self.out}: cannot be written ({error.strerror}); choose another folder") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"--out {self.out}: another run is writing there; wait for it or choose another"
                ) from error
            try:
                yield
            finally:
                (self.out / ".lock").unlink(missing_ok=True)
                for folder in new:
                    with contextlib.suppress(OSError):
                        folder.rmdir()  # goes if nothing came of it

    def _prepare(self, watcher: Watcher) -> list[dict[str, Any]]:
        """Load data and deal partitions before anything is written: whatever is wrong with them is found here."""
        splits: dict[SplitKey, dict[str, Any]] = {}
        tried: set[tuple[object, ...]] = set()
        for federation in self.recipe.federations:
            place = split_key(federation)
            if place in splits:
                _try_models(federation, tried)
                continue
            dataset = load(federation.dataset, watcher.preparing)
            split = split_of(federation)
            labels = dataset.labels[dataset.train].numpy()
            splits[place] = {
                **dict(zip(("dataset", "partition", "seed", "clients"), place, strict=False)),
                "sha256": split.sha256,
                "classes": list(dataset.classes),
                "counts": split.counts(labels, len(dataset.classes)).tolist(),
                "transfer": len(split.transfer),
                "val": sum(map(len, split.val)) if isinstance(split.val, tuple) else len(split.val),
            }
            _try_models(federation, tried)
        return list(splits.values())

    def _describe(self, partitions: list[dict[str, Any]]) -> None:
        path = self.out / "study.json"
        try:
            before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            known = before.get("partitions", [])
            earlier = dict(before.get("federations", {}))
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise UserError(f"{path}: not a study ({error}); remove it or choose another --out") from error
        journals = self.out / "journal"
        current = {self.header(f)["federation"]: settings_of(f) for f in self.recipe.federations}
        kept = {n: with_defaults(settings) for n, settings in earlier.items() if (journals / f"{n}.jsonl").is_file()}
        described = {
            "recipe": dict(self.recipe.source),
            "name": self.recipe.name,
            **({"names": self.recipe.names} if self.recipe.names else {}),
            "swept": sorted({*self.recipe.swept, *_varying(list(current.values()))}),
            "current": list(current),
            "federations": kept | current,
            "numerics": NUMERICS,
            "versions": versions(),
            "hardware": hardware(),
            "commit": commit(),
            "partitions": [split for split in known if _dealt(split) not in map(_dealt, partitions)] + partitions,
        }
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(described, indent=1), encoding="utf-8")
        partial.replace(path)

    def _store(self, journal: Journal) -> Path:
        return (self.out / "state" / str(journal.header["federation"])).absolute()

    def _keep_models(self, federation: Federation, store: Path) -> None:
        """Move the kept models of a complete federation to `models/<federation>`, and forget the rest of its state."""
        for client in range(federation.clients if federation.save != "none" else 0):
            if (model := kept_model(store, client)).is_file():
                folder = self.out / "models" / store.name
                folder.mkdir(parents=True, exist_ok=True)
                model.replace(folder / f"client-{client}.safetensors")
        shutil.rmtree(store, ignore_errors=True)

    def _drive(self, lanes: list[Lane], queue: Queue, watcher: Watcher, failures: list[str]) -> None:
        crashes: list[BaseException] = []

        def work(lane: Lane) -> None:
            try:
                while not self.stop.is_set() and (taken := queue.take(self.stop)):
                    self._run_one(lane, *taken, queue, watcher, failures)
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

    def _run_one(
        self,
        lane: Lane,
        federation: Federation,
        journal: Journal,
        queue: Queue,
        watcher: Watcher,
        failures: list[str],
    ) -> None:
        store = self._store(journal)
        accuracy: dict[int, float] = {}

        def on_round(number: int, rows: list[Row]) -> None:
            journal.append(number, rows if number else [*rows, *skew_rows(federation)])
            accuracy[number] = mean_accuracy(rows)
            queue.started(federation)
            with self._lock:
                watcher.round(federation, number)
            if self.stop.is_set():
                raise Interrupted

        def on_start(done: int, clients: int) -> None:
            with self._lock:
                watcher.starting(federation, done, clients)

        try:
            rounds = Rounds(federation, load_holdings, store)
            done = journal.complete()
            if done < 0 or not rounds.resume(done):
                shutil.rmtree(store, ignore_errors=True)
                journal.begin()
                rounds = Rounds(federation, load_holdings, store)
            else:
                accuracy[0] = mean_accuracy(journal.rows(0))
            rounds.start(lane.grid, lane.nodes, on_round, on_start=on_start)
        except Interrupted:
            return
        except Exception as error:
            why = f"{federation.method}, {federation.partition}, seed {federation.seed}: {reason(error)}"
            failures.append(why)
            with self._lock:
                watcher.failed(federation, why)
            return
        finally:
            queue.started(federation)
        self._keep_models(federation, store)
        with self._lock:
            watcher.finished(federation, accuracy)


def last_round(federation: Federation) -> int:
    """Number of a federation's last round, those that make a common start included."""
    return schedule_of(federation).last_round


def skew_rows(federation: Federation) -> list[Row]:
    """How skewed the partition is, as rows of the start; measures as in `partitions.measures`."""
    measures = split_of(federation).measures
    names = {"samples": "train_samples", "classes": "train_classes"}
    rows: list[Row] = []
    for name, value in measures.items():
        each = enumerate(value) if isinstance(value, list) else [(SERVER, value)]
        rows += [(client, "", names.get(name, name), float(v)) for client, v in each if v is not None]
    return rows


def mean_accuracy(rows: list[Row]) -> float:
    """Of the clients, or of the server's model in rounds in which no client is judged."""
    found = [(client, value) for client, split, metric, value in rows if (split, metric) == ("test", "accuracy")]
    values = [value for client, value in found if client >= 0] or [value for _, value in found]
    return sum(values) / len(values)


def _dealt(split: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells one partition of a folder from another."""
    return tuple(split.get(name) for name in ("dataset", "partition", "seed", "clients"))


def _varying(settings: list[dict[str, Any]]) -> list[str]:
    # As JSON: what an earlier run wrote into study.json has lists where federations have tuples.
    return [key for key in settings[0] if len({json.dumps(federation.get(key)) for federation in settings}) > 1]


def _try_models(federation: Federation, tried: set[tuple[object, ...]]) -> None:
    """Build every model once, and once more for each file that it starts from; what was `tried` is noted there."""
    from fedkd.models import ARCHITECTURES
    from fedkd.models.trial import try_network

    dataset = load(federation.dataset)
    built = {model: ARCHITECTURES.build(model) for model in dict.fromkeys(federation.client_models)}
    for client, model in enumerate(federation.client_models):
        asked = (federation.dataset, model, built[model].files(client))
        if asked not in tried:
            tried.add(asked)
            try_network(model, dataset.shape, len(dataset.outputs), client)

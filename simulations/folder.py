"""A results folder: one process writes to it, and study.json describes what was run into it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.base.disk import write_whole
from fedkd.base.errors import UserError
from fedkd.base.numerics import NUMERICS
from fedkd.protocol.keeping import saved_model
from fedkd.settings.federation import Federation
from simulations.identity import with_defaults
from simulations.journal import Journal
from simulations.provenance import commit, hardware, versions
from simulations.recipe import Recipe


@dataclass(frozen=True)
class ResultsFolder:
    """The folder with the results of a study.

    `journal/` has a file for each federation, `models/` the saved models, `state/` the state of unfinished federations,
    and `study.json` the recipe, all settings and the machine.
    """

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process. A folder that was made for this and stays empty is removed afterwards.

        Raises:
            UserError: it cannot be written, or another process is writing to it.
        """
        new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"--out {self.path}: cannot be written ({error.strerror}); choose another folder"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"--out {self.path}: another run is writing there; wait for it or choose another"
                ) from error
            try:
                yield
            finally:
                (self.path / ".lock").unlink(missing_ok=True)
                for folder in new:
                    with contextlib.suppress(OSError):
                        folder.rmdir()  # fails on purpose if the folder has results

    def journal(self, header: Mapping[str, Any]) -> Journal:
        """The journal with this header; it is created if it does not exist."""
        journal = Journal(self.path / "journal" / f"{header['federation']}.jsonl", header)
        if journal.complete() < 0:
            journal.begin()
        return journal

    @property
    def has_journals(self) -> bool:
        """Whether any federation has begun."""
        return any((self.path / "journal").glob("*.jsonl"))

    def state(self, journal: Journal) -> Path:
        """The folder for the state of a federation's server and clients until the federation is complete."""
        return (self.path / "state" / str(journal.header["federation"])).absolute()

    def save_models(self, federation: Federation, journal: Journal) -> None:
        """Move the saved models of a complete federation to `models/<federation>`, and remove the rest of its state."""
        state = self.state(journal)
        for client in range(federation.clients if federation.save != "none" else 0):
            if (model := saved_model(state, client)).is_file():
                folder = self.path / "models" / state.name
                folder.mkdir(parents=True, exist_ok=True)
                model.replace(folder / f"client-{client}.safetensors")
        shutil.rmtree(state, ignore_errors=True)

    def remove_empty_state(self) -> None:
        """Remove `state/` if it is empty, so that only the state of unfinished federations stays."""
        with contextlib.suppress(OSError):
            (self.path / "state").rmdir()

    def describe(
        self, recipe: Recipe, headers: Sequence[Mapping[str, Any]], partitions: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write study.json: the federations of this recipe, and those run into the folder before.

        Raises:
            UserError: the existing file is not a study, or it cannot be written.
        """
        path = self.path / "study.json"
        try:
            before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            earlier_partitions = before.get("partitions", [])
            earlier = dict(before.get("federations", {}))
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise UserError(f"{path}: not a study ({error}); remove it or choose another --out") from error
        current = {header["federation"]: header["settings"] for header in headers}
        there = {
            name: with_defaults(settings)
            for name, settings in earlier.items()
            if (self.path / "journal" / f"{name}.jsonl").is_file()
        }
        replaced = set(map(_partition_key, partitions))
        described = {
            "recipe": dict(recipe.source),
            "name": recipe.name,
            **({"names": recipe.names} if recipe.names else {}),
            "swept": sorted({*recipe.swept, *varying(list(current.values()))}),
            "current": list(current),
            "federations": there | current,
            "numerics": NUMERICS,
            "versions": versions(),
            "hardware": hardware(),
            "commit": commit(),
            "partitions": [each for each in earlier_partitions if _partition_key(each) not in replaced]
            + list(partitions),
        }
        write_whole(path, json.dumps(described, indent=1).encode())


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that have more than one value among some settings."""
    # As JSON, because study.json has lists where federations have tuples.
    return [key for key in settings[0] if len({json.dumps(each.get(key)) for each in settings}) > 1]


def _partition_key(described: Mapping[str, Any]) -> tuple[Any, ...]:
    """The entries that identify a partition in study.json."""
    return tuple(described.get(name) for name in ("dataset", "partition", "seed", "clients"))

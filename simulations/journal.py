"""The journal of a federation: one line for each round, synced to disk, so that results survive a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.base.disk import replacing
from fedkd.base.errors import UserError
from fedkd.node.holdings import Row
from simulations.identity import same_header


@dataclass(frozen=True)
class Journal:
    """The journal of one federation: a header, then one line a round, each a JSON object."""

    path: Path
    header: Mapping[str, Any]
    """`federation` (its id), `rounds`, `settings`"""

    def complete(self) -> int:
        """Number of the last complete round, −1 if there is none.

        An incomplete last line, left by a crash, is removed. A journal of other settings is an error.

        Raises:
            UserError: the file is not this federation's journal.
        """
        if not self.path.is_file():
            return -1
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if not lines:
            self.path.unlink()
            return -1
        try:
            header = json.loads(lines[0])
            rounds = [json.loads(line)["round"] for line in lines[1:]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: not a journal ({error}); remove the file or choose another --out") from error
        if not same_header(header, self.header) or rounds != list(range(len(rounds))):
            raise UserError(f"{self.path}: holds another federation's rounds; remove it or choose another --out")
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        return len(rounds) - 1

    def missing(self) -> int:
        """Number of rounds, the start included, that are not complete yet."""
        return max(0, int(self.header["rounds"]) - self.complete())

    def rounds(self) -> Iterator[list[Row]]:
        """The rows of each complete round, in order."""
        with self.path.open(encoding="utf-8") as lines:
            next(lines)
            for line in lines:
                rows = json.loads(line)["rows"]
                yield [(int(client), split, metric, float(value)) for client, split, metric, value in rows]

    def begin(self) -> None:
        """Start the file again with only the header."""
        with replacing(self.path) as partial:
            _write(partial, "w", self.header)

    def append(self, number: int, rows: list[Row]) -> None:
        """Add a complete round."""
        _write(self.path, "a", {"round": number, "rows": rows})


def _write(path: Path, mode: str, line: Mapping[str, Any]) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free some space and run again") from error

"""Errors with a message for the user."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """The user's input is wrong: the message names the key or file, what was found and what would be right.

    The command line prints it without a traceback and exits with 2.
    """


class DivergedError(RuntimeError):
    """A value in training is not finite: the message names it. The federation then gives no result."""


class FederationError(RuntimeError):
    """A federation stopped: a client failed or did not answer. Complete federations keep their results."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt `name`: the closest known one, and all of them.

    >>> nearest("dirichlt", ["iid", "dirichlet"])
    "did you mean 'dirichlet'? Known: dirichlet, iid"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listing = f"Known: {', '.join(names)}"
    return f"did you mean '{close[0]}'? {listing}" if close else listing


def blamed(error: BaseException, *files: Path) -> str:
    """One line about an error: the innermost line of the user's own `files` in its traceback, and the reason."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) in files]
    where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: " if frames else ""
    reason = str(error).strip().split("\n")[0]
    return f"{where}{type(error).__name__}: {reason}" if reason else f"{where}{type(error).__name__}"

"""A text that needs no download."""

from __future__ import annotations

import importlib.util
import platform

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.data.source import Progress
from fedkd.data.text import Document, TextSource

MODULES = ("argparse", "ast", "calendar", "configparser", "csv", "difflib", "doctest", "fractions", "ftplib")
"""Modules whose source is read: together as long as the reference, and each a single file in every version."""


@dataclass(frozen=True, config=STRICT)
class PythonText(TextSource):
    """1 MB of text that comes with Python: its language reference, and code of its standard library.

    The reference is what `help()` shows of it, a document a topic; the code is a document a module. These two are the
    domains: the labels, and the column `domain`. Another version of Python has another text.
    """

    usage = "python_text"

    def stamp(self) -> object:
        """What decides on chunks, and the version of Python."""
        return [platform.python_version(), *self.chunking()]

    def documents(self, progress: Progress) -> list[Document]:
        """Topics and modules, in the order of their names."""
        from pydoc_data.topics import topics

        documents = [Document("reference", text.encode()) for _, text in sorted(topics.items()) if text]
        for done, name in enumerate(MODULES):
            progress("reading python_text", done, len(MODULES))
            documents.append(Document("code", _source(name).encode()))
        progress("reading python_text", len(MODULES), len(MODULES))
        return documents


def _source(module: str) -> str:
    """The source of a module of the standard library."""
    spec = importlib.util.find_spec(module)
    read = getattr(spec.loader if spec else None, "get_source", None)
    source: str | None = read(module) if read else None
    if not source:
        raise UserError(f"python_text: this Python has no source of its module {module!r}; use text:FILE|FOLDER")
    return source

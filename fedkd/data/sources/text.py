"""The user's own text."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.data.source import Progress
from fedkd.data.stamps import below, file_stamp, folder_stamp, located
from fedkd.data.text import Document, TextSource, checked_text

SUFFIXES = frozenset(
    {".txt", ".md", ".rst", ".tex", ".html", ".csv", ".json", ".py", ".c", ".h", ".cpp", ".rs", ".go", ".java", ".js"}
)
"""Endings of the files of a folder that are read."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Text(TextSource):
    """text of a file, or of all text files of a folder, for models that predict the next token.

    The domains are the folder's sub-folders; a file that lies in none is a domain of its own. They are the labels, and
    the column `domain`. Files are UTF-8; the last part of each is for testing.
    """

    usage = "text:FILE|FOLDER"

    argument: str
    """path"""

    def stamp(self) -> object:
        """What decides on chunks, and path, size and time of the file, or of everything in the folder."""
        stamp = folder_stamp if located(self.argument).is_dir() else file_stamp
        return [stamp(self.argument), *self.chunking()]

    def documents(self, progress: Progress) -> list[Document]:
        """The file, or the folder's files in the order of their names; empty ones are left out."""
        root = located(self.argument)
        files = [root]
        if root.is_dir():
            files = sorted(Path(e.path) for e in below(root) if e.is_file() and Path(e.path).suffix.lower() in SUFFIXES)
        documents = []
        for done, file in enumerate(files):
            progress(f"reading {self.argument}", done, len(files))
            try:
                content = checked_text(file.read_bytes(), str(file))
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror}); mend or remove it") from error
            inside = file.relative_to(root).parts
            if content:
                documents.append(Document(inside[0] if len(inside) > 1 else file.stem, content))
        progress(f"reading {self.argument}", len(files), len(files))
        if not documents:
            what = f"holds no text ({', '.join(sorted(SUFFIXES))})" if root.is_dir() else "is empty"
            raise UserError(f"{self.argument} {what}; there is nothing to train on")
        return documents

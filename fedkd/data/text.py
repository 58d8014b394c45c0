"""Text as data: documents of several domains, cut at the border between training and test, and packed into chunks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
from annotated_types import Gt, Interval
from pydantic.dataclasses import dataclass as checked_dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.data.source import Prepared, Progress, Source
from fedkd.data.tokens import BYTES, Tokens, learnt


@dataclass(frozen=True)
class Document:
    """One text."""

    domain: str
    """the kind of text; it is the label of its chunks"""
    text: bytes


@checked_dataclass(frozen=True, config=STRICT)
class TextSource(Source):
    """A source of documents. The last part of each is for testing, so that no test chunk lies between training chunks.

    The parts of a domain's documents are joined, and cut into chunks of `length` tokens, each predicted from
    the tokens before it in its chunk. Every token is predicted once, except the first of a part: the last target of a
    chunk is the first token of the next. Tokens at the end that do not fill a chunk are left out.
    """

    vocabulary: Annotated[int, Interval(ge=BYTES, le=2**16)] = BYTES
    """number of tokens; 256: a token is a byte; more: byte pair encoding, learnt from the training part"""
    length: Annotated[int, Gt(0)] = 64
    """tokens of a chunk"""
    test: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """share at the end of each document that is for testing, from the next line on"""

    def chunking(self) -> list[object]:
        """For `stamp`, what chunks depend on besides the documents: the parameters, and the version of tokenizers."""
        learning = [] if self.vocabulary == BYTES else [f"tokenizers {version('tokenizers')}"]
        return [self.vocabulary, self.length, self.test, *learning]

    @abstractmethod
    def documents(self, progress: Progress) -> Sequence[Document]:
        """All documents, none of them empty, in an order that depends on their names alone.

        Raises UserError where there is none, or what is there is no text.
        """

    def prepare(self, progress: Progress) -> Prepared:
        """Read, tokenise and pack them."""
        documents = self.documents(progress)
        where = getattr(self, "argument", self.usage)
        domains = tuple(sorted({document.domain for document in documents}))
        parts = [_joined(documents, domains, self.test, testing=testing) for testing in (False, True)]
        progress(f"tokenising {where}", 0, 1)
        tokeniser = learnt(parts[0], self.vocabulary, where)
        chunks = [[_chunks(tokeniser.encode(text), self.length) for text in part] for part in parts]
        progress(f"tokenising {where}", 1, 1)
        for domain, domain_chunks, text in zip(domains, chunks[0], parts[0], strict=True):
            if not len(domain_chunks):
                raise UserError(
                    f"{where}: {domain!r} has {len(text)} bytes of text for training, too little for a chunk of "
                    f"{self.length} tokens and the one that follows; lower length, or put it into a folder with others"
                )
        sizes = np.array([[len(domain_chunks) for domain_chunks in part] for part in chunks])
        if not sizes[1].sum():
            raise UserError(f"{where}: test={self.test} leaves no chunk of {self.length} tokens for testing; raise it")
        labels = np.concatenate([np.repeat(np.arange(len(domains)), part) for part in sizes])
        samples = np.concatenate([domain_chunks for part in chunks for domain_chunks in part]).astype(
            _just_enough(self.vocabulary)
        )
        return Prepared(
            samples,
            0,
            labels,
            domains,
            np.arange(len(samples)) >= sizes[0].sum(),
            {"domain": np.array(domains)[labels]},
            tokeniser.vocabulary,
        )


def checked_text(content: bytes, where: str) -> bytes:
    """`content` unchanged; UserError unless it is text in UTF-8 without zero bytes."""
    try:
        content.decode("utf-8")
        at = content.find(0)
    except UnicodeDecodeError as error:
        at = error.start
    if at >= 0:
        raise UserError(f"{where} is not text: byte {at} is 0x{content[at]:02x}; text in UTF-8 is needed")
    return content


def border(text: bytes, test: float) -> int:
    """Where the test part of a text begins: at the last `test` of its bytes, from the next line on.

    Where no line begins there, from the next character on.
    """
    at = round(len(text) * (1 - test))
    line = text.find(b"\n", at) + 1
    if 0 < line < len(text):
        return line
    while at < len(text) and text[at] & 0xC0 == 0x80:  # the second byte of a character, or a later one
        at += 1
    return at


def _joined(documents: Sequence[Document], domains: Sequence[str], test: float, *, testing: bool) -> list[bytes]:
    """The training or test parts of each domain's documents, joined."""
    parts: dict[str, list[bytes]] = {domain: [] for domain in domains}
    for document in documents:
        at = border(document.text, test)
        parts[document.domain].append(document.text[at:] if testing else document.text[:at])
    return [b"".join(part) for part in parts.values()]


def _chunks(tokens: Tokens, length: int) -> Tokens:
    """(n, length + 1): chunks that share their last token with the next one's first."""
    starts = np.arange(max(len(tokens) - 1, 0) // length) * length
    chunks: Tokens = tokens[starts[:, None] + np.arange(length + 1)]
    return chunks


def _just_enough(vocabulary: int) -> type[np.integer[Any]]:
    """The smallest type that holds all tokens and that torch can index with."""
    return np.uint8 if vocabulary <= 2**8 else np.int16 if vocabulary <= 2**15 else np.int32

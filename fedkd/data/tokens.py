"""Text ↔ tokens: bytes, and what byte pair encoding makes of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedkd.errors import UserError

Tokens = NDArray[np.int64]
BYTES = 256
"""Tokens that need no learning."""

# No token crosses the border of a word: letters, digits or signs, each with a space before them, or other whitespace.
_WORD = re.compile(rb" ?[A-Za-z_\x80-\xff]+| ?[0-9]+| ?[^\sA-Za-z_0-9\x80-\xff]+|\s+(?!\S)|\s+")


@dataclass(frozen=True, eq=False)
class Tokeniser:
    """Byte pair encoding: every byte is a token, and pairs that were frequent where it was learnt are further ones.

    Sennrich, Haddow & Birch 2016, arXiv 1508.07909, on bytes as in Radford et al. 2019, so that any text can be
    encoded and no token is unknown. Without merges a token is a byte.
    """

    merges: Tokens
    """(m, 2): token 256 + i stands for the pair of tokens in row i; rows are in the order in which they were learnt"""

    @cached_property
    def vocabulary(self) -> tuple[bytes, ...]:
        """The bytes that each token stands for."""
        known = [bytes([value]) for value in range(BYTES)]
        for left, right in self.merges.tolist():
            known.append(known[left] + known[right])
        return tuple(known)

    def encode(self, text: bytes) -> Tokens:
        """(t,) tokens of a text; the bytes that they stand for are the text again."""
        if not len(self.merges):
            return np.frombuffer(text, np.uint8).astype(np.int64)
        places: dict[bytes, int] = {}
        occurring = np.array([places.setdefault(word, len(places)) for word in _WORD.findall(text)], np.int64)
        # Each word is encoded once, however often it occurs.
        tokens, word = _spelt(places)
        for new, pair in enumerate(self.merges, start=BYTES):
            tokens, word = _merged(tokens, word, pair, new)
        sizes = np.bincount(word, minlength=len(places))
        starts = np.cumsum(sizes) - sizes
        long = sizes[occurring]
        within = np.arange(long.sum()) - np.repeat(np.cumsum(long) - long, long)
        encoded: Tokens = tokens[np.repeat(starts[occurring], long) + within]
        return encoded


def learnt(texts: Iterable[bytes], vocabulary: int, where: str) -> Tokeniser:
    """The tokeniser of `vocabulary` tokens whose merges are the most frequent pairs in `texts`, one after the other.

    Of equally frequent pairs, the one with the lowest tokens: it depends on the texts alone. Raises UserError where
    the texts have no more pairs to merge.
    """
    counts = Counter(word for text in texts for word in _WORD.findall(text)) if vocabulary > BYTES else Counter()
    tokens, word = _spelt(counts)
    often = np.array([*counts.values()], np.int64)
    merges = np.empty((vocabulary - BYTES, 2), np.int64)
    for row in range(len(merges)):
        neighbours = np.flatnonzero(word[:-1] == word[1:])
        if not len(neighbours):
            raise UserError(
                f"{where}: vocabulary={vocabulary}, but with {BYTES + row} tokens every word is one; lower it"
            )
        pairs = tokens[neighbours] * vocabulary + tokens[neighbours + 1]
        found, which = np.unique(pairs, return_inverse=True)
        best = found[np.bincount(which, often[word[neighbours]]).argmax()]
        merges[row] = divmod(int(best), vocabulary)
        tokens, word = _merged(tokens, word, merges[row], BYTES + row)
    return Tokeniser(merges)


def decode(tokens: Tokens, vocabulary: tuple[bytes, ...]) -> bytes:
    """The text that tokens stand for."""
    return b"".join([vocabulary[token] for token in tokens.tolist()])


def _spelt(words: Iterable[bytes]) -> tuple[Tokens, Tokens]:
    """(tokens, number of the word that each belongs to) of words as bytes, one after the other."""
    spelt = [*words]
    tokens = np.frombuffer(b"".join(spelt), np.uint8).astype(np.int64)
    return tokens, np.repeat(np.arange(len(spelt)), [len(word) for word in spelt])


def _merged(tokens: Tokens, word: Tokens, pair: Tokens, new: int) -> tuple[Tokens, Tokens]:
    """Tokens and words with the token `new` in place of every `pair` within a word, from left to right."""
    left, right = pair
    here = np.flatnonzero((tokens[:-1] == left) & (tokens[1:] == right) & (word[:-1] == word[1:]))
    if left == right and len(here):
        # In aaa the pair is there twice, and the second lacks its first half once the first is merged.
        begins = np.diff(here, prepend=-2) > 1
        run = here[begins][np.cumsum(begins) - 1]
        here = here[(here - run) % 2 == 0]
    tokens = tokens.copy()
    tokens[here] = new
    return np.delete(tokens, here + 1), np.delete(word, here + 1)

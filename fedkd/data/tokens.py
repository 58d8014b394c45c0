"""Text ↔ tokens: single bytes, or byte pair encoding."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from fedkd.base.errors import UserError

Tokens = NDArray[np.int64]
BYTES = 256
"""Tokens that need no learning."""

SINGLE = tuple(bytes([value]) for value in range(BYTES))
"""What they stand for: each byte for itself."""
PIECE = 2**16
"""Characters that the library is given at once, and the rest of the last word: it needs some hundred bytes for each."""


@dataclass(frozen=True, eq=False)
class Tokeniser:
    """Byte pair encoding: every byte is a token, and pairs that were frequent where it was learnt are further ones.

    Sennrich, Haddow & Birch 2016, arXiv 1508.07909, on bytes as in Radford et al. 2019, so that any text can be
    encoded and no token is unknown. No token crosses the border of a word: letters, digits or other signs, each with
    a space before them, an English ending such as 's, or other whitespace.
    """

    vocabulary: tuple[bytes, ...] = SINGLE
    """the bytes that each token stands for; a token below 256 is that byte"""
    encoder: Tokenizer | None = None
    """the library's tokeniser, which numbers tokens in its own order; None: a token is a byte"""
    numbers: Tokens = field(default_factory=lambda: np.arange(BYTES))
    """(v,) our number of each of the encoder's tokens"""

    def encode(self, text: bytes) -> Tokens:
        """(t,) tokens of a text in UTF-8; the bytes that they stand for are the text again."""
        if self.encoder is None:
            return np.frombuffer(text, np.uint8).astype(np.int64)
        tokens = [np.empty(0, np.int64)]
        for piece in _pieces(text):
            (encoded,) = self.encoder.encode_batch_fast([piece])
            tokens.append(self.numbers[encoded.ids])
        return np.concatenate(tokens)


def learnt(texts: Iterable[bytes], vocabulary: int, where: str) -> Tokeniser:
    """The tokeniser of `vocabulary` tokens whose merges are the most frequent pairs in `texts`, one after the other.

    Texts are in UTF-8. Of equally frequent pairs, the one with the lowest tokens in the encoder's order: it depends on
    the texts alone. Raises UserError where the texts have no more pairs to merge.
    """
    if vocabulary == BYTES:
        return Tokeniser()
    encoder = Tokenizer(BPE())
    encoder.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=vocabulary, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    encoder.train_from_iterator((piece for text in texts for piece in _pieces(text)), trainer)
    if (reached := encoder.get_vocab_size()) < vocabulary:
        raise UserError(f"{where}: vocabulary={vocabulary}, but with {reached} tokens every word is one; lower it")
    values, numbers = _alphabet(), encoder.get_vocab()
    spelt = [bytes(values[character] for character in token) for token in sorted(numbers, key=numbers.__getitem__)]
    known = (*SINGLE, *(token for token in spelt if len(token) > 1))
    positions = {token: position for position, token in enumerate(known)}
    return Tokeniser(known, encoder, np.array([positions[token] for token in spelt]))


def decode(tokens: Tokens, vocabulary: tuple[bytes, ...]) -> bytes:
    """The text that tokens stand for."""
    return b"".join([vocabulary[token] for token in tokens.tolist()])


def _pieces(text: bytes) -> Iterator[str]:
    """The text in pieces whose tokens are those of the whole."""
    # A word ends where a space or a new line follows its last letter, digit or sign, whatever comes after.
    pieces = re.finditer(rf".{{{PIECE}}}.*?\S(?=[ \n])|.+", text.decode(), re.DOTALL)
    return (piece.group() for piece in pieces)


def _alphabet() -> dict[str, int]:
    """The byte that each character of the library's byte-level alphabet stands for.

    A byte that is a visible character in Latin-1 is written as that; the others are, in order, the characters from 256
    on.
    """
    visible = [value for value in range(BYTES) if chr(value).isprintable() and value != ord(" ")]
    others = [value for value in range(BYTES) if value not in visible]
    return {chr(value): value for value in visible} | {chr(BYTES + i): value for i, value in enumerate(others)}

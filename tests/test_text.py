"""Text as data: tokens stand for the text again, chunks lose and repeat nothing, and test text is no training text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.base.errors import UserError
from fedkd.data import Dataset, load
from fedkd.data.sources import source
from fedkd.data.text import border
from fedkd.data.tokens import BYTES, decode, learnt
from fedkd.node.node import SERVER
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining, Training
from simulations.data import load_holdings
from simulations.splits import make_split, split_of
from simulations.transfer import transfer_data
from tests.small import drawn, own_cache

__all__ = ["own_cache"]

PROSE = b"the cat sat on the mat, and the other cat sat on that cat; aaaa aaaaa aaa 1000 1001 \n\n  the hat\xc3\xa9 "


def lines(name: str, number: int) -> str:
    """Text of which no line is there twice."""
    return "".join(f"{name} says {i} and then {i * i}\n" for i in range(number))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two sub-folders, one of them with two files and an empty one, and a file beside them."""
    for path, text in {
        "tales/b.txt": lines("tale b", 40),
        "tales/a.md": lines("tale a", 60),
        "tales/none.txt": "",
        "laws/x/y.TXT": lines("law", 50),
        "single.txt": lines("single", 30),
        "tales/.hidden.txt": "hidden",
        "picture.png": "\0",
    }.items():
        (tmp_path / "library" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "library" / path).write_text(text, encoding="utf-8")
    return tmp_path / "library"


def told(dataset: Dataset, indices: torch.Tensor) -> bytes:
    """The text of chunks that follow each other."""
    x, y = dataset.pairs(indices)
    return decode(torch.cat([x[0, :1], y]).numpy(), dataset.vocabulary)


def of_domain(dataset: Dataset, part: torch.Tensor, domain: str) -> torch.Tensor:
    """The indices among `part` that are of a domain."""
    return part[dataset.labels[part] == dataset.classes.index(domain)]


class TestTokens:
    @drawn
    @given(st.text(max_size=80) | st.text("ab 1é's_\t\n\x1c\x85\u3000", max_size=80))
    def test_encoded_text_is_decoded_to_itself(self, text: str) -> None:
        whole = text.encode()
        for tokeniser in (learnt([], BYTES, ""), learnt([PROSE], 275, "")):
            tokens = tokeniser.encode(whole)
            assert tokens.dtype == np.int64
            assert decode(tokens, tokeniser.vocabulary) == whole
            assert sum(len(tokeniser.vocabulary[token]) for token in tokens) == len(whole)

    def test_every_byte_of_a_character_has_its_token(self) -> None:
        text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 7)])).encode()
        tokeniser = learnt([PROSE], 275, "")
        assert {*text} == {*range(BYTES)} - {0xC0, 0xC1, *range(0xF5, 0x100)}, "all that are in any text"
        assert decode(tokeniser.encode(text), tokeniser.vocabulary) == text

    @pytest.mark.parametrize("vocabulary", [BYTES, 275])
    def test_a_token_below_256_is_that_byte(self, vocabulary: int) -> None:
        tokeniser = learnt([PROSE], vocabulary, "")
        assert tokeniser.vocabulary[:BYTES] == tuple(bytes([value]) for value in range(256))
        assert len({*tokeniser.vocabulary}) == len(tokeniser.vocabulary) == vocabulary
        assert tokeniser.encode(b"~\x7f\n").tolist() == [126, 127, 10]
        if vocabulary == BYTES:
            assert tokeniser.encode(PROSE).tolist() == list(PROSE)

    @pytest.mark.parametrize(
        ("text", "vocabulary"), [(PROSE, 275), (b"aaaaaaa aaa aaaa", 259), (lines("tale", 30).encode(), 290)]
    )
    def test_merges_are_those_of_the_published_algorithm(self, text: bytes, vocabulary: int) -> None:
        tokeniser = learnt([text], vocabulary, "")
        words, number, merges = spelt(text), {bytes([value]): RANKS.index(value) for value in range(256)}, []
        for new in tokeniser.vocabulary[BYTES:]:
            pairs = Counter(pair for word in words for pair in pairwise(word))
            most = max(pairs.values())
            left, right = min((p for p, n in pairs.items() if n == most), key=lambda p: (number[p[0]], number[p[1]]))
            assert new == left + right
            number[new] = len(number)
            merges.append((left, right))
            words = [joined(word, left, right) for word in words]
        for other in (text, PROSE, b"that tales' attic says 10010 and aaaaaa"):
            pieces = [piece for word in spelt(other) for piece in encoded(word, merges)]
            assert tokeniser.encode(other).tolist() == [tokeniser.vocabulary.index(piece) for piece in pieces]

    @drawn
    @given(st.text("ab 1é.'s_\t\n\x1c\x85\u3000", max_size=60), st.integers(1, 9))
    def test_a_text_that_is_read_in_pieces_has_the_tokens_of_the_whole(self, text: str, size: int) -> None:
        whole = text.encode()
        one = learnt([PROSE], 275, "")
        together = one.encode(whole).tolist()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fedkd.data.tokens.PIECE", size)
            assert learnt([PROSE], 275, "").vocabulary == one.vocabulary
            assert one.encode(whole).tolist() == together

    def test_it_depends_on_how_often_words_are_there_and_on_nothing_else(self) -> None:
        words = [b"".join(word) for word in spelt(PROSE)]
        one, other = learnt(words, 270, ""), learnt(words[::-1], 270, "")
        assert one.vocabulary == other.vocabulary
        assert one.vocabulary != learnt([*words, *words[:1] * 9], 270, "").vocabulary

    def test_it_is_the_same_in_every_process(self) -> None:
        text = b"".join(bytes(permutation) + b" " for permutation in permutations(b"abcd"))  # nothing but ties
        script = f"from fedkd.data.tokens import learnt\nprint(learnt([{text!r}], 275, '').vocabulary)"
        own = {"PYTHONHASHSEED": "1", "RAYON_NUM_THREADS": "3"}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ | own
        )
        assert done.stdout.strip() == str(learnt([text], 275, "").vocabulary)

    def test_it_makes_text_shorter(self) -> None:
        text = lines("tale", 200).encode()
        assert len(learnt([text], 300, "").encode(text)) < len(text) / 2

    def test_more_tokens_than_the_words_give_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"text: vocabulary=300, but with 259 tokens every word is one; lower it"):
            learnt([b"abc abc"], 300, "text")
        assert learnt([b"abc abc"], 259, "text").encode(b"abc abc").tolist() == [257, 258]

    def test_nothing_is_encoded_as_nothing(self) -> None:
        assert learnt([PROSE], 270, "").encode(b"").tolist() == []
        assert learnt([], BYTES, "").encode(b"").tolist() == []


WORDS = r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
RANKS = [*range(33, 127), *range(161, 173), *range(174, 256), *range(33), *range(127, 161), 173]
"""Bytes in the order of the library's alphabet: what is visible in Latin-1, then what is not."""


def spelt(text: bytes) -> list[list[bytes]]:
    """The words of a text as single bytes."""
    words = [[bytes([value]) for value in word.encode()] for word in re.findall(WORDS, text.decode())]
    assert b"".join(piece for word in words for piece in word) == text
    return words


def joined(word: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    """A word in which every neighbouring `left`, `right` is one piece, from left to right."""
    made: list[bytes] = []
    while word:
        size = 2 if word[:2] == [left, right] else 1
        made.append(b"".join(word[:size]))
        word = word[size:]
    return made


def encoded(word: list[bytes], merges: list[tuple[bytes, bytes]]) -> list[bytes]:
    """A word after all merges, one after the other."""
    for left, right in merges:
        word = joined(word, left, right)
    return word


class TestChunks:
    @pytest.mark.parametrize("settings", ["", "(length=7)", "(length=16, vocabulary=300)", "(length=1, test=0.5)"])
    def test_every_token_is_predicted_once_but_for_the_first_and_what_is_left_over(
        self, library: Path, settings: str
    ) -> None:
        dataset = load(f"text:{library}{settings}")
        for domain, documents in {"tales": ["tales/a.md", "tales/b.txt"], "laws": ["laws/x/y.TXT"]}.items():
            texts = [(library / name).read_bytes() for name in documents]
            cuts = [border(text, 0.5 if "test" in settings else 0.1) for text in texts]
            parts = {
                "train": b"".join(text[:at] for text, at in zip(texts, cuts, strict=True)),
                "test": b"".join(text[at:] for text, at in zip(texts, cuts, strict=True)),
            }
            for part, whole in parts.items():
                found = told(dataset, of_domain(dataset, getattr(dataset, part), domain))
                assert whole.startswith(found)
                left = len(whole) - len(found)
                assert left < dataset.shape[0] * max(map(len, dataset.vocabulary))
                if settings == "(length=1, test=0.5)":
                    assert left == 0

    def test_targets_are_the_tokens_that_follow(self, library: Path) -> None:
        dataset = load(f"text:{library}(length=9)")
        x, y = dataset.pairs(torch.tensor([0, 1, 5]))
        assert x.dtype == y.dtype == torch.int64
        assert x.shape == (3, 9)
        assert y.shape == (27,)
        rows = y.view(3, 9)
        assert torch.equal(rows[:, :-1], x[:, 1:])
        assert rows[0, -1] == x[1, 0], "chunk 1 follows chunk 0"

    def test_no_line_is_in_both_parts(self, library: Path) -> None:
        dataset = load(f"text:{library}(length=8)")
        for domain in dataset.classes:
            parts = [of_domain(dataset, part, domain) for part in (dataset.train, dataset.test)]
            first, second = (set(told(dataset, part).splitlines()[:-1]) for part in parts)
            assert first
            assert second
            assert not first & second

    def test_the_test_part_is_the_share_at_the_end_from_the_next_line_on(self) -> None:
        text = lines("tale", 100).encode()
        at = border(text, 0.25)
        assert text[:at].endswith(b"\n")
        assert 0 <= at - 0.75 * len(text) < 40
        assert border(b"x" * 100, 0.25) == 75
        assert border(("é" * 50).encode(), 0.25) == 76, "no character is cut"
        assert border(b"x" * 99 + b"\n", 0.25) == 75, "no line begins after the last"

    def test_the_tokeniser_knows_the_training_part_alone(self, tmp_path: Path) -> None:
        text = lines("tale", 200)
        (tmp_path / "one.txt").write_text(text, encoding="utf-8")
        (tmp_path / "two.txt").write_text(text[:-300] + "zq" * 150, encoding="utf-8")
        one, two = (load(f"text:{tmp_path}/{name}.txt(vocabulary=300)") for name in ("one", "two"))
        assert one.vocabulary == two.vocabulary
        assert one.fingerprint != two.fingerprint

    @pytest.mark.parametrize(("vocabulary", "kind"), [(256, torch.uint8), (257, torch.int16)])
    def test_tokens_are_stored_in_the_smallest_type_and_mapped(
        self, library: Path, vocabulary: int, kind: torch.dtype
    ) -> None:
        source = f"text:{library}(vocabulary={vocabulary})"
        first, again = load(source), load(source)
        assert first.samples.dtype == kind
        assert first.samples.data_ptr() == again.samples.data_ptr()
        assert len(first.vocabulary) == len(first.outputs) == vocabulary

    def test_what_is_read_back_is_what_was_prepared(self, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = load(f"text:{library}(vocabulary=290)")
        monkeypatch.setattr("fedkd.data.loading._RECENT", type(first.columns)())
        again = load(f"text:{library}(vocabulary=290)")
        assert again.vocabulary == first.vocabulary
        assert torch.equal(again.samples, first.samples)
        assert again.columns["domain"].tolist() == first.columns["domain"].tolist()

    def test_every_parameter_gives_another_data_set(self, library: Path) -> None:
        settings = ["", "(length=32)", "(test=0.2)", "(vocabulary=260)"]
        assert len({load(f"text:{library}{each}").fingerprint for each in settings}) == 4

    @pytest.mark.parametrize("text", ["python_text", "text:{library}"])
    def test_another_version_of_what_learns_pairs_prepares_them_again(
        self, library: Path, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain, pairs = (source(text.format(library=library) + each)[1] for each in ("", "(vocabulary=300)"))
        before = plain.stamp(), pairs.stamp()
        monkeypatch.setattr("fedkd.data.text.version", lambda _: "0")
        assert plain.stamp() == before[0], "bytes need no learning"
        assert pairs.stamp() != before[1]


class TestDomains:
    def test_they_are_sub_folders_and_files_that_lie_in_none(self, library: Path) -> None:
        dataset = load(f"text:{library}")
        assert dataset.classes == ("laws", "single", "tales")
        assert dataset.columns["domain"].tolist() == [dataset.classes[label] for label in dataset.labels]
        assert dataset.shape == (64,)
        assert {*dataset.labels[dataset.train].tolist()} == {0, 1, 2}

    def test_a_file_is_one_domain(self, library: Path) -> None:
        assert load(f"text:{library}/single.txt(length=8)").classes == ("single",)

    def test_limit_takes_chunks_of_every_domain(self, library: Path) -> None:
        dataset = load(f"text:{library}(length=8, limit=60)")
        assert len(dataset.train) + len(dataset.test) == 60
        assert {*dataset.labels[dataset.train].tolist()} == {0, 1, 2}
        with pytest.raises(UserError, match=r"limit=99999, but there are \d+ chunks"):
            load(f"text:{library}(limit=99999)")
        with pytest.raises(UserError, match="no training chunk of domain"):
            load(f"text:{library}(limit=2)")

    def test_clients_can_be_given_one_each(self, library: Path) -> None:
        of = federation(library, "by_column(name='domain')", clients=3)
        dataset = load(of.dataset)
        split = make_split(of, dataset)
        for client, own in enumerate(split.clients):
            assert {*dataset.labels[dataset.train][torch.from_numpy(own)].tolist()} == {client}

    def test_they_can_be_dealt_by_a_dirichlet_distribution(self, library: Path) -> None:
        dataset = load(federation(library).dataset)
        labels = dataset.labels[dataset.train].numpy()
        skewed, even = (
            make_split(federation(library, f"dirichlet(alpha={alpha}, min_size=2)"), dataset) for alpha in (0.1, 1000.0)
        )
        assert skewed.measures["mean_label_distance"] > 2 * even.measures["mean_label_distance"]
        held = np.concatenate([*skewed.clients, *skewed.val, skewed.transfer, skewed.dropped])
        assert sorted(held) == list(range(len(labels)))

    def test_participants_hold_tokens_and_what_follows_them(self, library: Path) -> None:
        of = federation(library)
        held = load_holdings(of, 0)
        assert held.shape == (8,)
        assert held.classes == 256
        assert held.token_bytes is not None
        assert held.token_bytes.tolist() == [1] * 256
        for data in (held.data, held.val, *held.evaluation.values()):
            assert data is not None
            assert data.y is not None
            assert data.y.shape == (8 * len(data),)
            assert torch.equal(data.y.view(-1, 8)[:, :-1], data.x[:, 1:])
        assert held.transfer is not None
        assert held.transfer.y is None
        assert len(load_holdings(of, SERVER).evaluation["test"]) == len(load(of.dataset).test)


def federation(library: Path, partition: str = "iid", settings: str = "", **further: Any) -> Federation:
    """Clients that hold text."""
    plain: dict[str, Any] = {"clients": 2, "seed": 1, "models": "gru(width=4)"}
    return Federation("local", dataset=f"text:{library}(length=8{settings})", partition=partition, **plain | further)


class TestPythonText:
    def test_it_is_reference_and_code_of_bounded_size(self) -> None:
        dataset = load("python_text")
        assert dataset.classes == ("code", "reference")
        assert 0.5e6 < dataset.samples.numel() < 1.5e6
        shares = dataset.labels.bincount() / len(dataset.labels)
        assert 0.35 < float(shares[0]) < 0.65
        assert b"class ArgumentParser(" in told(dataset, of_domain(dataset, dataset.train, "code"))
        assert b"assert_stmt ::= " in told(dataset, of_domain(dataset, dataset.train, "reference")).replace(b'"', b"")

    def test_a_tenth_is_for_testing(self) -> None:
        dataset = load("python_text(length=16)")
        assert 0.08 < len(dataset.test) / len(dataset.samples) < 0.12


class TestTransfer:
    def test_it_can_be_taken_from_another_text_in_the_same_tokens(self, library: Path) -> None:
        of = federation(library, transfer="public(source='python_text(length=8)', size=20)")
        found = transfer_data(of.dataset, of.transfer, of.seed)
        assert found is not None
        data, means_the_same = found
        assert data.x.shape == (20, 8)
        assert data.y is not None
        assert data.y.shape == (160,)
        assert means_the_same

    def test_it_can_be_of_one_domain(self, library: Path) -> None:
        of = federation(library, transfer="public(fraction=0.5, classes=['laws'])")
        dataset = load(of.dataset)
        split = make_split(of, dataset)
        assert {*dataset.labels[dataset.train][torch.from_numpy(split.transfer)].tolist()} == {0}

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("digits", "digits has images, but .* has chunks of 8 out of 256 tokens"),
            ("python_text", "python_text has chunks of 64 out of 256 tokens, but .* has chunks of 8"),
            ("python_text(length=8, vocabulary=260)", "has chunks of 8 out of 260 tokens"),
        ],
    )
    def test_what_a_model_could_not_read_is_refused(self, library: Path, source: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            split_of(federation(library, transfer=f"public(source='{source}', size=20)"))

    def test_text_is_no_transfer_set_of_images(self) -> None:
        of = Federation("local", dataset="digits", transfer="public(source='python_text', size=20)")
        with pytest.raises(UserError, match=r"python_text has chunks of 64 out of 256 tokens, but digits has images"):
            split_of(of)


class TestBadInput:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"abc\xff\xfe", "is not text: byte 3 is 0xff; text in UTF-8 is needed"),
            (b"\x89PNG\r\n", "byte 0 is 0x89"),
            (b"text\0more" * 50, "byte 4 is 0x00"),
            ("é".encode("latin-1") * 9, "byte 0 is 0xe9"),
            (b"", "is empty; there is nothing to train on"),
            (b"too short", "too little for a chunk of 64 tokens and the one that follows; lower length"),
            (b"x" * 100, "test=0.1 leaves no chunk of 64 tokens for testing; raise it"),
        ],
    )
    def test_a_file_that_gives_no_chunks_is_refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "file.txt").write_bytes(content)
        with pytest.raises(UserError, match=re.escape(message)) as found:
            load(f"text:{tmp_path}/file.txt")
        assert "file.txt" in str(found.value)

    def test_a_folder_without_text_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "empty.txt").touch()
        (tmp_path / "picture.png").write_bytes(b"\0")
        with pytest.raises(UserError, match=r"holds no text \(\.c, .*; there is nothing to train on"):
            load(f"text:{tmp_path}")

    def test_a_file_of_a_folder_that_is_no_text_is_named(self, library: Path) -> None:
        (library / "tales" / "c.txt").write_bytes(b"\xff")
        with pytest.raises(UserError, match=r"tales/c\.txt is not text"):
            load(f"text:{library}")

    def test_a_domain_that_is_too_small_is_named(self, library: Path) -> None:
        (library / "note.txt").write_text("a note")
        with pytest.raises(UserError, match=r"'note' has 5 bytes of text for training.* put it into a folder"):
            load(f"text:{library}")

    def test_what_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"absent\.txt: cannot be read"):
            load(f"text:{tmp_path}/absent.txt")

    @pytest.mark.parametrize("setting", ["vocabulary=255", "vocabulary=99999", "length=0", "test=0.0", "test=1.0"])
    def test_parameters_have_bounds(self, library: Path, setting: str) -> None:
        with pytest.raises(UserError, match=f"data source text: {setting.partition('=')[0]}"):
            load(f"text:{library}({setting})")

    @pytest.mark.parametrize(
        "partition",
        ["noise(sigma=0.5)", "rotation(degrees=45.0)", "brightness", "label_noise(rate=0.2)", "iid+noise(sigma=0.1)"],
    )
    def test_skews_of_images_are_refused(self, library: Path, partition: str) -> None:
        with pytest.raises(UserError, match=re.escape(f"partition {partition}: it changes images or their labels")):
            split_of(federation(library, partition))

    @pytest.mark.parametrize("table", ["pretrain", "train"])
    def test_augmentation_is_refused(self, library: Path, table: str) -> None:
        tables: dict[str, Any] = {"pretrain": Pretraining(augment="flip"), "train": Training(augment="flip")}
        of = federation(library, **{table: tables[table]})
        with pytest.raises(UserError, match=rf"{table}\.augment = 'flip' changes images, but text:.* is text"):
            split_of(of)

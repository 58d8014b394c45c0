"""A journal survives what kills its writer, and is never taken for another's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from analysis.results.journal import read_journal
from fedkd.base.errors import UserError
from fedkd.node.holdings import Row
from simulations.journal import Journal

HEADER = {"federation": "kd-1", "rounds": 3, "settings": {"method": "kd", "seed": 0}}


def rows(number: int) -> list[Row]:
    """Something measured in a round."""
    return [(-1, "", "seconds", 0.5), (0, "test", "accuracy", number / 10), (1, "test", "accuracy", 0.1 + 0.2)]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal that has rounds 0 and 1."""
    begun = Journal(tmp_path / "journal" / "kd-1.jsonl", HEADER)
    begun.begin()
    begun.append(0, rows(0))
    begun.append(1, rows(1))
    return begun


class TestComplete:
    def test_counts_whole_rounds(self, journal: Journal) -> None:
        assert journal.complete() == 1

    def test_is_below_the_start_where_nothing_is_written(self, tmp_path: Path) -> None:
        absent = Journal(tmp_path / "absent.jsonl", HEADER)
        assert absent.complete() == -1
        assert not absent.path.exists()

    def test_is_below_the_start_with_a_header_alone(self, journal: Journal) -> None:
        journal.begin()
        assert journal.complete() == -1
        assert json.loads(journal.path.read_text()) == HEADER


class TestAfterACrash:
    def test_a_torn_last_line_is_cut_before_anything_is_appended(self, journal: Journal) -> None:
        whole = journal.path.read_bytes()
        journal.append(2, rows(2))
        line = journal.path.read_bytes()[len(whole) :]
        for length in range(len(line)):
            journal.path.write_bytes(whole + line[:length])
            assert journal.complete() == 1, length
            assert journal.path.read_bytes() == whole, length
            journal.append(2, rows(2))
            assert journal.path.read_bytes() == whole + line, length

    def test_a_torn_header_is_begun_anew(self, journal: Journal) -> None:
        header = journal.path.read_bytes().split(b"\n")[0]
        for length in range(len(header)):
            journal.path.write_bytes(header[:length])
            assert journal.complete() == -1, length
            assert not journal.path.exists(), length

    def test_a_round_that_was_not_synced_never_hides_one_that_was(self, journal: Journal) -> None:
        # Some file systems leave zeros where data have not arrived: there is no newline among them.
        with journal.path.open("ab") as file:
            file.write(bytes(100))
        assert journal.complete() == 1

    def test_begin_leaves_the_old_journal_until_the_new_header_is_whole(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = journal.path.read_bytes()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            journal.begin()
        assert journal.path.read_bytes() == before

    def test_every_round_is_synced_to_the_disk_in_full(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
        journal.append(2, rows(2))
        assert synced == [journal.path.stat().st_size]


class TestForeignFiles:
    def refused(self, journal: Journal, match: str) -> None:
        before = journal.path.read_bytes()
        with pytest.raises(UserError, match=match) as caught:
            journal.complete()
        assert str(journal.path) in str(caught.value)
        assert "--out" in str(caught.value)
        assert journal.path.read_bytes() == before, "what is not ours is left alone"

    @pytest.mark.parametrize(
        "header", [HEADER | {"rounds": 4}, HEADER | {"settings": {"method": "kd", "seed": 1}}, {"round": 0}, [], 7]
    )
    def test_another_header_is_refused(self, journal: Journal, header: object) -> None:
        lines = journal.path.read_text().splitlines()
        journal.path.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
        self.refused(journal, "another federation's rounds")

    def test_a_missing_round_is_refused(self, journal: Journal) -> None:
        journal.append(3, rows(3))
        self.refused(journal, "another federation's rounds")

    def test_a_round_told_twice_is_refused(self, journal: Journal) -> None:
        journal.append(1, rows(1))
        self.refused(journal, "another federation's rounds")

    @pytest.mark.parametrize("line", ["garbage", "{}", "[]", "null", '{"rows": []}', '{"round": 0'])
    def test_a_broken_line_in_the_middle_is_refused(self, journal: Journal, line: str) -> None:
        header, first, second = journal.path.read_text().splitlines()
        journal.path.write_text("\n".join([header, line, second]) + "\n")
        assert first != line
        self.refused(journal, "journal")


class TestAsTheReaderSeesIt:
    def test_rows_come_back_as_they_were_measured(self, journal: Journal) -> None:
        read = read_journal(journal.path)
        assert read is not None
        assert (read.federation, read.rounds, read.settings) == tuple(HEADER.values())
        found = read.rows.itertuples(index=False, name=None)
        assert list(found) == [(number, *row) for number in (0, 1) for row in rows(number)]

"""Files are whole or absent, and one process at a time makes them."""

from __future__ import annotations

import multiprocessing
import os
import stat
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedkd.base.disk import alone
from fedkd.base.errors import UserError
from fedkd.base.store import read_tensors, write_tensors
from tests.conftest import files_end_at
from tests.small import same_knowledge

TENSORS = {
    "weights": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([1.5], dtype=torch.float16),
    "double": torch.tensor([[1e-300]], dtype=torch.float64),
    "count": torch.tensor(7),
    "right": torch.tensor([True, False]),
    "none": torch.empty(0, 4),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "channels last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A file of tensors."""
    path = tmp_path / "folder" / "kept.safetensors"
    write_tensors(path, TENSORS)
    return path


def listed(tensors: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Tensors in the order of `TENSORS`: a file need not keep it."""
    assert tensors is not None
    assert tensors.keys() == TENSORS.keys()
    return {name: tensors[name] for name in TENSORS}


class TestFiles:
    def test_tensors_come_back_as_they_were(self, kept: Path) -> None:
        assert same_knowledge(listed(read_tensors(kept)), TENSORS)

    def test_nothing_but_the_file_is_left(self, kept: Path) -> None:
        assert [file.name for file in kept.parent.iterdir()] == [kept.name]

    def test_equal_tensors_make_equal_files(self, kept: Path) -> None:
        other = kept.with_name("other.safetensors")
        write_tensors(other, TENSORS)
        assert other.read_bytes() == kept.read_bytes()

    def test_a_later_file_replaces_an_earlier_one(self, kept: Path) -> None:
        write_tensors(kept, {"weights": torch.ones(1)})
        replaced = read_tensors(kept)
        assert replaced is not None
        assert replaced.keys() == {"weights"}

    def test_no_tensors_are_a_file_too(self, tmp_path: Path) -> None:
        write_tensors(tmp_path / "empty", {})
        assert read_tensors(tmp_path / "empty") == {}

    def test_one_tensor_may_stand_under_two_names(self, tmp_path: Path) -> None:
        # A server that sends everybody the same keeps it once a client.
        same = torch.arange(3.0)
        write_tensors(tmp_path / "twice", {"to 0": same, "to 1": same, "part": same[:2]})
        read = read_tensors(tmp_path / "twice")
        assert read is not None
        assert torch.equal(read["to 0"], same)
        assert torch.equal(read["to 1"], same)
        assert torch.equal(read["part"], same[:2])

    def test_a_missing_file_reads_as_none(self, tmp_path: Path) -> None:
        assert read_tensors(tmp_path / "absent") is None
        assert read_tensors(tmp_path) is None

    def test_a_file_cut_short_anywhere_reads_as_none(self, kept: Path) -> None:
        whole = kept.read_bytes()
        for length in {0, 1, 31, 32, 33, 40, len(whole) // 2, len(whole) - 1}:
            kept.write_bytes(whole[:length])
            assert read_tensors(kept) is None, length

    def test_a_file_with_one_bit_changed_anywhere_reads_as_none(self, kept: Path) -> None:
        whole = kept.read_bytes()
        for place in range(0, len(whole), 7):
            kept.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert read_tensors(kept) is None, place

    def test_a_file_with_something_appended_reads_as_none(self, kept: Path) -> None:
        kept.write_bytes(kept.read_bytes() + b"\0")
        assert read_tensors(kept) is None

    @pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x04N.", bytes(200)])
    def test_a_file_of_something_else_reads_as_none(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "other").write_bytes(content)
        assert read_tensors(tmp_path / "other") is None

    def test_a_failed_write_leaves_the_earlier_file(self, kept: Path) -> None:
        with files_end_at(100), pytest.raises(UserError, match="File too large"):
            write_tensors(kept, {"weights": torch.ones(100)})
        assert same_knowledge(listed(read_tensors(kept)), TENSORS)
        assert [file.name for file in kept.parent.iterdir()] == [kept.name]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_cannot_be_written_is_the_users_to_mend(self, tmp_path: Path) -> None:
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        with pytest.raises(UserError, match="cannot be written"):
            write_tensors(tmp_path / "file", TENSORS)

    def test_a_file_where_a_folder_should_be_is_the_users_to_mend(self, tmp_path: Path) -> None:
        (tmp_path / "folder").write_text("")
        with pytest.raises(UserError, match="cannot be written"):
            write_tensors(tmp_path / "folder" / "file", TENSORS)
        with pytest.raises(UserError, match="cannot be written"), alone(tmp_path / "folder" / "file"):
            pass


def count_up(path: Path, times: int, together: Barrier) -> None:
    """Read, wait, write one more: loses counts wherever two are at it."""
    together.wait(60)
    for _ in range(times):
        with alone(path):
            count = int(path.read_text())
            time.sleep(0.002)
            path.write_text(str(count + 1))


class TestLock:
    def test_processes_take_turns(self, tmp_path: Path) -> None:
        path = tmp_path / "count.txt"
        path.write_text("0")
        spawn = multiprocessing.get_context("spawn")
        together = spawn.Barrier(2)
        others = [spawn.Process(target=count_up, args=(path, 100, together)) for _ in range(2)]
        for process in others:
            process.start()
        for process in others:
            process.join(60)
        assert [process.exitcode for process in others] == [0, 0]
        assert path.read_text() == "200"

    def test_the_lock_is_free_again_after_a_failure(self, tmp_path: Path) -> None:
        for _ in range(2):
            with pytest.raises(ValueError, match="inside"), alone(tmp_path / "file"):
                raise ValueError("inside")

    def test_other_paths_are_not_waited_for(self, tmp_path: Path) -> None:
        with alone(tmp_path / "one.x"), alone(tmp_path / "two.x"):
            pass

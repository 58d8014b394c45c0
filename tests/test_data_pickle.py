"""Pickles of plain data: what the pickle module itself reads, and nothing that runs."""

from __future__ import annotations

import contextlib
import pickle
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.base.errors import UserError
from fedkd.data.plain_pickle import _encode, read_plain_pickle
from tests.test_data_published import DUMPS, batch, python2

BATCH = batch(3, 0)


@pytest.mark.parametrize("written_by", DUMPS)
def test_a_batch_comes_back(written_by: str) -> None:
    found = read_plain_pickle(DUMPS[written_by](BATCH), "here")
    assert found.keys() == BATCH.keys()
    assert np.array_equal(found["data"], BATCH["data"])
    assert found["data"].dtype == np.uint8
    assert found["labels"] == BATCH["labels"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", range(6))
def test_arrays_in_either_order(order: Any, protocol: int) -> None:
    array = np.asarray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), order=order)
    assert np.array_equal(read_plain_pickle(pickle.dumps(array, protocol), "here"), array)


def asking(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls a function with a text."""
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(np.zeros(3)), "an array of type 'f8'; only uint8 is read"),
        (pickle.dumps(np.array([None])), "an array of type 'O8'"),
        (pickle.dumps(OrderedDict(a=1)), r"it asks for collections\.OrderedDict; only plain data"),
        (pickle.dumps(np.uint8(1)), "it asks for numpy.*scalar"),
        (pickle.dumps(np.array), r"it asks for numpy\.array"),
        (pickle.dumps(Path("x")), "it asks for pathlib"),
        (pickle.dumps(len), r"it asks for builtins\.len"),
        (asking("os", "system", "true"), r"it asks for os\.system"),
        (asking("builtins", "eval", "1"), r"it asks for builtins\.eval"),
        (asking("numpy.core.multiarray._reconstruct.__globals__", "x", "1"), "it asks for numpy"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"it asks for os\.system"),
        (b"Pelsewhere\n.", "an outside object, 'elsewhere'"),
    ],
)
def test_what_asks_for_more_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_plain_pickle(content, "here")
    assert str(caught.value).startswith("here is refused")


def test_nothing_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",)

    content = pickle.dumps({"data": Evil()})
    pickle.loads(content)
    assert (tmp_path / "ran").exists(), "it does run where it is unpickled"
    (tmp_path / "ran").unlink()
    with pytest.raises(UserError, match=r"is refused: it asks for builtins\.exec"):
        read_plain_pickle(content, "here")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_cannot_change_what_the_next_one_meets() -> None:
    # _codecs.encode with other defaults, set as the state of a slot.
    content = b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__U\x02xx\x85s\x86b."
    with contextlib.suppress(UserError):
        read_plain_pickle(content, "here")
    assert _encode("ü") == b"\xfc"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        b"<html></html>",
        b"\x80\x04N",
        b"\x80\x04N\x94r\xff\xff\xff\x7f.",
        pickle.dumps(BATCH)[:-5000],
        pickle.dumps(BATCH, 2).replace(b"u1", b"u2"),
        python2(BATCH).replace((3 * 3072).to_bytes(4, "little"), (3 * 3072 - 1).to_bytes(4, "little")),
        python2(BATCH).replace(b"M\x00\x0c", b"M\x01\x0c"),
    ],
)
def test_damaged_ones_are_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^here is (damaged or no pickle|refused)"):
        read_plain_pickle(content, "here")


def test_a_huge_memo_number_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="memo number 33554432"):
            read_plain_pickle(b"\x80\x02Nr\x00\x00\x00\x02.", "here")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@given(st.data())
def test_any_damage_gives_plain_data_or_the_users_error(data: st.DataObject) -> None:
    whole = DUMPS[data.draw(st.sampled_from(sorted(DUMPS)))]({"labels": [1, 2], "data": np.zeros((2, 3), np.uint8)})
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    loaded = set(sys.modules)
    with contextlib.suppress(UserError):
        read_plain_pickle(bytes(changed), "here")
    assert set(sys.modules) == loaded, "a name that was asked for was imported"

"""Loading by source string: digits, the registry, a cache that is whole, shared, rebuilt when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fedkd.base.catalogue import summary
from fedkd.base.errors import UserError
from fedkd.base.spec import parse
from fedkd.data import SOURCES, Dataset, cache_root, load, loading


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    path = tmp_path / "arrays.npz"
    np.savez(path, images=np.arange(48, dtype=np.uint8).reshape(12, 2, 2), labels=np.arange(12) % 3)
    return path


def forget() -> None:
    """As if in a new process."""
    loading._RECENT.clear()


def prepared(cache: Path) -> list[Path]:
    return sorted(cache.glob("datasets/*.safetensors"))


def same(a: Dataset, b: Dataset) -> bool:
    pairs = [(a.images, b.images), (a.labels, b.labels), (a.train, b.train), (a.test, b.test)]
    return a.fingerprint == b.fingerprint and all(torch.equal(x, y) for x, y in pairs)


class TestDigits:
    def test_content(self) -> None:
        digits = load("digits")
        assert (digits.name, digits.shape, digits.peak) == ("digits", (1, 8, 8), 16)
        assert digits.images.shape == (1797, 1, 8, 8)
        assert digits.images.dtype == torch.uint8
        assert digits.labels.dtype == digits.train.dtype == digits.test.dtype == torch.int64
        assert digits.classes == tuple("0123456789")
        assert torch.equal(torch.cat([digits.train, digits.test]).sort().values, torch.arange(1797))

    def test_a_fifth_of_every_class_is_for_testing(self) -> None:
        digits = load("digits")
        assert len(digits.test) == round(0.2 * 1797)
        shares = torch.bincount(digits.labels[digits.test]) / torch.bincount(digits.labels)
        assert ((shares - 0.2).abs() < 0.01).all()

    def test_pixels_are_between_0_and_1(self) -> None:
        digits = load("digits")
        pixels = digits.pixels(digits.test[:50])
        assert pixels.shape == (50, 1, 8, 8)
        assert pixels.dtype == torch.float32
        assert (pixels.min().item(), pixels.max().item()) == (0, 1)
        assert torch.equal(pixels * 16, digits.images[digits.test[:50]].float())

    def test_the_second_load_takes_milliseconds(self) -> None:
        first = load("digits")
        took = []
        for _ in range(3):
            forget()
            start = time.perf_counter()
            second = load("digits")
            took.append(time.perf_counter() - start)
            assert same(first, second)
        assert min(took) < 0.01


def test_two_processes_prepare_once_and_the_other_needs_no_scikit_learn(cache: Path) -> None:
    script = (
        "import sys; from fedkd.data import load; calls = [];"
        "print(load('digits', lambda *call: calls.append(call)).fingerprint, bool(calls),"
        "'sklearn' in sys.modules)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in "ab"]
    printed = sorted(process.communicate(timeout=120)[0].split() for process in processes)
    assert [line[1:] for line in printed] == [["False", "False"], ["True", "True"]]
    assert printed[0][0] == printed[1][0] == load("digits").fingerprint
    assert len(prepared(cache)) == 1


def test_threads_prepare_once(arrays: Path) -> None:
    prepared_by = set()
    found: list[Dataset] = []

    def work() -> None:
        found.append(load(f"npz:{arrays}", lambda *_: prepared_by.add(threading.get_ident())))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(prepared_by) == 1
    assert len(found) == 4
    assert all(same(found[0], other) for other in found)


class TestCache:
    def test_images_are_mapped_from_the_file(self, arrays: Path, cache: Path) -> None:
        dataset = load(f"npz:{arrays}")
        maps = Path("/proc/self/maps")
        if not maps.exists():
            pytest.skip("this system does not list a process's mappings")
        assert str(prepared(cache)[0]) in maps.read_text()
        assert len(dataset.images) == 12

    def test_the_same_content_has_the_same_fingerprint(self, arrays: Path, tmp_path: Path) -> None:
        with np.load(arrays) as content:
            np.savez_compressed(tmp_path / "other.npz", **content)
            np.savez(tmp_path / "changed.npz", images=content["images"] ^ 1, labels=content["labels"])
        one, other, changed = (load(f"npz:{p}") for p in (arrays, tmp_path / "other.npz", tmp_path / "changed.npz"))
        assert one.fingerprint == other.fingerprint != changed.fingerprint

    def test_columns_are_content(self, arrays: Path) -> None:
        with np.load(arrays) as content:
            plain = dict(content)
        seen = set()
        for columns in ({}, {"writer": np.arange(12)}, {"writer": np.arange(12)[::-1]}, {"site": np.arange(12)}):
            np.savez(arrays, **plain, **columns)
            seen.add(load(f"npz:{arrays}").fingerprint)
        assert len(seen) == 4, "a partition by column depends on them"

    def test_the_name_is_the_source_as_given(self, arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(arrays.parent)
        assert load("npz:arrays.npz").name == "npz:arrays.npz"
        assert load(f"npz:{arrays}").name == f"npz:{arrays}"

    def test_a_changed_file_is_read_anew(self, arrays: Path) -> None:
        before = load(f"npz:{arrays}")
        np.savez(arrays, images=np.zeros((12, 2, 2), np.uint8), labels=np.arange(12) % 3)
        os.utime(arrays, ns=(1, 1))
        after = load(f"npz:{arrays}")
        assert after.images.sum() == 0
        assert before.fingerprint != after.fingerprint
        assert before.images.sum() > 0, "what was loaded before is left alone"

    @pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "another layout"])
    def test_a_damaged_file_is_rebuilt(self, arrays: Path, cache: Path, damage: str) -> None:
        first = load(f"npz:{arrays}")
        fingerprint = first.fingerprint
        (file,) = prepared(cache)
        whole = file.read_bytes()
        content = {"cut": whole[:-7], "empty": b"", "garbage": b"\xff" * len(whole)}.get(
            damage, whole.replace(b'"fedkd"', b'"other"')
        )
        # In place of the file, as a mapped one must not shrink under its reader.
        file.unlink()
        file.write_bytes(content)
        forget()
        assert load(f"npz:{arrays}").fingerprint == fingerprint
        assert prepared(cache)[0].read_bytes() == whole

    def test_what_a_killed_process_left_is_no_obstacle(self, arrays: Path, cache: Path) -> None:
        load(f"npz:{arrays}")
        (file,) = prepared(cache)
        file.rename(file.with_name(f"{file.name}.partial"))
        forget()
        load(f"npz:{arrays}")
        assert sorted(path.suffix for path in file.parent.iterdir()) == [".lock", ".safetensors"]

    def test_nothing_stays_behind_when_preparing_fails(self, arrays: Path, cache: Path) -> None:
        arrays.write_bytes(arrays.read_bytes()[:-40])
        with pytest.raises(UserError):
            load(f"npz:{arrays}")
        assert {path.suffix for path in cache.glob("datasets/*")} <= {".lock"}

    def test_a_cache_that_cannot_be_written(self, cache: Path) -> None:
        cache.write_text("a file where the folder should be")
        with pytest.raises(UserError, match="FEDKD_CACHE"):
            load("digits")

    def test_where_it_is(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert cache_root() == tmp_path / "cache"
        monkeypatch.delenv("FEDKD_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_root() == tmp_path / "xdg" / "fedkd"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_root() == tmp_path / ".cache" / "fedkd"


def test_only_the_last_few_are_kept_in_memory(tmp_path: Path) -> None:
    forget()
    for i in range(6):
        np.savez(tmp_path / f"{i}.npz", images=np.full((4, 1, 1), i, np.uint8), labels=np.arange(4) % 2)
        load(f"npz:{tmp_path}/{i}.npz")
    assert len(loading._RECENT) == 4


class TestSourceStrings:
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("digit", "did you mean 'digits'"),
            ("npy:x.npz", "did you mean 'npz'"),
            ("https://example.org/x.npz", "unknown data source.*Known: cifar10, .*digits, .*images, .*npz"),
            ("", "Known: cifar10, "),
            ("npz", "it is written npz:FILE"),
            ("npz:", "it is written npz:FILE"),
            ("digits:8", "it is written digits"),
        ],
    )
    def test_wrong_ones(self, source: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            load(source)

    def test_a_bare_path_gets_its_source(self, arrays: Path) -> None:
        with pytest.raises(UserError, match=f"write npz:{arrays}"):
            load(str(arrays))
        with pytest.raises(UserError, match=f"write images:{arrays.parent}"):
            load(str(arrays.parent))

    def test_every_source_describes_itself(self) -> None:
        assert {"digits", "npz", "images"} <= set(SOURCES.names)
        for name in SOURCES.names:
            kind = SOURCES.find(parse(name))
            assert kind.usage.startswith(name)
            assert summary(kind)


class TestLimit:
    def test_a_subset_keeps_the_proportions_of_border_and_classes(self) -> None:
        whole, part = load("digits"), load("digits(limit=600)")
        assert len(part.train) + len(part.test) == 600
        assert abs(len(part.test) / 600 - len(whole.test) / 1797) < 0.002
        for split in ("train", "test"):
            counts, shares = (
                each.labels[getattr(each, split)].bincount() / len(getattr(each, split)) for each in (part, whole)
            )
            assert float((counts - shares).abs().max()) < 0.01

    def test_it_is_part_of_the_whole_and_the_same_again(self) -> None:
        whole, part, again = load("digits"), load("digits(limit=300)"), load("digits(limit=300)")
        assert set(part.train.tolist()) <= set(whole.train.tolist())
        assert set(part.test.tolist()) <= set(whole.test.tolist())
        assert torch.equal(part.train, again.train)
        assert part.fingerprint == again.fingerprint != whole.fingerprint
        assert part.images.data_ptr() == whole.images.data_ptr(), "nothing is copied"

    def test_all_images_are_the_whole(self) -> None:
        whole = load("digits(limit=1797)")
        assert torch.equal(whole.train, load("digits").train)

    @pytest.mark.parametrize(
        ("limit", "message"), [("1798", "there are 1797"), ("5", "no training image of class"), ("-1", "number"),
                               ("true", "number"), ("2.5", "number")]
    )  # fmt: skip
    def test_what_cannot_be_is_refused(self, limit: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            load(f"digits(limit={limit})")


def test_a_relative_path_is_looked_for_in_the_mirror_too(
    arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="cannot be read"):
        load(f"npz:{arrays.name}")
    monkeypatch.setenv("FEDKD_DATA", str(arrays.parent))
    found = load(f"npz:{arrays.name}")
    assert found.name == f"npz:{arrays.name}"
    assert found.fingerprint == load(f"npz:{arrays}").fingerprint

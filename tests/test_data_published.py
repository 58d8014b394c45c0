"""Data sets by name, from a mirror: small files in the published formats, held to torchvision's own reading."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import savemat
from torchvision import datasets

from fedkd.base.errors import UserError
from fedkd.data import load

EMNIST_CLASSES = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}


@pytest.fixture(autouse=True)
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDKD_DATA", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"


def idx(array: NDArray[Any]) -> bytes:
    """An array of bytes in the format of MNIST's files."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def idx_files(classes: int = 10, first: int = 0, size: tuple[int, int] = (5, 4)) -> dict[str, bytes]:
    """The four files, by MNIST's names: two images a class for training, one for testing."""
    rng, files = np.random.default_rng(classes), {}
    for part, n in (("train", 2 * classes), ("t10k", classes)):
        files[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (n, *size)))
        files[f"{part}-labels-idx1-ubyte"] = idx(rng.permutation(np.arange(n) % classes) + first)
    return files


def written(folder: Path, files: dict[str, bytes], *, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def both(train: Any, test: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, labels) of torchvision's training and test sets, one after the other."""
    images = [torch.as_tensor(np.asarray(part.data)) for part in (train, test)]
    labels = [
        torch.as_tensor(np.asarray(getattr(part, "targets", getattr(part, "labels", None)))) for part in (train, test)
    ]
    return torch.cat(images), torch.cat(labels)


class TestMNIST:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize(("name", "known"), [("mnist", datasets.MNIST), ("fashion_mnist", datasets.FashionMNIST)])
    def test_it_is_what_torchvision_reads(self, mirror: Path, name: str, known: Any, packed: bool) -> None:
        folder = mirror / known.__name__ / "raw"
        written(folder, idx_files(), packed=packed)
        dataset = load(name)
        written(folder, idx_files())
        images, labels = both(known(mirror, train=True), known(mirror, train=False))
        assert torch.equal(dataset.images[:, 0], images)
        assert torch.equal(dataset.labels, labels)
        assert dataset.test.tolist() == list(range(20, 30))
        assert (dataset.shape, dataset.peak, dataset.name) == ((1, 5, 4), 255, name)
        assert [text.split(" - ")[0] for text in known.classes] == list(dataset.classes)

    def test_a_changed_mirror_is_read_anew(self, mirror: Path) -> None:
        folder = written(mirror / "MNIST" / "raw", idx_files())
        before = load("mnist").fingerprint
        (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(10)[::-1]))
        os.utime(folder / "t10k-labels-idx1-ubyte", ns=(1, 1))
        assert load("mnist").fingerprint != before

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("train-images-idx3-ubyte", lambda c: c[:-1], "20×5×4 values are announced, 399 are there"),
            ("train-images-idx3-ubyte", lambda c: c + b"x", "at least 401 are there"),
            ("train-images-idx3-ubyte", lambda c: c[:6], "damaged or cut short"),
            ("train-images-idx3-ubyte", lambda _: b"", "begins with "),
            ("train-images-idx3-ubyte", lambda c: b"<html>" + c, "begins with 3c 68 74 6d"),
            ("train-images-idx3-ubyte", lambda c: c[:4] + b"\xff" * 12 + c[16:], "are announced, 400 are there"),
            ("train-labels-idx1-ubyte", lambda c: c[:2] + b"\x0b" + c[3:], "begins with 00 00 0b 01"),
            ("train-labels-idx1-ubyte", lambda _: idx(np.arange(19) % 10), "training part has 20 images but labels"),
            ("train-labels-idx1-ubyte", lambda _: idx(np.arange(20)), "labels go up to 19; 0 to 9 are needed"),
            ("t10k-images-idx3-ubyte", lambda _: idx(np.zeros((10, 4, 4))), r"images have shape \(1, 5, 4\), test"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, mirror: Path, name: str, change: Callable[[bytes], bytes], message: str
    ) -> None:
        files = idx_files()
        written(mirror / "MNIST" / "raw", files | {name: change(files[name])})
        with pytest.raises(UserError, match=message) as caught:
            load("mnist")
        assert str(mirror / "MNIST" / "raw") in str(caught.value)
        assert not list(mirror.parent.glob("cache/datasets/*.safetensors"))

    def test_a_class_without_an_image(self, mirror: Path) -> None:
        files = idx_files()
        gap = {name: content.replace(b"\x03", b"\x04") for name, content in files.items() if "labels" in name}
        written(mirror / "MNIST" / "raw", files | gap)
        with pytest.raises(UserError, match="no image has label 3"):
            load("mnist")
        written(mirror / "MNIST" / "raw", idx_files(classes=7))
        with pytest.raises(UserError, match="labels go up to 6; 0 to 9 are needed"):
            load("mnist")

    def test_compressed_files_are_refused_wherever_they_are_cut(self, mirror: Path) -> None:
        folder = written(mirror / "MNIST" / "raw", idx_files(), packed=True)
        file = folder / "train-images-idx3-ubyte.gz"
        whole = file.read_bytes()
        for content in (whole[:5], whole[: len(whole) // 2], whole[:-8], whole[:-1], whole[:-8] + bytes(8), b"no gzip"):
            file.write_bytes(content)
            with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is damaged, cut short"):
                load("mnist")


class TestMirror:
    def test_what_is_missing_is_named(self, mirror: Path) -> None:
        folder = written(mirror / "MNIST" / "raw", idx_files())
        (folder / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(UserError, match=r"has MNIST/raw/train-images-idx3-ubyte, but lacks MNIST/raw/t10k-labels"):
            load("mnist")

    @pytest.mark.parametrize("ending", [".partial", ".part", ".crdownload"])
    def test_a_half_downloaded_file_is_said_to_be_one(self, mirror: Path, ending: str) -> None:
        (mirror / f"cifar-10-python.tar.gz{ending}").write_bytes(b"half")
        with pytest.raises(UserError, match=f"cifar-10-python.tar.gz{ending} is half-downloaded"):
            load("cifar10")

    def test_a_mirror_that_is_no_folder(self, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FEDKD_DATA", str(mirror / "none"))
        with pytest.raises(UserError, match=r"FEDKD_DATA is .*none', which is not a folder"):
            load("svhn")


class TestEMNIST:
    def files(self, split: str) -> dict[str, bytes]:
        own = idx_files(EMNIST_CLASSES[split], first=split == "letters")
        return {f"emnist-{split}-{name.replace('t10k', 'test')}": content for name, content in own.items()}

    def zipped(self, path: Path, split: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in self.files(split).items():
                archive.writestr(f"gzip/{name}.gz", gzip.compress(content))
            archive.writestr("gzip/emnist-other-mapping.txt", "0 48")

    @pytest.mark.parametrize("split", EMNIST_CLASSES)
    def test_it_is_what_torchvision_reads_but_upright(self, mirror: Path, tmp_path: Path, split: str) -> None:
        self.zipped(mirror / "EMNIST" / "raw" / "gzip.zip", split)
        dataset = load(f'emnist(split="{split}")')
        written(tmp_path / "plain" / "EMNIST" / "raw", self.files(split))
        known = [datasets.EMNIST(tmp_path / "plain", split, train=train) for train in (True, False)]
        images, labels = both(*known)
        assert torch.equal(dataset.images[:, 0], images.transpose(1, 2))
        assert dataset.shape == (1, 4, 5)
        assert torch.equal(dataset.labels, labels - int(split == "letters"))
        assert list(dataset.classes) == [name for name in known[0].classes if name != "N/A"]

    def test_the_default_is_balanced_and_unpacked_files_are_read(self, mirror: Path) -> None:
        self.zipped(mirror / "EMNIST" / "raw" / "gzip.zip", "balanced")
        packed = load("emnist")
        (mirror / "EMNIST" / "raw" / "gzip.zip").unlink()
        written(mirror / "EMNIST" / "raw" / "gzip", self.files("balanced"), packed=True)
        assert load("emnist").fingerprint == packed.fingerprint
        with pytest.raises(UserError, match="split"):
            load('emnist(split="byname")')

    def test_a_split_that_the_archive_lacks(self, mirror: Path) -> None:
        self.zipped(mirror / "EMNIST" / "raw" / "gzip.zip", "digits")
        with pytest.raises(UserError, match=r"gzip\.zip holds 0 files emnist-letters-train-images-idx3-ubyte\.gz"):
            load('emnist(split="letters")')


def python2(content: dict[str, Any]) -> bytes:
    """A pickle as Python 2 and the NumPy of then wrote it, in which CIFAR was published: text is bytes."""

    def value(item: Any) -> bytes:
        if isinstance(item, str):
            return b"U" + bytes([len(item)]) + item.encode()
        if isinstance(item, list):
            return b"](" + b"".join(map(value, item)) + b"e"
        if isinstance(item, int):
            return b"M" + int(item).to_bytes(2, "little")
        kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
        rows, width = item.shape
        values = b"\x89T" + int(item.size).to_bytes(4, "little") + bytes(item)
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return empty + b"(K\x01" + value(rows) + value(width) + b"\x86" + kind + values + b"tb"

    return b"\x80\x02}(" + b"".join(value(key) + value(item) for key, item in content.items()) + b"u."


def pickled(protocol: int) -> Callable[[Any], bytes]:
    return lambda content: pickle.dumps(content, protocol)


DUMPS = {"python 2": python2} | {f"protocol {protocol}": pickled(protocol) for protocol in (0, 2, 4, 5)}


def batch(n: int, seed: int, key: str = "labels", classes: int = 10, **more: list[int]) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    labels = [int(label) for label in np.arange(n) % classes]
    return {"batch_label": "part", key: labels, "data": rng.integers(0, 256, (n, 3072)).astype(np.uint8)} | more


def cifar10_files(dumps: Callable[[Any], bytes]) -> dict[str, bytes]:
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    files = {name: dumps(batch(10 + i, i)) for i, name in enumerate(names)}
    return files | {"batches.meta": dumps({"label_names": list("abcdefghij"), "num_vis": 3072})}


def tarred(path: Path, files: dict[str, bytes], folder: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def trust(known: Any, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torchvision take small files for the published ones."""

    def md5(name: str) -> str:
        return hashlib.md5(files[name]).hexdigest()

    for listing in ("train_list", "test_list"):
        monkeypatch.setattr(known, listing, [[name, md5(name)] for name, _ in getattr(known, listing)])
    monkeypatch.setattr(known, "meta", known.meta | {"md5": md5(known.meta["filename"])})


class TestCIFAR:
    def expected(self, known: Any, root: Path) -> tuple[torch.Tensor, torch.Tensor]:
        with warnings.catch_warnings():
            # NumPy's modules have moved since those pickles.
            warnings.simplefilter("ignore", DeprecationWarning)
            images, labels = both(known(root, train=True), known(root, train=False))
        return images.permute(0, 3, 1, 2), labels

    @pytest.mark.parametrize("written_by", DUMPS)
    def test_cifar10_is_what_torchvision_reads(
        self, mirror: Path, monkeypatch: pytest.MonkeyPatch, written_by: str
    ) -> None:
        files = cifar10_files(DUMPS[written_by])
        written(mirror / "cifar-10-batches-py", files)
        trust(datasets.CIFAR10, files, monkeypatch)
        dataset = load("cifar10")
        images, labels = self.expected(datasets.CIFAR10, mirror)
        assert torch.equal(dataset.images, images)
        assert torch.equal(dataset.labels, labels)
        assert dataset.classes == tuple("abcdefghij")
        assert dataset.test.tolist() == list(range(60, 75))

    def test_the_archive_is_the_same_as_its_folder(self, mirror: Path) -> None:
        files = cifar10_files(python2)
        folder = written(mirror / "cifar-10-batches-py", files)
        unpacked = load("cifar10").fingerprint
        folder.rename(mirror / "elsewhere")
        tarred(mirror / "cifar-10-python.tar.gz", files | {"readme.html": b"<html>"}, "cifar-10-batches-py")
        assert load("cifar10").fingerprint == unpacked

    def test_cifar100_and_its_superclasses(self, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        coarse = [i % 20 for i in range(100)]
        files = {
            name: python2(batch(100, seed, "fine_labels", 100, coarse_labels=coarse))
            for seed, name in enumerate(("train", "test"))
        } | {"meta": python2({"fine_label_names": [f"c{i}" for i in range(100)]})}
        written(mirror / "cifar-100-python", files)
        trust(datasets.CIFAR100, files, monkeypatch)
        dataset = load("cifar100")
        images, labels = self.expected(datasets.CIFAR100, mirror)
        assert torch.equal(dataset.images, images)
        assert torch.equal(dataset.labels, labels)
        assert dataset.columns["superclass"].tolist() == 2 * coarse
        assert dataset.classes[99] == "c99"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"data_batch_2": pickle.dumps([1])}, "data_batch_2 holds a list; a dictionary is needed"),
            ({"data_batch_2": pickle.dumps({"labels": [1]})}, "data_batch_2 has no entry 'data'; it holds labels"),
            ({"data_batch_2": pickle.dumps({"data": [1], "labels": [1]})}, "'data' is a list; rows of 3072"),
            (
                {"data_batch_2": pickle.dumps({"data": np.zeros((2, 7), np.uint8), "labels": [1, 1]})},
                r"'data' is an array of shape \(2, 7\)",
            ),
            ({"data_batch_2": pickle.dumps(batch(4, 0, labels=[1, 2]))}, "'data' has 4 images, but 'labels' has 2"),
            ({"data_batch_2": pickle.dumps(batch(2, 0, labels=[1, -2]))}, "not a list of small whole numbers"),
            ({"data_batch_2": pickle.dumps(batch(2, 0, labels=[1, 11]))}, "labels go up to 11|no image has label 10"),
            ({"data_batch_2": pickle.dumps(batch(2, 0))[:-900]}, "data_batch_2 is damaged or no pickle"),
            ({"data_batch_2": b""}, "data_batch_2 is damaged or no pickle"),
            ({"batches.meta": pickle.dumps({"label_names": [1]})}, "'label_names' is not a list of names"),
            ({"batches.meta": pickle.dumps({"label_names": ["a", "b"]})}, "labels go up to 9; 0 to 1 are needed"),
        ],
    )
    @pytest.mark.parametrize("archive", [False, True])
    def test_what_is_wrong_is_named(self, mirror: Path, change: dict[str, bytes], message: str, archive: bool) -> None:
        files = cifar10_files(pickled(4)) | change
        if archive:
            tarred(mirror / "cifar-10-python.tar.gz", files, "cifar-10-batches-py")
        else:
            written(mirror / "cifar-10-batches-py", files)
        with pytest.raises(UserError, match=message) as caught:
            load("cifar10")
        assert str(mirror) in str(caught.value)

    def test_archives_that_lack_a_batch_are_cut_or_reach_out(self, mirror: Path) -> None:
        files = cifar10_files(pickled(4))
        path = mirror / "cifar-10-python.tar.gz"
        tarred(path, {name: content for name, content in files.items() if name != "test_batch"}, "cifar-10-batches-py")
        with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz: test_batch is not in the archive"):
            load("cifar10")
        tarred(path, files, "cifar-10-batches-py").write_bytes(path.read_bytes()[:-20])
        with pytest.raises(UserError, match="is damaged, cut short"):
            load("cifar10")
        tarred(path, files | {"../../evil": b"x"}, "cifar-10-batches-py")
        with pytest.raises(UserError, match="points outside of the archive"):
            load("cifar10")


class TestSVHN:
    def arrays(self, n: int, seed: int) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        return {
            "X": rng.integers(0, 256, (6, 5, 3, n)).astype(np.uint8),
            "y": (np.arange(n)[:, None] % 10 + 1).astype(np.uint8),
        }

    def saved(self, folder: Path, **changes: Any) -> None:
        for split, n in (("train", 30), ("test", 20)):
            arrays = {key: value for key, value in (self.arrays(n, n) | changes).items() if value is not None}
            savemat(folder / f"{split}_32x32.mat", arrays, do_compression=True)

    def test_it_is_what_torchvision_reads(self, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.saved(mirror)
        listing = {
            split: [url, name, hashlib.md5((mirror / name).read_bytes()).hexdigest()]
            for split, (url, name, _) in datasets.SVHN.split_list.items()
            if split != "extra"
        }
        monkeypatch.setattr(datasets.SVHN, "split_list", listing)
        dataset = load("svhn")
        images, labels = both(datasets.SVHN(mirror, "train"), datasets.SVHN(mirror, "test"))
        assert torch.equal(dataset.images, images)
        assert torch.equal(dataset.labels, labels)
        assert dataset.shape == (3, 6, 5)
        assert dataset.labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
        assert dataset.test.tolist() == list(range(30, 50))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"X": None}, r"train_32x32\.mat holds no array 'X'"),
            ({"y": None}, r"train_32x32\.mat holds no array 'y'"),
            ({"X": np.zeros((6, 5, 3, 30))}, "X is float64"),
            ({"X": np.zeros((6, 5, 4, 30), np.uint8)}, r"X is uint8 of shape \(6, 5, 4, 30\)"),
            ({"y": np.ones((29, 1), np.uint8)}, r"y is uint8 of shape \(29, 1\); whole numbers \(30, 1\)"),
            ({"y": np.array([["a"] * 30])}, "y is <U"),
        ],
    )
    def test_what_is_wrong_is_named(self, mirror: Path, changes: dict[str, Any], message: str) -> None:
        self.saved(mirror, **changes)
        with pytest.raises(UserError, match=message):
            load("svhn")

    def test_damaged_files(self, mirror: Path) -> None:
        self.saved(mirror)
        file = mirror / "train_32x32.mat"
        whole = file.read_bytes()
        for content in (b"", b"no matlab" * 40, whole[:200], whole[: len(whole) // 2], whole[:-9]):
            file.write_bytes(content)
            with pytest.raises(UserError, match=r"train_32x32\.mat (is damaged|holds no array)"):
                load("svhn")

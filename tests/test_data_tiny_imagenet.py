"""Tiny ImageNet as a folder and as the published archive."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedkd.base.errors import UserError
from fedkd.data import load
from fedkd.data.sources.tiny_imagenet import TinyImageNet

FOLDER = "tiny-imagenet-200"
WNIDS = ("n02", "n01", "n03")


@pytest.fixture(autouse=True)
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDKD_DATA", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"


def jpeg(value: int, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> bytes:
    data = io.BytesIO()
    Image.new("L", size, value).convert(mode).save(data, "JPEG", quality=100)
    return data.getvalue()


def files() -> dict[str, bytes]:
    """Three classes, four images each for training and two for testing; the grey level tells which is which."""
    found = {
        f"train/{wnid}/images/{wnid}_{i}.JPEG": jpeg(60 * label + 10 * i, "L" if i == 3 else "RGB")
        for label, wnid in enumerate(WNIDS)
        for i in range(4)
    }
    found |= {f"val/images/val_{i}.JPEG": jpeg(60 * (i % 3) + 5) for i in range(6)}
    found |= {f"train/{wnid}/{wnid}_boxes.txt": b"x\t0\t0\t9\t9\n" for wnid in WNIDS}
    lines = "".join(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t62\t62\n" for i in range(6))
    return found | {
        "val/val_annotations.txt": lines.encode(),
        "words.txt": b"n01\tcrane\nn02\tEgyptian cat, mau\nn03\tcrane\nn99\tdog\n",
        "wnids.txt": b"",
        "test/images/test_0.JPEG": b"not read",
    }


def unpacked(mirror: Path, content: Mapping[str, bytes]) -> Path:
    for name, data in content.items():
        (mirror / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / FOLDER / name).write_bytes(data)
    return mirror / FOLDER


def packed(mirror: Path, content: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(mirror / f"{FOLDER}.zip", "w") as archive:
        archive.mkdir(FOLDER)
        for name, data in content.items():
            archive.writestr(f"{FOLDER}/{name}", data)
    return mirror / f"{FOLDER}.zip"


def test_images_labels_and_border(mirror: Path) -> None:
    unpacked(mirror, files())
    dataset = load("tiny_imagenet")
    assert dataset.shape == (3, 8, 8)
    assert (len(dataset.train), len(dataset.test)) == (12, 6)
    assert dataset.classes == ("crane (n01)", "Egyptian cat", "crane (n03)")
    grey = dataset.images[:, 0, 0, 0].to(torch.int64)
    assert torch.equal(dataset.images, grey.to(torch.uint8)[:, None, None, None].expand_as(dataset.images))
    shown = [WNIDS.index(("n01", "n02", "n03")[label]) for label in dataset.labels.tolist()]
    assert shown == (grey // 60).tolist()
    assert (grey[dataset.test] % 60).tolist() == [5] * 6


def test_the_archive_is_the_same_as_its_folder(mirror: Path) -> None:
    folder = unpacked(mirror, files() | {"train/n01/images/._n01_0.JPEG": b"left by an archiver"})
    fingerprint = load("tiny_imagenet").fingerprint
    folder.rename(mirror / "elsewhere")
    packed(mirror, files())
    assert load("tiny_imagenet").fingerprint == fingerprint


def test_without_words_the_classes_have_their_numbers(mirror: Path) -> None:
    unpacked(mirror, {name: content for name, content in files().items() if name != "words.txt"})
    assert load("tiny_imagenet").classes == ("n01", "n02", "n03")


def test_what_is_downloaded(mirror: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (remote,) = TinyImageNet().remotes()
    assert remote.path in TinyImageNet().pieces()[0]
    path = packed(mirror, files())
    content = path.read_bytes()
    path.unlink()
    target = tmp_path / "cache" / "downloads" / remote.path
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    with pytest.raises(UserError, match=f"not the published file.*{remote.md5}"):
        load("tiny_imagenet")
    monkeypatch.setattr("fedkd.data.sources.tiny_imagenet.MD5", hashlib.md5(content).hexdigest())
    assert len(load("tiny_imagenet").images) == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val/val_annotations.txt": None}, r"lacks val/val_annotations\.txt"),
        ({"val/val_annotations.txt": b"val_0.JPEG\tn01\n"}, "says nothing about val/images/val_1.JPEG"),
        ({"val/val_annotations.txt": b"val_0.JPEG\tn77\n"}, "says 'n77', of which train/ has no image about"),
        ({"val/val_annotations.txt": b"val_0.JPEG n01\n"}, "line 1 has one column, 'val_0.JPEG n01'"),
        ({"words.txt": b"\xff\xfe"}, r"words\.txt is not text"),
        ({"train/n03/images/n03_2.JPEG": jpeg(0, size=(8, 9))}, r"n03_2\.JPEG is 9×8 RGB"),
        ({"train/n03/images/n03_2.JPEG": jpeg(0, "CMYK")}, r"n03_2\.JPEG has mode CMYK"),
        ({"train/n03/images/n03_2.JPEG": jpeg(0)[:200]}, r"n03_2\.JPEG cannot be decoded"),
        ({name: None for name in files() if name.startswith("val/images")}, "no image in val/images"),
        ({name: None for name in files() if name.startswith("train/")}, "holds 0 folders train/CLASS/images"),
    ],
)
@pytest.mark.parametrize("make", [unpacked, packed])
def test_what_is_wrong_is_named(
    mirror: Path, make: Callable[[Path, Mapping[str, bytes]], Path], change: dict[str, bytes | None], message: str
) -> None:
    content = {name: data for name, data in (files() | change).items() if data is not None}
    where = make(mirror, content)
    with pytest.raises(UserError, match=message) as caught:
        load("tiny_imagenet")
    assert str(where) in str(caught.value)
    assert not list(mirror.parent.glob("cache/datasets/*.safetensors"))


def test_an_archive_cut_short(mirror: Path) -> None:
    path = packed(mirror, files())
    whole = path.read_bytes()
    for end in (30, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="damaged, cut short or no zip archive"):
            load("tiny_imagenet")


def test_decoded_as_pillow_does(mirror: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    data = io.BytesIO()
    noise.save(data, "JPEG")
    unpacked(mirror, files() | {"train/n01/images/n01_0.JPEG": data.getvalue()})
    expected = np.asarray(Image.open(io.BytesIO(data.getvalue())))
    assert np.array_equal(load("tiny_imagenet").images[0].permute(1, 2, 0).numpy(), expected)

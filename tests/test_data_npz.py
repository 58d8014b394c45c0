"""NumPy archives: what they may hold, and what is said about those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.base.errors import UserError
from fedkd.data import Dataset, load

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "arrays.npz"


def arrays(**changes: Any) -> dict[str, Any]:
    """Twelve 3×2 grey images in three classes."""
    plain = {"images": np.arange(72, dtype=np.uint8).reshape(12, 3, 2), "labels": np.arange(12) % 3}
    return {key: array for key, array in (plain | changes).items() if array is not None}


def saved(path: Path, **changes: Any) -> Dataset:
    np.savez(path, **arrays(**changes))
    return load(f"npz:{path}")


def test_grey_and_colour_images(path: Path, tmp_path: Path) -> None:
    grey = saved(path)
    assert grey.shape == (1, 3, 2)
    assert (grey.peak, grey.classes) == (255, ("0", "1", "2"))
    assert torch.equal(grey.images[:, 0], torch.arange(72, dtype=torch.uint8).reshape(12, 3, 2))
    colours = np.arange(12 * 3 * 2 * 3, dtype=np.uint8).reshape(12, 3, 2, 3)
    rgb = saved(tmp_path / "rgb.npz", images=colours)
    assert rgb.shape == (3, 3, 2)
    assert np.array_equal(rgb.images.numpy(), colours.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i4", np.uint64])
def test_labels_of_any_integer_type(path: Path, dtype: Any) -> None:
    assert saved(path, labels=(np.arange(12) % 3).astype(dtype)).labels.tolist() == [0, 1, 2] * 4


def test_without_a_border_a_seeded_sixth_of_every_class_is_for_testing(path: Path, tmp_path: Path) -> None:
    many = arrays(images=np.zeros((180, 1, 1), np.uint8), labels=np.repeat([0, 1, 2], [90, 60, 30]))
    first, second = saved(path, **many), saved(tmp_path / "again.npz", **many)
    assert torch.bincount(first.labels[first.test]).tolist() == [15, 10, 5]
    assert torch.equal(first.test, second.test)
    assert torch.equal(torch.cat([first.train, first.test]).sort().values, torch.arange(180))


def test_the_border_in_the_file_is_kept(path: Path) -> None:
    border = np.arange(12) >= 9
    dataset = saved(path, is_test=border)
    assert dataset.test.tolist() == [9, 10, 11]
    assert dataset.train.tolist() == list(range(9))
    assert "is_test" not in dataset.columns


def test_another_array_can_be_the_border(path: Path) -> None:
    one, other = np.arange(12) >= 9, np.arange(12) < 4
    by_default = saved(path, is_test=one, peer_is_test=other)
    named = load(f'npz:{path}(test="peer_is_test")')
    assert by_default.test.tolist() == [9, 10, 11]
    assert named.test.tolist() == [0, 1, 2, 3]
    assert list(named.columns) == ["is_test"]
    assert np.array_equal(named.columns["is_test"], one)
    drawn = load(f'npz:{path}(test="")')
    assert torch.bincount(drawn.labels[drawn.test]).tolist() == [1, 1]
    assert set(drawn.columns) == {"is_test", "peer_is_test"}


def test_a_border_that_is_not_there(path: Path) -> None:
    saved(path, peer_is_test=np.arange(12) < 4, short=np.arange(3) == 1)
    with pytest.raises(UserError, match=r"no array 'peer_is_tset'.*boolean arrays of shape \(12,\) are peer_is_test"):
        load(f'npz:{path}(test="peer_is_tset")')
    with pytest.raises(UserError, match=r"short is bool of shape \(3,\) with 1 true; it must be bool of shape \(12,\)"):
        load(f'npz:{path}(test="short")')
    saved(path)
    with pytest.raises(UserError, match=r"no array 'mine'.*it has no boolean array"):
        load(f'npz:{path}(test="mine")')


def test_arrays_of_equal_length_become_columns(path: Path) -> None:
    columns = {
        "writer": np.array([f"Ü{i % 3}" for i in range(12)]),
        "weight": np.linspace(0, 1, 12),
        "place": np.arange(24, dtype=">i4").reshape(12, 2),
        "odd": np.arange(12) % 2 == 1,
    }
    dataset = saved(path, **columns, note=np.array("made by hand"), short=np.arange(3), none=np.zeros((12, 0)))
    assert set(dataset.columns) == set(columns)
    for name, column in columns.items():
        assert np.array_equal(dataset.columns[name], column)
        assert dataset.columns[name].dtype == column.dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "has no array 'images'; it holds labels"),
        ({"labels": None}, "has no array 'labels'; it holds images"),
        ({"images": np.zeros((12, 3, 2))}, "images is float64 of shape .*; it must be uint8"),
        ({"images": np.zeros((12, 6), np.uint8)}, "it must be uint8 of shape"),
        ({"images": np.zeros((12, 0, 2), np.uint8)}, "it must be uint8 of shape"),
        ({"images": np.zeros((12, 3, 8, 8), np.uint8)}, "channels go last"),
        ({"labels": np.arange(11) % 3}, "has 12 images but 11 labels"),
        ({"labels": (np.arange(12) % 3) * 1.0}, "labels is float64 .* must be integers"),
        ({"labels": np.arange(12) % 2 == 0}, "labels is bool"),
        ({"labels": np.eye(12, dtype=int)}, r"labels is int64 of shape \(12, 12\)"),
        ({"labels": np.arange(12) % 3 - 1}, "labels holds -1"),
        (
            {"labels": np.arange(12) % 3 * 2},
            "up to 4, but no image has label 1, 3; number the classes 0 to 2",
        ),
        ({"labels": np.arange(12) % 3 + 10**15}, "no image has label 0, 1, 2 and others"),
        ({"labels": np.zeros(12, int)}, "one class only"),
        ({"labels": np.array([], int)}, "labels is empty"),
        ({"labels": np.arange(12)}, "one image a class"),
        ({"is_test": np.arange(12) % 2}, "is_test is int64 .* must be bool"),
        ({"is_test": np.zeros(11, bool)}, r"must be bool of shape \(12,\)"),
        ({"is_test": np.zeros(12, bool)}, "with 0 true"),
        ({"images": np.array([None] * 12)}, "holds Python objects"),
        ({"extra": np.array([{}] * 12)}, "holds Python objects"),
    ],
)
def test_what_is_wrong_is_named(path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        saved(path, **changes)
    assert str(path) in str(caught.value)
    assert not list(path.parent.glob("cache/datasets/*.safetensors"))


def test_files_that_are_no_archive(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        load(f"npz:{path}")
    with pytest.raises(UserError, match="is a folder"):
        load(f"npz:{tmp_path}")
    np.savez_compressed(path, **arrays(images=np.random.default_rng(0).integers(0, 256, (12, 30, 30), np.uint8)))
    whole = path.read_bytes()
    middle = len(whole) // 3
    torn = whole[:middle] + bytes(64) + whole[middle + 64 :]
    for content in (b"", b"no archive", whole[:200], whole[:-30], torn):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged or no \.npz archive"):
            load(f"npz:{path}")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(UserError, match="is a single array"):
        load(f"npz:{tmp_path / 'single.npy'}")


@pytest.mark.skipif(not (SHARED / "mnist.npz").exists(), reason="../shared/data/mnist.npz is absent")
def test_mnist() -> None:
    mnist = load(f"npz:{SHARED / 'mnist.npz'}")
    assert mnist.images.shape == (70_000, 1, 28, 28)
    assert mnist.columns["peer_client"].shape == (70_000,)
    assert mnist.columns["peer_is_test"].dtype == bool
    assert len(mnist.test) == round(70_000 / 6)
    assert len(mnist.classes) == 10
    peers = load(f'npz:{SHARED / "mnist.npz"}(test="peer_is_test")')
    assert np.array_equal(peers.test.numpy(), np.flatnonzero(mnist.columns["peer_is_test"]))
    assert "peer_client" in peers.columns

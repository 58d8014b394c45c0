"""A manifest survives the file, and no change to the file survives the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partitions.contract import PartitionError
from partitions.deal import Deal


def array(*indices: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(indices, np.int64)


def make(**changes: Any) -> Deal:
    fields: dict[str, Any] = {
        "strategy": "dirichlet(alpha=0.5)",
        "dataset": "digits",
        "seed": 3,
        "clients": (array(4, 0), array(7), array(9, 2)),
        "transfer": array(1, 3),
        "val": (array(5), array(), array(8)),
        "dropped": array(6),
    }
    return Deal(**(fields | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partition.json"


@pytest.mark.parametrize("val", [(array(5), array(), array(8)), (array(), array(), array()), array(5, 8), array()])
def test_round_trip(path: Path, val: Any) -> None:
    manifest = make(val=val)
    manifest.save(path)
    loaded = Deal.load(path)
    assert loaded.sha256 == manifest.sha256
    assert (loaded.strategy, loaded.dataset, loaded.seed) == ("dirichlet(alpha=0.5)", "digits", 3)
    assert [c.tolist() for c in loaded.clients] == [[4, 0], [7], [9, 2]]
    assert isinstance(loaded.val, tuple) == isinstance(val, tuple)
    assert all(c.dtype == np.int64 for c in loaded.clients)
    assert [f.name for f in path.parent.iterdir()] == ["partition.json"], "nothing half-written stays behind"


def test_keys_are_the_contract(path: Path) -> None:
    make().save(path)
    content = json.loads(path.read_text())
    promised = {"strategy", "dataset", "seed", "sha256", "clients", "transfer", "val", "dropped"}
    assert set(content) == promised | {"local_test", "transfer_dataset", "measures"}


def test_the_hash_is_of_the_contents_not_of_the_layout(path: Path) -> None:
    make().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    assert Deal.load(path).sha256 == make().sha256


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "iid"},
        {"dataset": "digits "},
        {"seed": 4},
        {"clients": (array(0, 4), array(7), array(9, 2))},
        {"clients": (array(4), array(0, 7), array(9, 2))},
        {"transfer": array(1)},
        {"val": array(5, 8)},
        {"val": (array(), array(5), array(8))},
        {"dropped": array()},
    ],
)
def test_every_field_is_in_the_hash(changes: dict[str, Any]) -> None:
    assert make(**changes).sha256 != make().sha256


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 5, "changed after it was written"),
        ("clients", [[4, 0], [7], [9]], "changed after it was written"),
        ("sha256", "0" * 64, "changed after it was written"),
        ("sha256", None, "sha256 must be a string, not null"),
        ("strategy", ["iid"], "strategy must be a string, not a list"),
        ("seed", True, "seed must be an integer, not a boolean"),
        ("seed", 1.0, "seed must be an integer, not the number 1.0"),
        ("clients", {"0": [1]}, "clients must be a list of lists of indices, not an object"),
        ("clients", [1, 2], r"clients\[0\] must be a list of indices, not the number 1"),
        ("clients", [], "clients is empty"),
        ("clients", [[4, True]], r"clients\[0\] holds true; indices must be integers"),
        ("transfer", [1.0], "transfer holds 1.0"),
        ("transfer", [-1], "transfer holds the index -1; indices must be 0 or more"),
        ("transfer", [2**70], "transfer holds an index beyond 64 bits"),
        ("transfer", [4], r"index 4 is in clients\[0\] and again in transfer"),
        ("val", [[5], [], [9]], r"index 9 is in clients\[2\] and again in val\[2\]"),
        ("val", [[5]], "val has 1 lists for 3 clients"),
        ("val", [[5], 3, [8]], r"val\[1\] must be a list"),
        ("dropped", [6, 6], "index 6 is in dropped and again in dropped"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(path: Path, key: str, value: Any, message: str) -> None:
    make().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(PartitionError, match=message) as caught:
        Deal.load(path)
    assert str(caught.value).startswith(str(path))


def test_missing_and_unknown_keys(path: Path) -> None:
    make().save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in content.items() if k != "val"}))
    with pytest.raises(PartitionError, match="key 'val' is missing"):
        Deal.load(path)
    path.write_text(json.dumps(content | {"validation": []}))
    with pytest.raises(PartitionError, match="key 'validation' is unknown"):
        Deal.load(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"seed": 3'])
def test_torn_files(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(PartitionError, match="not JSON"):
        Deal.load(path)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(PartitionError, match="cannot be read"):
        Deal.load(tmp_path / "none.json")
    with pytest.raises(PartitionError, match="cannot be written"):
        make().save(tmp_path / "none" / "partition.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(PartitionError, match="not a list"):
        Deal.load(tmp_path / "list.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PartitionError, match="not JSON"):
        Deal.load(tmp_path / "binary.json")


def test_checked_holds_indices_to_the_training_array() -> None:
    assert make().checked(10).seed == 3
    with pytest.raises(PartitionError, match=r"clients\[2\] holds the index 9; indices must be 0 to 8"):
        make().checked(9)
    with pytest.raises(PartitionError, match="again in val"):
        make(val=array(3)).checked(10)


def test_overlaps_are_not_saved(path: Path) -> None:
    with pytest.raises(PartitionError, match="index 6 is in transfer and again in dropped"):
        make(transfer=array(6)).save(path)
    assert not path.exists()


def test_counts() -> None:
    labels = np.arange(10) % 3
    assert make().counts(labels, 4).tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0]]

"""A manifest survives the file, and no change to the file survives the manifest; a split can be read from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd.base.errors import UserError
from partitions.contract import PartitionError, Samples, apply
from partitions.manifest import Manifest
from partitions.split import Split
from simulations.splits import write_manifest


def array(*indices: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(indices, np.int64)


def make(**changes: Any) -> Split:
    fields: dict[str, Any] = {
        "strategy": "dirichlet(alpha=0.5)",
        "dataset": "digits",
        "seed": 3,
        "clients": (array(4, 0), array(7), array(9, 2)),
        "transfer": array(1, 3),
        "val": (array(5), array(), array(8)),
        "dropped": array(6),
    }
    return Split(**(fields | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partition.json"


@pytest.mark.parametrize("val", [(array(5), array(), array(8)), (array(), array(), array()), array(5, 8), array()])
def test_round_trip(path: Path, val: Any) -> None:
    manifest = make(val=val)
    write_manifest(path, manifest)
    loaded = Split.load(path)
    assert loaded.sha256 == manifest.sha256
    assert (loaded.strategy, loaded.dataset, loaded.seed) == ("dirichlet(alpha=0.5)", "digits", 3)
    assert [c.tolist() for c in loaded.clients] == [[4, 0], [7], [9, 2]]
    assert isinstance(loaded.val, tuple) == isinstance(val, tuple)
    assert all(c.dtype == np.int64 for c in loaded.clients)
    assert [f.name for f in path.parent.iterdir()] == ["partition.json"], "nothing half-written stays behind"


def test_keys_are_the_contract(path: Path) -> None:
    write_manifest(path, make())
    content = json.loads(path.read_text())
    promised = {"strategy", "dataset", "seed", "sha256", "clients", "transfer", "val", "dropped"}
    assert set(content) == promised | {"local_test", "transfer_dataset", "measures"}


def test_the_hash_is_of_the_contents_not_of_the_layout(path: Path) -> None:
    write_manifest(path, make())
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    assert Split.load(path).sha256 == make().sha256


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
        {"local_test": (array(0), array(), array(1))},
        {"local_test": (array(), array(0), array(1))},
        {"transfer_dataset": "mnist"},
        {"measures": {"size_gini": 0.5}},
        {"measures": {"size_gini": 0.25}},
    ],
)
def test_every_field_is_in_the_hash(changes: dict[str, Any]) -> None:
    unlike = make(measures={"size_gini": 0.25}) if changes == {"measures": {"size_gini": 0.5}} else make()
    assert make(**changes).sha256 != unlike.sha256


def test_the_keys_of_measures_have_no_order(path: Path) -> None:
    split = make(measures={"b": [1, None], "a": 0.1})
    write_manifest(path, split)
    assert Split.load(path).measures == {"a": 0.1, "b": [1, None]}
    assert split.sha256 == make(measures={"a": 0.1, "b": [1, None]}).sha256


@pytest.mark.parametrize("measures", [{"gini": float("nan")}, {"gini": np.float32(0.5)}, {"gini": {1, 2}}])
def test_measures_are_json(measures: dict[str, Any], path: Path) -> None:
    with pytest.raises(PartitionError, match="measures must be a JSON object"):
        write_manifest(path, make(measures=measures))
    assert not path.exists()


def test_local_tests_point_into_the_test_array(path: Path) -> None:
    # The same numbers as in the training lists: other samples.
    split = make(local_test=(array(4, 0), array(), array(7)))
    write_manifest(path, split)
    loaded = Split.load(path).checked(10, 8)
    assert [own.tolist() for own in loaded.local_test] == [[4, 0], [], [7]]
    with pytest.raises(PartitionError, match=r"local_test\[2\] holds the index 7; indices must be 0 to 6"):
        loaded.checked(10, 7)
    with pytest.raises(PartitionError, match=r"index 4 is in local_test\[0\] and again in local_test\[1\]"):
        write_manifest(path, make(local_test=(array(4), array(4), array())))
    with pytest.raises(PartitionError, match="local_test has 2 lists for 3 clients"):
        make(local_test=(array(4), array())).checked()


def test_a_transfer_set_of_another_data_set_is_held_to_itself(path: Path) -> None:
    split = make(transfer=array(4, 5, 1000), transfer_dataset="mnist")
    write_manifest(path, split)
    loaded = Split.load(path).checked(10)
    assert (loaded.transfer.tolist(), loaded.transfer_dataset) == ([4, 5, 1000], "mnist")
    with pytest.raises(PartitionError, match="index 4 is in transfer and again in transfer"):
        make(transfer=array(4, 4), transfer_dataset="mnist").checked()
    with pytest.raises(PartitionError, match="again in transfer"):
        make(transfer=array(4)).checked()


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
        ("local_test", {}, "local_test must be a list of lists of indices, not an object"),
        ("local_test", [[0]], "local_test has 1 lists for 3 clients"),
        ("local_test", [[0], [1], [0]], r"index 0 is in local_test\[0\] and again in local_test\[2\]"),
        ("local_test", [[0], [1], []], "changed after it was written"),
        ("transfer_dataset", None, "transfer_dataset must be a string, not null"),
        ("transfer_dataset", "mnist", "changed after it was written"),
        ("measures", [], "measures must be an object, not a list"),
        ("measures", {"a": float("nan")}, "measures must be a JSON object of finite numbers"),
        ("measures", {"a": 1}, "changed after it was written"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(path: Path, key: str, value: Any, message: str) -> None:
    write_manifest(path, make())
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(PartitionError, match=message) as caught:
        Split.load(path)
    assert str(caught.value).startswith(str(path))


def test_missing_and_unknown_keys(path: Path) -> None:
    write_manifest(path, make())
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in content.items() if k != "val"}))
    with pytest.raises(PartitionError, match="key 'val' is missing"):
        Split.load(path)
    path.write_text(json.dumps(content | {"validation": []}))
    with pytest.raises(PartitionError, match="key 'validation' is unknown"):
        Split.load(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"seed": 3'])
def test_torn_files(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(PartitionError, match="not JSON"):
        Split.load(path)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(PartitionError, match="cannot be read"):
        Split.load(tmp_path / "none.json")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_manifest(tmp_path / "file" / "partition.json", make())
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(PartitionError, match="not a list"):
        Split.load(tmp_path / "list.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PartitionError, match="not JSON"):
        Split.load(tmp_path / "binary.json")


def test_checked_holds_indices_to_the_training_array() -> None:
    assert make().checked(10).seed == 3
    with pytest.raises(PartitionError, match=r"clients\[2\] holds the index 9; indices must be 0 to 8"):
        make().checked(9)
    with pytest.raises(PartitionError, match="again in val"):
        make(val=array(3)).checked(10)


def test_overlaps_are_not_saved(path: Path) -> None:
    with pytest.raises(PartitionError, match="index 6 is in transfer and again in dropped"):
        write_manifest(path, make(transfer=array(6)))
    assert not path.exists()


def test_counts() -> None:
    labels = np.arange(10) % 3
    assert make().counts(labels, 4).tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0]]


class TestStrategy:
    @pytest.fixture
    def manifest(self, path: Path) -> Manifest:
        write_manifest(path, make())
        return Manifest(str(path))

    def test_every_sample_goes_to_its_owner(self, manifest: Manifest) -> None:
        # The transfer set, positions 1 and 3, has been set aside before, and the samples come in another order.
        positions = array(9, 8, 7, 6, 5, 4, 2, 0)
        samples = Samples(positions % 3, positions=positions)
        partition = apply(manifest, samples, 3, seed=0)
        owned = [positions[own].tolist() for own in partition.clients]
        # A client's validation samples are its own, in the order of the file.
        assert owned == [[4, 0, 5], [7], [9, 2, 8]]
        assert positions[partition.dropped].tolist() == [6]

    def test_what_is_not_there_to_be_dealt_goes_to_nobody(self, manifest: Manifest) -> None:
        positions = array(9, 7, 5, 4, 2)
        partition = apply(manifest, Samples(np.zeros(5, np.int64), positions=positions), 3, seed=0)
        assert [positions[own].tolist() for own in partition.clients] == [[4, 5], [7], [9, 2]]

    def test_samples_that_the_file_gives_to_nobody_are_dropped(self, manifest: Manifest) -> None:
        partition = apply(manifest, Samples(np.zeros(20, np.int64)), 3, seed=0)
        assert sorted(partition.dropped.tolist()) == [1, 3, 6, *range(10, 20)]

    def test_validation_at_the_server_is_nobody_s(self, path: Path) -> None:
        write_manifest(path, make(val=array(5, 8)))
        partition = apply(Manifest(str(path)), Samples(np.zeros(10, np.int64)), 3, seed=0)
        assert sorted(partition.dropped.tolist()) == [1, 3, 5, 6, 8]

    def test_a_client_left_without_samples_is_named(self, manifest: Manifest) -> None:
        samples = Samples(np.zeros(10, np.int64)).some(array(0, 1, 2, 3, 4, 5))
        with pytest.raises(PartitionError, match=r"of the 6 samples .* none to client 1"):
            apply(manifest, samples, 3, seed=0)

    def test_reading_the_whole_deal(self, manifest: Manifest) -> None:
        split = manifest.read("digits", 10, 5, 3)
        assert split.transfer.tolist() == [1, 3]
        for arguments, message in (
            (("digits", 10, 5, 4), "splits among 3 clients, not 4; set clients = 3"),
            (("mnist", 10, 5, 3), "splits the data set 'digits', not 'mnist'"),
            (("digits", 9, 5, 3), r"does not fit 'digits' with its 9 training and 5 test samples: clients\[2\] holds"),
        ):
            with pytest.raises(PartitionError, match=message):
                manifest.read(*arguments)
        with pytest.raises(PartitionError, match="set clients = 3"):
            apply(manifest, Samples(np.zeros(10, np.int64)), 2, seed=0)
        with pytest.raises(PartitionError, match=r"none\.json: the manifest cannot be read"):
            Manifest(str(Path(manifest.file).with_name("none.json"))).read("digits", 10, 5, 3)

    def test_local_tests_fit_the_test_array(self, path: Path) -> None:
        write_manifest(path, make(local_test=(array(4), array(), array())))
        with pytest.raises(PartitionError, match=r"local_test\[0\] holds the index 4; indices must be 0 to 3"):
            Manifest(str(path)).read("digits", 10, 4, 3)

    @pytest.mark.parametrize(
        ("written", "asked", "fits"),
        [
            ("npz:/old/place/mnist.npz", "npz:mnist.npz", True),
            ("npz:C:\\data\\mnist.npz", "npz:../mnist.npz", True),
            ("images:data/photos/", "images:/srv/photos", True),
            ("npz:mnist.npz", "npz:mnist2.npz", False),
            ("npz:mnist.npz", "images:mnist.npz", False),
            ("npz:a/m.npz(labels='y')", "npz:m.npz(labels='y')", True),
            ("npz:a/m.npz(labels='y')", "npz:m.npz", False),
            ("synthetic(classes=3)", "synthetic(classes=4)", False),
            ("digits", "digits", True),
        ],
    )
    def test_a_file_that_was_moved_still_fits(self, written: str, asked: str, fits: bool, path: Path) -> None:
        write_manifest(path, make(dataset=written))
        manifest = Manifest(str(path))
        if fits:
            assert manifest.read(asked, 10, 0, 3).dataset == written
        else:
            with pytest.raises(PartitionError, match="splits the data set"):
                manifest.read(asked, 10, 0, 3)

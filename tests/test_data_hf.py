"""Data sets in the Hugging Face layout, from a folder, and what is said where the hub cannot be reached."""

from __future__ import annotations

import http.server
import io
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fedkd.base.errors import UserError
from fedkd.data import load, loading

CLASSES = ["cat", "dog", "owl"]
N = {"train": 12, "test": 6}


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDKD_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    # Its own cache, so that nothing is found that another test or the user has loaded.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    loading._RECENT.clear()
    yield
    datasets.enable_progress_bars()


def pixels(split: str, size: tuple[int, ...] = (5, 4, 3)) -> Any:
    return np.random.default_rng(len(split)).integers(0, 256, (N[split], *size)).astype(np.uint8)


def encoded(image: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


def table(split: str, **changes: Any) -> dict[str, Any]:
    """The columns of one split; a change replaces one of them by a list or, with None, takes it out."""
    n = N[split]
    columns: dict[str, Any] = {
        "image": [{"bytes": encoded(image), "path": None} for image in pixels(split)],
        "label": [i % 3 for i in range(n)],
        "writer": [f"Ü{i % 4}" for i in range(n)],
        "site": [i % 5 for i in range(n)],
        "left": [i % 2 == 1 for i in range(n)],
        "score": [0.5] * n,
        "box": [[0, 1]] * n,
        "gaps": [None, 1] * (n // 2),
        "story": ["once upon a time " * 20] * n,
    }
    return {key: value for key, value in (columns | changes).items() if value is not None}


def saved(folder: Path, splits: tuple[str, ...] = ("train", "test"), features: Any = None, **changes: Any) -> Path:
    """A folder with one parquet file a split."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)} | (features or {})
    for split in splits:
        content = table(split, **{key: value(split) if callable(value) else value for key, value in changes.items()})
        part = datasets.Dataset.from_dict(content)
        for key, kind in kinds.items():
            if key in content and kind is not None:
                part = part.cast_column(key, kind)
        part.to_parquet(folder / f"{split}-00000.parquet")
    return folder


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    dataset = load(f"hf:{saved(tmp_path / 'set')}")
    assert dataset.classes == tuple(CLASSES)
    expected = np.concatenate([pixels("train"), pixels("test")]).transpose(0, 3, 1, 2)
    assert np.array_equal(dataset.images.numpy(), expected)
    assert dataset.labels.tolist() == [i % 3 for i in range(12)] + [i % 3 for i in range(6)]
    assert dataset.test.tolist() == list(range(12, 18))
    assert not list((tmp_path / "cache" / "downloads").iterdir()), "the library's own copy is removed"


def test_columns_are_kept_for_natural_partitions(tmp_path: Path) -> None:
    dataset = load(f"hf:{saved(tmp_path / 'set')}")
    assert set(dataset.columns) == {"writer", "site", "left"}
    for name, column in dataset.columns.items():
        assert column.tolist() == table("train")[name] + table("test")[name]
    assert dataset.columns["left"].dtype == bool


def test_other_names_and_text_labels(tmp_path: Path) -> None:
    folder = saved(
        tmp_path / "set",
        features={"img": datasets.Image(), "kind": None},
        image=None,
        label=None,
        img=lambda split: table(split)["image"],
        kind=lambda split: [CLASSES[i % 3] for i in range(N[split])],
    )
    dataset = load(f'hf:{folder}(image="img", label="kind")')
    assert dataset.classes == tuple(CLASSES)
    assert dataset.labels[:4].tolist() == [0, 1, 2, 0]


def test_plain_numbers_are_labels(tmp_path: Path) -> None:
    dataset = load(f"hf:{saved(tmp_path / 'set', features={'label': None})}")
    assert dataset.classes == ("0", "1", "2")


def test_without_a_test_split_a_seeded_sixth(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", ("train",))
    with pytest.raises(UserError, match=r"has no split 'test'; it has 'train'.*test=\"\" takes a seeded sixth"):
        load(f"hf:{folder}")
    dataset = load(f'hf:{folder}(test="")')
    assert torch.bincount(dataset.labels[dataset.test]).tolist() == [1, 1]
    assert (len(dataset.train), len(dataset.test)) == (10, 2)
    swapped = load(f'hf:{saved(tmp_path / "both")}(train="test", test="train")')
    assert (len(swapped.train), len(swapped.test)) == (6, 12)


def test_images_in_class_folders(tmp_path: Path) -> None:
    for split, n in N.items():
        for i in range(n):
            file = tmp_path / "set" / split / CLASSES[i % 3] / f"{i:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(pixels(split)[i]))
    dataset, same = load(f"hf:{tmp_path / 'set'}"), load(f"images:{tmp_path / 'set'}")
    assert dataset.classes == same.classes == tuple(CLASSES)
    for border in ("train", "test"):
        mine, others = getattr(dataset, border), getattr(same, border)
        assert torch.equal(dataset.images[mine], same.images[others])
        assert torch.equal(dataset.labels[mine], same.labels[others])


def test_a_mirror_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "mirror" / "hf" / "someone" / "birds")
    monkeypatch.setenv("FEDKD_DATA", str(tmp_path / "mirror"))
    assert len(load("hf:someone/birds").images) == 18


def test_changed_files_and_parameters_are_noticed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set")
    first = load(f"hf:{folder}")
    assert load(f'hf:{folder}(label="site")').classes != first.classes
    saved(folder, label=lambda split: [i % 2 for i in range(N[split])], features={"label": None})
    assert load(f"hf:{folder}").fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("changes", "parameters", "message"),
    [
        ({}, '(image="img")', r"no column 'img' \(image=…\) in split train; it has image, label, writer"),
        ({}, '(label="lable")', r"no column 'lable' \(label=…\)"),
        ({}, '(image="site")', "the column 'site' is .*; image=… names a column of images"),
        ({}, '(label="score")', "the column 'score' is .*; label=… names a column of classes"),
        ({}, '(label="gaps")', "the column 'gaps' is .*, or has gaps"),
        ({"label": lambda split: [2 * (i % 2) for i in range(N[split])]}, "", "'label' .*no image has label 1"),
        ({"label": lambda split: [i % 2 for i in range(N[split])]}, "", "names 3 classes, but no image has label 2"),
        ({"label": lambda split: [-1] * N[split]}, "", "'label' holds -1"),
        (
            {
                "image": lambda split: [
                    *table(split)["image"][1:],
                    {"bytes": encoded(pixels(split)[0][:4]), "path": None},
                ]
            },
            "",
            r"train\[11\] is 4×4 RGB, but train\[0\] is 5×4 RGB; all images must have one size and mode",
        ),
        (
            {
                "image": lambda split: [
                    *table(split)["image"][1:],
                    {"bytes": encoded(pixels(split)[0, :, :, 0]), "path": None},
                ]
            },
            "",
            r"train\[11\] is 5×4 grey",
        ),
        (
            {"image": lambda split: [{"bytes": b"no image", "path": None}, *table(split)["image"][1:]]},
            "",
            r"train\[0\] cannot be decoded",
        ),
        ({}, '(subset="none")', "cannot be loaded .*BuilderConfig 'none' not found"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], parameters: str, message: str) -> None:
    folder = saved(tmp_path / "set", **changes)
    with pytest.raises(UserError, match=message) as caught:
        load(f"hf:{folder}{parameters}")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/datasets/*.safetensors"))


def test_a_file_cut_short(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set")
    file = folder / "train-00000.parquet"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UserError, match="cannot be loaded"):
        load(f"hf:{folder}")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(f"hf:{empty(tmp_path)}")


def empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


class Marks:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


class TestNothingRuns:
    def test_a_script_in_the_folder(self, tmp_path: Path) -> None:
        folder = saved(tmp_path / "set")
        (folder / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
        with pytest.raises(UserError, match=r"scripts are no longer supported, but found set\.py"):
            load(f"hf:{folder}")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("name", ["pandas", "parquet", "webdataset"])
    def test_the_names_of_builders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        # The library's "pandas" reads every file of the working directory as a pickle.
        monkeypatch.chdir(tmp_path)
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(Marks(tmp_path / "ran")))
        with pytest.raises(UserError, match="neither a folder nor the name of a data set"):
            load(f"hf:{name}")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("name", ["../x", "a/b/c", "https://example.org/x", "/none", "a b"])
    def test_what_is_no_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.chdir(tmp_path)  # a folder ../x may lie beside any other
        with pytest.raises(UserError, match="neither a folder nor the name of a data set, which is OWNER/NAME"):
            load(f"hf:{name}")


class TestHub:
    def fails(self, message: str, text: str = "hf:nobody/nothing") -> str:
        began = time.perf_counter()
        with pytest.raises(UserError, match=message) as caught:
            load(text)
        assert time.perf_counter() - began < 3
        return str(caught.value)

    def test_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
        said = self.fails("is not on this machine, and the hub cannot be reached")
        assert "http://127.0.0.1:1: Connection refused" in said
        assert "$FEDKD_DATA/hf/nobody/nothing" in said

    def test_offline_by_choice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        self.fails("HF_HUB_OFFLINE is set")

    def test_the_switches_are_put_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
        before = (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE, datasets.are_progress_bars_disabled())
        self.fails("cannot be reached")
        after = (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE, datasets.are_progress_bars_disabled())
        assert after == before

    def test_a_hub_without_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Nothing(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.do_HEAD()

            def log_message(self, format: str, *args: object) -> None: ...

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            address = f"http://127.0.0.1:{server.server_address[1]}"
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
            monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
            files = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
            monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
            try:
                self.fails("the hub has no such public data set; its name is OWNER/NAME")
            finally:
                server.shutdown()
                thread.join()


class TestSavedToDisk:
    @staticmethod
    def made() -> Any:
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
        parts = {split: datasets.Dataset.from_dict(table(split)) for split in N}
        for key, kind in kinds.items():
            parts = {split: part.cast_column(key, kind) for split, part in parts.items()}
        return datasets.DatasetDict(parts)

    def test_a_dictionary_of_splits_is_what_its_parquet_files_are(self, tmp_path: Path) -> None:
        self.made().save_to_disk(tmp_path / "disk")
        kept, parquet = load(f"hf:{tmp_path}/disk"), load(f"hf:{saved(tmp_path / 'parquet')}")
        assert kept.fingerprint == parquet.fingerprint
        assert kept.classes == tuple(CLASSES)
        assert sorted(kept.columns) == ["left", "site", "writer"]

    def test_a_single_data_set_is_its_training_split(self, tmp_path: Path) -> None:
        self.made()["train"].save_to_disk(tmp_path / "disk")
        with pytest.raises(UserError, match=r"disk has no split 'test'; it has 'train': give .* test=\"\" takes"):
            load(f"hf:{tmp_path}/disk")
        assert len(load(f"hf:{tmp_path}/disk(test='')").images) == N["train"]

    def test_images_of_many_sizes_are_brought_to_one(self, tmp_path: Path) -> None:
        made = self.made()
        small = [{"bytes": encoded(image[::2]), "path": None} for image in pixels("test")]
        made["test"] = (
            made["test"].remove_columns("image").add_column("image", small).cast_column("image", datasets.Image())
        )
        made.save_to_disk(tmp_path / "disk")
        with pytest.raises(UserError, match=r"test\[0\] is 3×4 RGB, but train\[0\] is 5×4 RGB; .*; size=3 brings"):
            load(f"hf:{tmp_path}/disk")
        assert load(f"hf:{tmp_path}/disk(size=4)").shape == (3, 4, 4)

    def test_a_damaged_one_is_said(self, tmp_path: Path) -> None:
        self.made().save_to_disk(tmp_path / "disk")
        next((tmp_path / "disk" / "train").glob("*.arrow")).write_bytes(b"no table")
        with pytest.raises(UserError, match=r"hf:.*disk cannot be loaded \(\w+: "):
            load(f"hf:{tmp_path}/disk")

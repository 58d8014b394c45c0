"""Wrong input is answered with one message that says what is wrong and what would be right, and leaves nothing behind.

Where it is not noticed before the study begins, an evening of computing is lost: so every case here also shows
that nothing had begun.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedkd.data import cache_root
from fedkd.models import build_model
from fedkd.models.checkpoint import save_checkpoint
from tests.conftest import TINY, Call, Ended, fedkd, written

Case = tuple[str, list[str]]
"""(what is given, what the message must name)"""


def seen(folder: Path) -> set[Path]:
    """Everything in a folder."""
    return set(folder.rglob("*"))


def half_written() -> list[Path]:
    """What an interrupted writer would leave in the cache."""
    return [path for pattern in ("*.partial", "*.tmp") for path in cache_root().rglob(pattern)]


def assert_one_message(ended: Ended, parts: list[str]) -> None:
    """Exit code 2, and one line on stderr that has all these parts."""
    assert ended.code == 2, ended.said
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in ended.said


Refused = Callable[..., None]


@pytest.fixture
def refused(call: Call, tmp_path: Path) -> Refused:
    """A command that must be refused with a message that has all these parts."""

    def refused(*arguments: object, parts: list[str]) -> None:
        before = seen(tmp_path)
        assert_one_message(call(*arguments), parts)
        assert seen(tmp_path) == before, "something is left behind"
        assert half_written() == []

    return refused


@pytest.fixture
def with_settings(refused: Refused, tmp_path: Path) -> Refused:
    """Settings with which the tiny study must be refused; they may name files of the working directory."""
    written(tmp_path / "study.toml", f'method = "local"\npartition = "iid"\n{TINY}')

    def with_settings(*settings: str, parts: list[str]) -> None:
        named = [word for setting in settings for word in ("--set", setting)]
        refused("run", "study.toml", "--engine", "inline", "--out", "results/new", *named, parts=parts)

    return with_settings


def test_the_tiny_study_is_right_as_it_stands(call: Call, tmp_path: Path) -> None:
    written(tmp_path / "study.toml", f'method = "local"\npartition = "iid"\n{TINY}')
    ended = call("run", "study.toml", "--engine", "inline", "--out", "results/new")
    assert (ended.code, ended.err) == (0, "")


class TestKeys:
    @pytest.mark.parametrize(
        ("setting", "parts"),
        [
            ("rouds=1", ["'rouds'", "did you mean 'rounds'?", "clients"]),
            ("pretrain.epoch=1", ["'pretrain.epoch'", "did you mean 'pretrain.epochs'?"]),
            ("optimizer='adam'", ["'optimizer'", "train.optimizer"]),
            ("rounds", ["'rounds'", "KEY=VALUE", "--set rounds=5"]),
            ("=3", ["'=3'", "KEY=VALUE"]),
            ("seed=[]", ["'seed'", "empty list", "at least one value"]),
            ("ray.num_cpus=[1.0, 2.0]", ["'ray.num_cpus'", "cannot be swept", "one value"]),
            ("pretrain=3", ["'pretrain'", "is a table", "found 3"]),
        ],
    )
    def test_in_an_override(self, setting: str, parts: list[str], with_settings: Refused) -> None:
        with_settings(setting, parts=parts)

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("rouds = 1\nmethod = 'kd'", ["'rouds'", "did you mean 'rounds'?"]),
            ("method = 'kd'\n[pretrian]\nepochs = 1", ["[pretrian]", "did you mean 'pretrain'?"]),
            ("method = 'kd'\n[train]\nlearning_rate = 0.1", ["'train.learning_rate'", "train.lr"]),
            ("method = 'kd'\n[pretrain.deep]\nepochs = 1", ["'pretrain.deep'", "pretrain.epochs"]),
            ("method = 'kd'\n[[pretrain]]\nepochs = 1", ["'pretrain'", "write [pretrain]"]),
            ("rounds = 1", ["'method'", "missing", 'method = "kd"']),
            ("method = ['kd'", ["mine.toml", "not TOML", "Unclosed array"]),
            ("method = 'kd'\nmethod = 'local'\n", ["mine.toml", "not TOML", "line 2"]),
            ("", ["'method'", "missing"]),
        ],
    )
    def test_in_a_file(self, text: str, parts: list[str], refused: Refused, tmp_path: Path) -> None:
        written(tmp_path / "mine.toml", text)
        refused("run", "mine.toml", "--engine", "inline", parts=parts)


class TestValues:
    @pytest.mark.parametrize(
        ("setting", "parts"),
        [
            ("rounds=-1", ["'rounds'", "greater than or equal to 0", "found -1"]),
            ('clients="ten"', ["'clients'", "integer", "found 'ten'"]),
            ("clients=ten", ["'clients'", "integer", "found 'ten'"]),
            ("clients=0", ["'clients'", "greater than or equal to 1", "found 0"]),
            ("clients=true", ["'clients'", "integer", "found True"]),
            ("clients=3.0", ["'clients'", "integer", "found 3.0"]),
            ("seed=1.5", ["'seed'", "integer", "found 1.5"]),
            ("seed=-1", ["'seed'", "greater than or equal to 0", "found -1"]),
            ("seed=[0, [1]]", ["'seed'", "integer", "found [1]"]),
            ("seed=99999999999999999999", ["'seed'", "found 99999999999999999999"]),
            ("train.lr=0", ["'train.lr'", "greater than 0", "found 0"]),
            ("pretrain.lr=-0.1", ["'pretrain.lr'", "greater than 0", "found -0.1"]),
            ("train.lr=nan", ["'train.lr'", "finite", "found nan"]),
            ("train.lr=inf", ["'train.lr'", "finite", "found inf"]),
            ("train.lr=fast", ["'train.lr'", "number", "found 'fast'"]),
            ("train.momentum=1.0", ["'train.momentum'", "less than 1", "found 1.0"]),
            ("train.batch_size=0", ["'train.batch_size'", "greater than 0", "found 0"]),
            ("train.epochs=0", ["'train.epochs'", "greater than 0", "found 0"]),
            ("train.optimizer=sdg", ["'train.optimizer'", "'sgd'", "'adam'", "found 'sdg'"]),
            ("pretrain.epochs=-1", ["'pretrain.epochs'", "'converged'", "greater than or equal to 0", "found -1"]),
            ("pretrain.epochs=converge", ["'pretrain.epochs'", "'converged'", "integer", "found 'converge'"]),
            ("save=first", ["'save'", "'last'", "'best'", "found 'first'"]),
            ("init=own", ["'init'", "'common'", "'per_client'", "found 'own'"]),
            ("val=server", ["'val'", "'local'", "found 'server'"]),
            ("ray.num_cpus=0", ["'ray.num_cpus'", "greater than 0", "found 0"]),
            ("ray.num_gpus=atuo", ["'ray.num_gpus'", "'auto'", "found 'atuo'"]),
            ("ray.address=host", ["'ray.address'", '"HOST:PORT"', "found 'host'"]),
            ("ray.shared_disk=maybe", ["'ray.shared_disk'", "'auto'", "found 'maybe'"]),
            (
                "ray.resources={ml={num_gpus=1}}",
                ["'ray.resources'", "no client has the model 'ml'", "did you mean 'mlp'"],
            ),
            ("ray.resources={cnn={gpus=1}}", ["'ray.resources'", "'gpus' is unknown", "did you mean 'num_gpus'"]),
            ("ray.resources={cnn=1}", ["'ray.resources'", "dictionary", "found {'cnn': 1}"]),
            ("ray.num_gpus=-1.0", ["'ray.num_gpus'", "greater than or equal to 0", "found -1.0"]),
            ("method=3", ["'method'", "string", "found 3"]),
            ("method=[['kd']]", ["'method'", "string", "found ['kd']"]),
        ],
    )
    def test_of_a_wrong_type_or_range(self, setting: str, parts: list[str], with_settings: Refused) -> None:
        with_settings(setting, parts=parts)


class TestSpecs:
    @pytest.mark.parametrize(
        ("setting", "parts"),
        [
            ("method=kdd", ["method 'kdd'", "did you mean 'kd'?", "tuned_kd"]),
            ("method=['local', 'kdd']", ["method 'kdd'", "did you mean 'kd'?"]),
            ("method=kd(temprature=2.0)", ["method kd", "'temprature'", "did you mean 'temperature'?"]),
            ("method=kd(temperature=0.0)", ["method kd", "temperature", "greater than or equal to 0.01", "found 0.0"]),
            ("method=kd(temperature='hot')", ["method kd", "temperature", "number", "found 'hot'"]),
            ("method=kd(weight=1.5)", ["method kd", "weight", "less than or equal to 1", "found 1.5"]),
            ("method=kd(refresh='never')", ["method kd", "refresh", "'once'", "found 'never'"]),
            ("method=kd(teachers='everybody')", ["method kd", "teachers", "others", "found 'everybody'"]),
            ("method=kd(teachers='one(9)')", ["one(9)", "0 to 2"]),
            ("method=kd(4.0)", ["kd", "by name", "kd(4.0)"]),
            ("method=kd(temperature=2*2)", ["kd(temperature=…)", "not a literal", "finite numbers"]),
            ("method=kd(temperature=2.0, temperature=3.0)", ["kd", "'temperature'", "twice"]),
            ("method=kd(temperature=2.0", ["kd(temperature=2.0", "name(key=value, …)"]),
            ("method=", ["''", "name(key=value, …)"]),
            ("method=local(rate=1)", ["method local", "'rate'"]),
            ("method=tuned_kd(weights=[])", ["method tuned_kd", "weights", "at least 1"]),
            ("method=dp_kd(mask='supervised')", ["dp_kd", "supervised", "unlabelled", "labelled=true"]),
            ("method=nowhere.py:mine", ["method file", "'nowhere.py'", "does not exist"]),
            ("models=cnnn", ["model 'cnnn'", "did you mean 'cnn'?", "mlp"]),
            ("models=architecture", ["model 'architecture'", "cnn"]),
            ("models=cnn|", ["'cnn|'", "cnn|mlp"]),
            ("models=cnn|mlp|lenet5|mlp", ["models", "no client is left for mlp among 3"]),
            ("models=mlp(hidden=[0])", ["model mlp", "hidden", "greater than 0", "found 0"]),
            ("transfer=secret", ["transfer", "'secret'", "public(fraction=0.2)", "private"]),
            ("transfer=public(fraction=2.0)", ["transfer", "fraction=2.0", "less than or equal to 1"]),
            ("start=worst_client", ["start", "'worst_client'", "best_client", "kd(weight=0.5)"]),
            ("students=[7]", ["'students'", "no client 7", "0 to 2"]),
            ("teachers=[1, 1]", ["'teachers'", "twice"]),
            ("pretrain.augment=crup(padding=2)", ["crup", "did you mean 'crop'"]),
            ("models=torchvision:resnet19", ["resnet19", "did you mean"]),
            ("models=torchvision:resnet18(weights='IMAGENET')", ["IMAGENET", "IMAGENET1K_V1"]),
            ("models=checkpoint:nowhere.safetensors", ["nowhere.safetensors", "does not exist"]),
            ("partition=iid+shards", ["both deal"]),
            ("partition=pathological(classes=11)", ["classes=11", "only 10"]),
            ("partition=dirichlet(min_size=900)", ["min_size=900", "lower min_size"]),
            ("partition=by_column(name='writer')", ["'writer'"]),
            ("partition=manifest(file='gone.json')", ["gone.json", "cannot be read"]),
            ("dataset=digits(limit=9)", ["limit=9", "no training image"]),
            ("transfer=public(share=0.2)", ["transfer", "share", "public(fraction=0.2)"]),
        ],
    )
    def test_in_a_recipe(self, setting: str, parts: list[str], with_settings: Refused) -> None:
        with_settings(setting, parts=parts)

    @pytest.mark.parametrize("method", ["kd", "dml", "dp_kd"])
    def test_one_client_alone_has_no_teachers(self, method: str, with_settings: Refused) -> None:
        with_settings(f"method={method}", "clients=1", parts=["nobody else may teach client 0", "clients ≥ 2"])

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("import nothing_of_that_name", ["own.py", "cannot be loaded", "nothing_of_that_name"]),
            ("class Mine", ["own.py", "cannot be loaded", "SyntaxError"]),
            ("x = 1", ["own.py", "'mine'", "Method"]),
        ],
    )
    def test_in_a_file_of_ones_own(self, text: str, parts: list[str], with_settings: Refused, tmp_path: Path) -> None:
        written(tmp_path / "own.py", text)
        with_settings(f"method={tmp_path / 'own.py'}:mine", parts=parts)


class TestPartitions:
    @pytest.mark.parametrize(
        ("settings", "parts"),
        [
            (["partition=dirichlt"], ["partition 'dirichlt'", "did you mean 'dirichlet'?"]),
            (["partition=dirichlet(alpha=0.0)"], ["dirichlet", "alpha", "greater than 0", "found 0.0"]),
            (["partition=dirichlet(alpha=-1.0)"], ["dirichlet", "alpha", "greater than 0", "found -1.0"]),
            (["partition=dirichlet(alpha=nan)"], ["dirichlet", "alpha"]),
            (["partition=dirichlet(beta=1.0)"], ["dirichlet", "'beta'", "alpha"]),
            (["partition=pathological(classes=0)"], ["pathological", "classes", "greater than or equal to 1"]),
            (["partition=pathological(classes=11)"], ["pathological", "classes=11", "only 10"]),
            (["clients=5000"], ["5000 clients", "1150 samples", "fewer clients"]),
            (["partition=dirichlet(min_size=1000)"], ["min_size=1000", "3000 samples", "1150"]),
            (["partition=dirichlet(alpha=0.01, min_size=0)", "clients=30"], ["client ", "at least 2 are needed"]),
            (["partition=nowhere.py:mine"], ["partition file", "'nowhere.py'", "does not exist"]),
        ],
    )
    def test_that_cannot_be_made(self, settings: list[str], parts: list[str], with_settings: Refused) -> None:
        with_settings(*settings, parts=parts)

    def test_every_model_is_tried_and_every_clients_file(
        self, with_settings: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_settings("models=['cnn', 'torchvision:vit_b_16(size=7)']", parts=["size = 7"])
        save_checkpoint(tmp_path / "a-0.safetensors", "cnn", build_model("cnn", (1, 8, 8), 10, 0, ""), (1, 8, 8), 10)
        monkeypatch.chdir(tmp_path)
        with_settings("models=checkpoint:a-{client}.safetensors", parts=["a-1.safetensors", "does not exist"])

    def test_the_last_of_several_stops_the_first_too(self, with_settings: Refused) -> None:
        with_settings("partition=['iid', 'pathological(classes=11)']", parts=["classes=11", "only 10"])


class TestData:
    @pytest.mark.parametrize(
        ("dataset", "parts"),
        [
            ("digit", ["'digit'", "did you mean 'digits'?", "npz"]),
            ("npz:nowhere.npz", ["nowhere.npz", "cannot be read"]),
            ("npz:", ["'npz:'", "npz:FILE"]),
            ("images:nowhere", ["nowhere", "cannot be read"]),
        ],
    )
    def test_that_are_not_there(self, dataset: str, parts: list[str], with_settings: Refused) -> None:
        with_settings(f"dataset={dataset}", parts=parts)

    def test_a_damaged_array_file(self, with_settings: Refused, tmp_path: Path) -> None:
        file = tmp_path / "data.npz"
        np.savez_compressed(file, images=np.zeros((40, 8, 8), np.uint8), labels=np.arange(40) % 4)
        file.write_bytes(file.read_bytes()[:-200])
        with_settings("dataset=npz:data.npz", parts=["data.npz", "damaged or no .npz archive"])

    def test_a_file_of_something_else(self, with_settings: Refused, tmp_path: Path) -> None:
        written(tmp_path / "data.npz", "garbage")
        with_settings("dataset=npz:data.npz", parts=["data.npz", "damaged or no .npz archive"])

    def test_an_array_file_without_labels(self, with_settings: Refused, tmp_path: Path) -> None:
        np.savez(tmp_path / "data.npz", images=np.zeros((40, 8, 8), np.uint8))
        with_settings("dataset=npz:data.npz", parts=["data.npz", "'labels'", "images"])

    def test_labels_that_leave_a_class_out(self, with_settings: Refused, tmp_path: Path) -> None:
        np.savez(tmp_path / "data.npz", images=np.zeros((40, 8, 8), np.uint8), labels=np.arange(40) % 2 * 2)
        with_settings("dataset=npz:data.npz", parts=["data.npz", "labels", "label 1"])

    def test_fewer_samples_than_clients(self, with_settings: Refused, tmp_path: Path) -> None:
        np.savez(tmp_path / "data.npz", images=np.zeros((12, 8, 8), np.uint8), labels=np.arange(12) % 2)
        with_settings("dataset=npz:data.npz", "clients=10", parts=["10 clients", "8 samples"])

    def test_a_damaged_archive_of_images(self, with_settings: Refused, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / "images" / name).mkdir(parents=True)
            written(tmp_path / "images" / name / "0.ppm", "P6 1 1 255\n" + "\0" * 3)
        with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "images", "images")
        whole = (tmp_path / "images.tar.gz").read_bytes()
        (tmp_path / "images.tar.gz").write_bytes(whole[: len(whole) // 2])
        with_settings("dataset=images:images.tar.gz", parts=["images.tar.gz", "damaged, cut short or no tar archive"])

    def test_an_image_that_cannot_be_decoded(self, with_settings: Refused, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / "images" / name).mkdir(parents=True)
            written(tmp_path / "images" / name / "0.png", "garbage")
        with_settings("dataset=images:images", parts=["images", "a/0.png", "cannot be decoded"])

    def test_a_folder_without_images(self, with_settings: Refused, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        with_settings("dataset=images:images", parts=["images", "no image", "CLASS/IMAGE"])


class TestFolders:
    @pytest.mark.parametrize("name", ["file", "file/below"])
    def test_results_that_cannot_be_written(self, name: str, refused: Refused, tmp_path: Path) -> None:
        written(tmp_path / "file", "")
        written(tmp_path / "study.toml", f'method = "local"\n{TINY}')
        parts = [f"--out {name}", "cannot be written", "another folder"]
        refused("run", "study.toml", "--engine", "inline", "--out", name, parts=parts)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_results_in_a_folder_that_others_own(self, refused: Refused, tmp_path: Path) -> None:
        written(tmp_path / "study.toml", f'method = "local"\n{TINY}')
        (tmp_path / "closed").mkdir(mode=0o500)
        parts = ["--out closed/new", "cannot be written", "another folder"]
        refused("run", "study.toml", "--engine", "inline", "--out", "closed/new", parts=parts)

    @pytest.mark.parametrize("content", ["garbage", "[]", '{"federations": 3}'])
    def test_results_beside_something_that_is_no_study(
        self, content: str, with_settings: Refused, tmp_path: Path
    ) -> None:
        (tmp_path / "results" / "new").mkdir(parents=True)
        file = written(tmp_path / "results" / "new" / "study.json", content)
        with_settings(parts=["study.json", "--out"])
        assert file.read_text() == content

    def test_results_with_a_journal_of_something_else(self, call: Call, tmp_path: Path) -> None:
        written(tmp_path / "study.toml", f'method = "local"\n{TINY}')
        command = ["run", "study.toml", "--engine", "inline", "--out", "results"]
        assert call(*command).code == 0
        (journal,) = (tmp_path / "results" / "journal").iterdir()
        journal.write_text("garbage\n")
        assert_one_message(call(*command), [journal.name, "journal", "--out"])
        assert journal.read_text() == "garbage\n"

    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("nowhere", ["nowhere", "not a folder"]),
            ("file", ["file", "not a folder", "journal/*.jsonl"]),
            ("empty", ["empty", "journal/*.jsonl", "nothing has been run"]),
            ("garbage", ["x.jsonl", "not a journal", "'federation'"]),
            ("torn", ["x.jsonl", "line 2", "round 0"]),
            ("parquet", ["rounds.parquet", "cannot be read", "delete it"]),
        ],
    )
    def test_a_report_on_what_is_no_results_folder(
        self, name: str, parts: list[str], refused: Refused, tmp_path: Path
    ) -> None:
        header = json.dumps({"federation": "kd-1", "rounds": 1, "settings": {"method": "kd"}})
        written(tmp_path / "file", "")
        for folder in ("empty", "garbage/journal", "torn/journal", "parquet"):
            (tmp_path / folder).mkdir(parents=True)
        written(tmp_path / "garbage" / "journal" / "x.jsonl", "garbage\n")
        written(tmp_path / "torn" / "journal" / "x.jsonl", f"{header}\ngarbage\n{{}}\n")
        written(tmp_path / "parquet" / "rounds.parquet", "garbage")
        refused("report", name, parts=parts)


class TestCommands:
    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (["run", "nowhere.toml"], ["'nowhere.toml'", "is no file", "quickstart"]),
            (["run", "quickstar"], ["'quickstar'", "did you mean 'quickstart'?"]),
            (["run", "."], ["'.'", "is no file", "quickstart"]),
            (["run", "quickstart", "--engine", "rya"], ["--engine 'rya'", "did you mean 'ray'?", "inline"]),
            (["list", "method"], ["list 'method'", "did you mean 'methods'?", "datasets"]),
            (["report", ".", "--target", "3"], ["--target 3.0", "between 0 and 1"]),
            (["partition", "dirichlt"], ["partition 'dirichlt'", "did you mean 'dirichlet'?"]),
            (["partition", "dirichlet(alpha=0.0)"], ["dirichlet", "alpha", "greater than 0"]),
            (["partition", "iid", "--dataset", "digit"], ["'digit'", "did you mean 'digits'?"]),
            (["partition", "iid", "--clients", "5000"], ["5000 clients", "fewer clients"]),
            (["partition", "iid", "--transfer", "secret"], ["transfer", "'secret'", "public(fraction=0.2)"]),
            (["partition", "iid", "--kind", "pie"], ["--kind 'pie'", "bars", "heatmap"]),
            (["partition", "iid", "--plot", "x.bmp"], ["--plot x.bmp", ".svg"]),
            (["partition", "iid", "--plot", "nowhere/x.svg"], ["nowhere/x.svg", "folder does not exist"]),
            (["partition", "iid", "--out", "nowhere/x.json"], ["nowhere/x.json", "folder does not exist"]),
            (["partition", "iid", "--out", "."], [".", "is a folder", "file"]),
        ],
    )
    def test_that_ask_for_what_is_not_there(self, arguments: list[str], parts: list[str], refused: Refused) -> None:
        refused(*arguments, parts=parts)

    def test_a_picture_in_the_place_of_a_folder(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "x.svg").mkdir()
        refused("partition", "iid", "--plot", "x.svg", parts=["x.svg", "is a folder"])

    @pytest.mark.parametrize("content", [b"method = '\xff'", b"\x00\x01\x02"])
    def test_a_recipe_that_is_no_text(self, content: bytes, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "study.toml").write_bytes(content)
        refused("run", "study.toml", parts=["study.toml"])

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (["run", "quickstart", "--lanes", "0"], "--lanes"),
            (["run", "quickstart", "--nothing"], "--nothing"),
            (["run"], "RECIPE"),
            (["rnu"], "rnu"),
            (["partition", "iid", "--clients", "0"], "--clients"),
            (["partition", "iid", "--seed", "-1"], "--seed"),
            (["partition", "iid", "--seed", "one"], "--seed"),
            (["partition", "iid", "--seed", str(2**63)], "--seed"),
        ],
    )
    def test_that_are_misspelt_are_answered_with_the_usage(self, arguments: list[str], part: str, call: Call) -> None:
        ended = call(*arguments)
        assert ended.code == 2
        assert "Usage: " in ended.err
        assert part in ended.err
        assert "Traceback" not in ended.said


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "study.toml", "--set", "rouds=1"], ["'rouds'", "did you mean 'rounds'?"]),
        (["run", "study.toml", "--set", "dataset=npz:nowhere.npz"], ["nowhere.npz", "cannot be read"]),
        (["report", "."], ["journal/*.jsonl"]),
    ],
)
def test_a_process_of_its_own_answers_alike(arguments: list[str], parts: list[str], tmp_path: Path) -> None:
    """With the default engine: Ray is not started for input that is wrong."""
    written(tmp_path / "study.toml", f'method = "local"\n{TINY}')
    before = seen(tmp_path)
    assert_one_message(fedkd(*arguments, cwd=tmp_path), parts)
    assert seen(tmp_path) == before

"""Saved models: files that say what they hold, and are taken up to the last bit or refused by name."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.models import ARCHITECTURES, Model, build_model, restored_model
from fedkd.models.architecture import Shape
from fedkd.models.blocks.description import read_description
from fedkd.models.checkpoint import save_checkpoint
from tests.conftest import files_end_at
from tests.small import same_weights

SHAPE: Shape = (1, 8, 8)
KINDS = ["cnn(width=4)", "mlp(hidden=[7, 5])", "resnet8", "resnet8(norm='batch')", "shufflenet_v2(width=0.5)"]


def made(spec: str, seed: int = 0, client: int = 0, shape: Shape = SHAPE, classes: int = 5) -> Model:
    return build_model(spec, shape, classes, seed, "init", client)


def saved(path: Path, spec: str = "cnn(width=4)", seed: int = 3) -> Model:
    """A model, and its file."""
    model = made(spec, seed)
    save_checkpoint(path, spec, model, SHAPE, 5)
    return model


def images(n: int) -> Tensor:
    return torch.rand(n, *SHAPE, generator=stream("images"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and an empty cache."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)


class TestRoundTrip:
    @pytest.mark.parametrize("spec", KINDS)
    def test_a_model_comes_back_to_the_last_bit(self, spec: str, tmp_path: Path) -> None:
        model = made(spec, seed=3).train()
        model(images(4))  # moves batch statistics
        save_checkpoint(tmp_path / "model.safetensors", spec, model, SHAPE, 5)
        again = made(f"checkpoint:{tmp_path}/model.safetensors")
        assert same_weights(again.state_dict(), model.state_dict())
        assert torch.equal(again.eval()(images(4)), model.eval()(images(4)))
        assert not same_weights(again.state_dict(), made(spec).state_dict())

    def test_it_is_restored_and_saved_again_as_what_it_is(self, tmp_path: Path) -> None:
        first = saved(tmp_path / "one.safetensors")
        spec = f"checkpoint:{tmp_path}/one.safetensors"
        restored = restored_model(spec, SHAPE, 5, first.state_dict())
        assert torch.equal(restored(images(2)), first(images(2)))
        save_checkpoint(tmp_path / "two.safetensors", spec, restored, SHAPE, 5)
        (tmp_path / "one.safetensors").unlink()
        assert same_weights(made(f"checkpoint:{tmp_path}/two.safetensors").state_dict(), first.state_dict())

    def test_the_file_is_plain_safetensors_that_says_what_it_holds(self, tmp_path: Path) -> None:
        model = saved(tmp_path / "model.safetensors", "cnn( width = 4 )")
        assert same_weights(load_file(tmp_path / "model.safetensors"), model.state_dict())
        said = read_description(tmp_path / "model.safetensors")
        assert said is not None
        assert (said.model, said.shape, said.classes) == ("cnn(width=4)", SHAPE, 5)

    def test_equal_models_give_equal_files(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            saved(tmp_path / name / "model.safetensors")
        assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()

    def test_folders_are_made_and_nothing_is_left_beside_the_file(self, tmp_path: Path) -> None:
        saved(tmp_path / "a/b/model.safetensors")
        assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["model.safetensors"]

    def test_a_file_that_cannot_be_written_leaves_the_old_one(self, tmp_path: Path) -> None:
        saved(tmp_path / "model.safetensors")
        before = (tmp_path / "model.safetensors").read_bytes()
        with (
            files_end_at(100),
            pytest.raises(UserError, match=r"model\.safetensors: cannot be written \(File too large"),
        ):
            saved(tmp_path / "model.safetensors", seed=4)
        assert (tmp_path / "model.safetensors").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]

    def test_a_model_of_torchvision_needs_no_published_weights(self, tmp_path: Path) -> None:
        plain = made("torchvision:shufflenet_v2_x0_5(weights='none')", shape=(3, 32, 32))
        save_checkpoint(tmp_path / "model.safetensors", "torchvision:shufflenet_v2_x0_5", plain, (3, 32, 32), 5)
        again = made(f"checkpoint:{tmp_path}/model.safetensors", shape=(3, 32, 32))
        assert same_weights(again.state_dict(), plain.state_dict())


class TestClients:
    def test_each_client_takes_up_its_own(self, tmp_path: Path) -> None:
        models = {client: saved(tmp_path / f"model-{client}.safetensors", seed=client) for client in (2, 10, 11)}
        spec = f"checkpoint:{tmp_path}/model-{{client}}.safetensors"
        for client, model in models.items():
            assert same_weights(made(spec, client=client).state_dict(), model.state_dict())
        with pytest.raises(UserError, match=r"model-1\.safetensors does not exist"):
            made(spec, client=1)

    def test_the_id_may_name_a_folder_and_the_file(self, tmp_path: Path) -> None:
        model = saved(tmp_path / "[a]" / "4" / "model-4.safetensors")
        saved(tmp_path / "[a]" / "0" / "model-1.safetensors", "mlp")
        spec = f"checkpoint:{tmp_path}/[a]/{{client}}/model-{{client}}.safetensors"
        assert same_weights(made(spec, client=4).state_dict(), model.state_dict())

    def test_files_of_unlike_models_are_refused(self, tmp_path: Path) -> None:
        saved(tmp_path / "model-0.safetensors")
        saved(tmp_path / "model-1.safetensors", "mlp")
        with pytest.raises(UserError, match=r"model-1\.safetensors holds mlp, but .*model-0\.safetensors holds cnn"):
            made(f"checkpoint:{tmp_path}/model-{{client}}.safetensors", client=1)

    def test_the_files_that_the_numbers_depend_on_are_told(self, tmp_path: Path) -> None:
        one, four = (tmp_path / f"model-{client}.safetensors" for client in (1, 4))
        saved(one)
        saved(four)
        each = ARCHITECTURES.build(f"checkpoint:{tmp_path}/model-{{client}}.safetensors")
        assert each.files(1) == (one,)
        assert each.files(4) == (one, four), "the first one says what is built"
        assert ARCHITECTURES.build(f"checkpoint:{one}").files(4) == (one,)
        assert ARCHITECTURES.build("cnn").files(0) == ()

    def test_no_file_of_any_client_is_said_so(self, tmp_path: Path) -> None:
        (tmp_path / "model-x.safetensors").touch()
        with pytest.raises(UserError, match="no client's file is there"):
            made(f"checkpoint:{tmp_path}/model-{{client}}.safetensors")


def harmed(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors in a file, and leave what it says of itself."""
    tensors, said = load_file(path), read_description(path)
    assert said is not None
    change(tensors)
    save_file(tensors, path, metadata=said.entry)


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("head.bias"), "there is no tensor 'head.bias', of shape 5;"),
            (lambda t: t.update(more=torch.zeros(1)), "there is no place for the tensor 'more'"),
            (lambda t: t.update({"head.bias": torch.zeros(6)}), "'head.bias' has shape 6, not 5"),
            (lambda t: t.update({"head.bias": torch.zeros(5, dtype=torch.int64)}), "the type int64, not float32"),
            (lambda t: t.update({"head.bias": torch.full((5,), torch.inf)}), "'head.bias' holds values that are not"),
        ],
    )
    def test_tensors_that_do_not_fit(
        self, change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.safetensors"
        saved(path)
        harmed(path, change)
        with pytest.raises(UserError, match=message) as caught:
            made(f"checkpoint:{path}")
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize("length", [0, 4, 100, -1])
    def test_a_cut_file(self, length: int, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        saved(path)
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(UserError, match=rf"{path} is cut short, damaged"):
            made(f"checkpoint:{path}")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        for name in ("no.safetensors", "no.pth(model='cnn')"):
            with pytest.raises(UserError, match=r"no\.\w+ does not exist"):
                made(f"checkpoint:{tmp_path}/{name}")

    def test_a_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        for name in ("a.safetensors", "a.pt"):
            (tmp_path / name).mkdir()
            with pytest.raises(UserError, match=name):
                made(f"checkpoint:{tmp_path}/{name}(model='cnn')")

    @pytest.mark.parametrize(("shape", "classes"), [((1, 8, 8), 6), ((3, 8, 8), 5), ((1, 8, 9), 5)])
    def test_data_of_another_kind(self, shape: Shape, classes: int, tmp_path: Path) -> None:
        saved(tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=r"saved for 1×8×8 images of 5 classes, but these data are .×8×. images"):
            made(f"checkpoint:{tmp_path}/model.safetensors", shape=shape, classes=classes)

    def test_who_says_the_model_himself_may_use_it_on_images_of_another_size(self, tmp_path: Path) -> None:
        model = saved(tmp_path / "model.safetensors", "resnet8")
        again = made(f"checkpoint:{tmp_path}/model.safetensors(model='resnet8')", shape=(1, 12, 9))
        assert same_weights(again.state_dict(), model.state_dict())
        with pytest.raises(UserError, match=r"'head\.weight' has shape 5×64, not 6×64"):
            made(f"checkpoint:{tmp_path}/model.safetensors(model='resnet8')", classes=6)

    @pytest.mark.parametrize(
        "text",
        [
            "", "no JSON", "[]", "3", "null", "{}", '{"model": "cnn"}',
            '{"model": 1, "shape": [1, 8, 8], "classes": 5}',
            '{"model": "cnn", "shape": [8, 8], "classes": 5}', '{"model": "cnn", "shape": [1, 8, 0], "classes": 5}',
            '{"model": "cnn", "shape": [1, 8, "8"], "classes": 5}', '{"model": "cnn", "shape": 7, "classes": 5}',
            '{"model": "cnn", "shape": [1, 8, 8], "classes": true}', "[" * 100_000,
        ],
    )  # fmt: skip
    def test_what_a_file_may_not_say(self, text: str, tmp_path: Path) -> None:
        save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"fedkd": text})
        with pytest.raises(UserError, match=r"model\.safetensors: its metadata 'fedkd' are"):
            made(f"checkpoint:{tmp_path}/model.safetensors")

    @pytest.mark.parametrize("model", ["{own}:Loud()", "checkpoint:other.safetensors"])
    def test_a_file_may_not_name_another_that_would_be_run_or_read(self, model: str, tmp_path: Path) -> None:
        own = tmp_path / "own.py"
        own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        said = {"model": model.replace("{own}", str(own)), "shape": SHAPE, "classes": 5}
        save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"fedkd": json.dumps(said)})
        with pytest.raises(UserError, match="which it may not decide"):
            made(f"checkpoint:{tmp_path}/model.safetensors")
        assert not (tmp_path / "ran").exists()

    def test_an_unknown_model_in_a_file(self, tmp_path: Path) -> None:
        said = {"model": "cnnn", "shape": SHAPE, "classes": 5}
        save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"fedkd": json.dumps(said)})
        with pytest.raises(UserError, match="did you mean 'cnn'"):
            made(f"checkpoint:{tmp_path}/model.safetensors")


class TestForeign:
    @pytest.mark.parametrize("ending", ["safetensors", "pt", "pth"])
    def test_a_file_without_description_is_taken_up_as_what_the_user_says(self, ending: str, tmp_path: Path) -> None:
        model, path = made("cnn(width=4)", seed=3), tmp_path / f"model.{ending}"
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, path) if ending == "safetensors" else torch.save(state, path)
        again = made(f"checkpoint:{path}(model='cnn(width=4)')")
        assert same_weights(again.state_dict(), model.state_dict())
        with pytest.raises(UserError, match=r"does not say which model it holds; write checkpoint:.*\(model=…\)"):
            made(f"checkpoint:{path}")

    @pytest.mark.parametrize("content", ["bomb", "model"])
    def test_nothing_but_tensors_is_unpickled(self, content: str, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        torch.save({"head.bias": Bomb(tmp_path / "exploded")} if content == "bomb" else made("cnn"), path)
        with pytest.raises(UserError, match=r"model\.pt holds more than tensors"):
            made(f"checkpoint:{path}(model='cnn')")
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([torch.zeros(1)], "holds a list"),
            ({"epoch": 3}, "holds a int as 'epoch'"),
            ({"weights": {"a": torch.zeros(1)}}, "holds a dict as 'weights'"),
            ({"state_dict": {"a": 3.0}}, "holds a float as 'a'"),
            ({1: torch.zeros(1)}, "holds a Tensor as 1"),
        ],
    )
    def test_what_is_no_state_dict_is_refused(self, content: Any, message: str, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(UserError, match=f"{message}; tensors by name|{message}.*save a state_dict"):
            made(f"checkpoint:{tmp_path}/model.pt(model='cnn')")

    @pytest.mark.parametrize("length", [0, 3, 200, -50])
    def test_a_cut_file_is_refused(self, length: int, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        torch.save(made("cnn").state_dict(), path)
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(UserError, match=r"model\.pt (is cut short|holds more than tensors, or is damaged)"):
            made(f"checkpoint:{path}(model='cnn')")


class Bomb:
    """Writes a file when it is unpickled freely."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)

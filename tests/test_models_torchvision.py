"""torchvision's classifiers: any of them, with published weights from a checked file, and a new head."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.data import cache_root
from fedkd.models import ARCHITECTURES, Model, build_model, restored_model
from fedkd.models.architecture import Shape
from fedkd.models.blocks.classifier import Headless, renamed
from fedkd.models.torchvision import Adapted
from tests.conftest import ROOT
from tests.small import same_weights

RGB: Shape = (3, 32, 32)
SMALL = "shufflenet_v2_x0_5"
FAMILIES = [
    "alexnet", "convnext_tiny", "efficientnet_b0", "mobilenet_v2", "regnet_y_400mf", "resnext50_32x4d",
    "squeezenet1_0", "swin_t", "vgg11", "vgg11_bn", "vit_b_16", "wide_resnet50_2",
]  # fmt: skip
"""One of each that is not computed with below."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, no mirror, and no network."""
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDKD_DATA", raising=False)

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder hub of a mirror."""
    folder = tmp_path / "mirror" / "hub"
    folder.mkdir(parents=True)
    monkeypatch.setenv("FEDKD_DATA", str(folder.parent))
    return folder


Publish = Callable[..., Path]


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Publish:
    """Write a file of weights, named after its hash, and let torchvision believe that it was published so."""

    def publish(name: str, content: object, folder: Path | None = None, url: str = "http://localhost:9") -> Path:
        path = tmp_path / "made.pth"
        torch.save(content, path)
        digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        placed = (folder or tmp_path) / f"{name}-{digits}.pth"
        path.replace(placed)
        member = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
        monkeypatch.setattr(member.value, "url", f"{url}/{placed.name}")
        return placed

    return publish


def original(name: str, classes: int = 1000, side: int = 32, **settings: Any) -> Any:
    """torchvision's own network, whose running statistics are those of some images: its outputs differ among them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **settings)
        made.eval()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train().momentum = 1.0
        with torch.no_grad():
            made(torch.randn(8, 3, side, side, generator=stream("statistics")))
    return made.eval()


def adapted(spec: str, shape: Shape = RGB, classes: int = 7, seed: int = 0) -> Adapted:
    made = build_model(spec, shape, classes, seed, "init").eval()
    assert isinstance(made, Adapted)
    return made


def images(n: int, shape: Shape = RGB) -> Tensor:
    return torch.rand(n, *shape, generator=stream("images"))


def outlined(spec: str, shape: Shape, classes: int = 7) -> Model:
    with torch.device("meta"):
        return ARCHITECTURES.build(spec).build(shape, classes)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gets_a_head_and_takes_images_of_any_size(name: str) -> None:
    made = outlined(f"torchvision:{name}(weights='none')", (1, 8, 8)).to("meta")
    assert made(torch.empty(2, 1, 8, 8, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "settings", "side"),
    [
        ("mobilenet_v3_small", {}, 32),
        ("mnasnet0_5", {}, 32),
        ("squeezenet1_1", {}, 32),
        ("shufflenet_v2_x0_5", {}, 32),
        ("resnet18", {}, 32),
        ("densenet121", {}, 32),
        ("regnet_x_400mf", {}, 32),
        ("swin_v2_t", {}, 32),
        ("googlenet", {"aux_logits": True, "init_weights": False}, 32),
        ("inception_v3", {"aux_logits": True, "init_weights": False}, 96),
    ],
)
def test_a_users_own_state_dict_gives_the_logits_of_torchvisions_network(
    name: str, settings: dict[str, Any], side: int, tmp_path: Path
) -> None:
    theirs = original(name, 7, side, **settings)
    state = theirs.state_dict()
    if name == "densenet121":  # the names that its published weights have
        state = {re_old(key): value for key, value in state.items()}
    torch.save(state, tmp_path / "own.pth")
    # At batch size 4 and in evaluation, auxiliary classifiers do nothing.
    ours = adapted(f"checkpoint:{tmp_path}/own.pth(model=\"torchvision:{name}(weights='none')\")")
    x = images(4)
    enlarged = x if side == 32 else F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    logits = ours(x)
    # squeezenet clips its logits at zero; a head that learns must not.
    wanted = theirs(enlarged * 2 - 1)
    assert float(wanted.detach().std(0).max()) > 1e-3
    torch.testing.assert_close(logits.relu() if name.startswith("squeeze") else logits, wanted, rtol=1e-3, atol=1e-4)


def re_old(key: str) -> str:
    """A densenet's names of 2017."""
    for layer in ("norm", "conv"):
        for number in "12":
            key = key.replace(f".{layer}{number}.", f".{layer}.{number}.") if "denselayer" in key else key
    return key


def test_names_of_old_vision_transformers_are_understood() -> None:
    body = torchvision.models.VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16)
    state = {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value + 1
        for key, value in body.state_dict().items()
    }
    assert len([key for key in state if "linear_" in key]) == 4
    body.heads.head = nn.Identity()
    made = Adapted(Headless(body, "heads.head", 8), 1000, 0, [0.5] * 3, [0.5] * 3)
    before = made.state_dict()
    found = renamed(state, "heads.head", made, "here")
    assert set(found) == set(before)
    assert torch.equal(found["head.weight"], state["heads.head.weight"])
    assert torch.equal(found["mean"], before["mean"])
    for key in before:
        if key.startswith("body."):
            torch.testing.assert_close(found[key], before[key] + 1)


class TestPublished:
    @pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1"])
    def test_features_are_those_of_the_published_network_on_standardised_images(
        self, name: str, mirror: Path, publish: Publish
    ) -> None:
        theirs = original(name)
        publish(name, theirs.state_dict(), mirror)
        ours = adapted(f"torchvision:{name}")
        x = images(3)
        standardised = torchvision.transforms.functional.normalize(x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        parent, _, leaf = ours.origin.rpartition(".")
        setattr(theirs.get_submodule(parent), leaf, nn.Identity())
        torch.testing.assert_close(ours.features(x), theirs(standardised), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(ours.features(x), theirs(x * 2 - 1), rtol=1e-2)

    def test_the_head_is_drawn_and_the_rest_published(self, mirror: Path, publish: Publish) -> None:
        publish(SMALL, original(SMALL).state_dict(), mirror)
        one, other = adapted(f"torchvision:{SMALL}"), adapted(f"torchvision:{SMALL}", seed=5)
        assert same_weights(one.body.state_dict(), other.body.state_dict())
        assert not torch.equal(one.head.weight, other.head.weight)
        assert one.head.weight.shape == (7, 1024)

    def test_googlenet_centres_its_inputs_as_its_publisher_did(self, mirror: Path, publish: Publish) -> None:
        theirs = original("googlenet", aux_logits=True, init_weights=False)
        publish("googlenet", theirs.state_dict(), mirror)
        ours = adapted("torchvision:googlenet")
        theirs.fc = nn.Identity()
        # Two standardisations undo each other: what arrives lies between -1 and 1 again.
        torch.testing.assert_close(ours.features(images(2)), theirs(images(2) * 2 - 1), rtol=1e-3, atol=1e-4)

    def test_a_file_in_the_cache_will_do_as_well(self, publish: Publish) -> None:
        (cache_root() / "hub").mkdir(parents=True)
        publish(SMALL, original(SMALL).state_dict(), cache_root() / "hub")
        assert adapted(f"torchvision:{SMALL}").side == 0

    def test_without_network_the_message_says_which_file_goes_where(self) -> None:
        with pytest.raises(UserError, match=r"no network here\)\. Get resnet18-f37072fd\.pth") as caught:
            adapted("torchvision:resnet18")
        assert str(cache_root() / "hub") in str(caught.value)
        assert "FEDKD_DATA" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_model_is_restored_without_its_published_file(self, mirror: Path, publish: Publish) -> None:
        path = publish(SMALL, original(SMALL).state_dict(), mirror)
        made = adapted(f"torchvision:{SMALL}")
        path.unlink()
        again = restored_model(f"torchvision:{SMALL}", RGB, 7, made.state_dict()).eval()
        assert torch.equal(again(images(2)), made(images(2)))

    @pytest.mark.parametrize("harm", ["cut", "changed", "empty"])
    def test_a_damaged_file_is_refused_by_its_hash(self, harm: str, mirror: Path, publish: Publish) -> None:
        path = publish(SMALL, original(SMALL).state_dict(), mirror)
        content = bytearray(path.read_bytes())
        content[5000] ^= 1
        path.write_bytes({"cut": bytes(content[: len(content) // 2]), "changed": bytes(content), "empty": b""}[harm])
        with pytest.raises(UserError, match=rf"torchvision:{SMALL}: .*{path.name} is not the published file"):
            adapted(f"torchvision:{SMALL}")

    def test_nothing_in_a_file_is_executed(self, mirror: Path, publish: Publish, tmp_path: Path) -> None:
        publish(SMALL, {"conv1.0.weight": Bomb(tmp_path / "exploded")}, mirror)
        with pytest.raises(UserError, match="nothing else is unpickled"):
            adapted(f"torchvision:{SMALL}")
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: state.pop("conv5.0.weight"), "there is no tensor 'body.conv5.0.weight', of shape 1024×192"),
            (lambda state: state.update({"more": torch.zeros(2)}), "no place for the tensor 'body.more'"),
            (
                lambda state: state.update({"conv5.0.weight": torch.zeros(3, 2, 1, 1)}),
                "'body.conv5.0.weight' has shape 3×2×1×1, not 1024×192×1×1",
            ),
            (lambda state: state.pop("conv1.1.running_mean"), "there is no tensor 'body.conv1.1.running_mean'"),
            (lambda state: state["conv1.0.weight"].fill_(float("nan")), "'body.conv1.0.weight' holds values that are"),
        ],
    )
    def test_weights_that_do_not_fit_are_refused_with_the_first_misfit(
        self, change: Callable[[Any], object], message: str, mirror: Path, publish: Publish
    ) -> None:
        state = original(SMALL).state_dict()
        change(state)
        path = publish(SMALL, state, mirror)
        with pytest.raises(UserError, match=message) as caught:
            adapted(f"torchvision:{SMALL}")
        assert str(path) in str(caught.value)

    def test_counters_that_old_files_lack_are_not_missed(self, mirror: Path, publish: Publish) -> None:
        state = original(SMALL).state_dict()
        publish(SMALL, {key: value for key, value in state.items() if "num_batches" not in key}, mirror)
        assert torch.isfinite(adapted(f"torchvision:{SMALL}")(images(2))).all()


class Bomb:
    """Writes a file when it is unpickled freely."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class TestDownload:
    @pytest.fixture
    def server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str], Path]]:
        """Address, log of requests, and folder of a server of files."""
        monkeypatch.undo()
        monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
        asked: list[str] = []
        folder = tmp_path / "served"
        folder.mkdir()

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def do_GET(self) -> None:
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked, folder
        running.shutdown()
        thread.join()
        running.server_close()

    def test_weights_are_fetched_once(self, server: tuple[str, list[str], Path], publish: Publish) -> None:
        url, asked, folder = server
        path = publish(SMALL, original(SMALL).state_dict(), folder, url)
        made = [adapted(f"torchvision:{SMALL}") for _ in range(2)]
        assert asked == [f"/{path.name}"]
        assert (cache_root() / "hub" / path.name).read_bytes() == path.read_bytes()
        assert same_weights(made[0].state_dict(), made[1].state_dict())

    @pytest.mark.parametrize("harm", ["cut", "gone"])
    def test_what_does_not_come_whole_leaves_nothing(
        self, harm: str, server: tuple[str, list[str], Path], publish: Publish
    ) -> None:
        url, _, folder = server
        path = publish(SMALL, original(SMALL).state_dict(), folder, url)
        if harm == "cut":
            path.write_bytes(path.read_bytes()[:-100])
        else:
            path.unlink()
        with pytest.raises(UserError, match="cut short" if harm == "cut" else "HTTP 404"):
            adapted(f"torchvision:{SMALL}")
        assert [file.name for file in (cache_root() / "hub").iterdir() if file.suffix != ".lock"] == []

    def test_a_folder_that_cannot_be_written_is_named(self, publish: Publish) -> None:
        cache_root().parent.mkdir(exist_ok=True)
        cache_root().write_text("a file in the way")
        publish(SMALL, {})
        with pytest.raises(UserError, match="FEDKD_CACHE"):
            adapted(f"torchvision:{SMALL}")


class TestImages:
    def test_grey_images_are_three_equal_channels(self) -> None:
        spec = f"torchvision:{SMALL}(weights='none')"
        grey = images(3, (1, 32, 32))
        torch.testing.assert_close(adapted(spec, (1, 32, 32))(grey), adapted(spec)(grey.expand(-1, 3, -1, -1)))

    def test_images_are_brought_to_the_given_size(self) -> None:
        small, large = images(2), F.interpolate(images(2), (48, 48), mode="bilinear", align_corners=False)
        made = adapted(f"torchvision:{SMALL}(weights='none', size=48)")
        plain = adapted(f"torchvision:{SMALL}(weights='none')", (3, 48, 48))
        plain.load_state_dict(made.state_dict())
        assert (made.side, plain.side) == (48, 0)
        torch.testing.assert_close(made(small), plain(large))
        assert not torch.allclose(made(small), plain(small))

    @pytest.mark.parametrize(
        ("name", "shape", "side"),
        [
            ("resnet18", (3, 8, 8), 0),
            ("squeezenet1_1", (3, 8, 8), 32),
            ("squeezenet1_1", (1, 28, 28), 0),
            ("alexnet", (3, 32, 32), 64),
            ("inception_v3", (3, 17, 40), 96),
            ("vit_b_16", (3, 32, 32), 0),
            ("vit_b_16", (1, 28, 28), 32),
            ("vit_b_16", (3, 32, 48), 64),
            ("maxvit_t", (3, 32, 32), 224),
        ],
    )
    def test_images_stay_as_they_are_or_get_the_next_size_that_can_be_taken(
        self, name: str, shape: Shape, side: int
    ) -> None:
        made = outlined(f"torchvision:{name}(weights='none')", shape)
        assert isinstance(made, Adapted)
        assert made.side == side

    def test_published_vision_transformers_want_the_size_that_they_were_made_for(self) -> None:
        for weights, side in (("IMAGENET1K_V1", 224), ("IMAGENET1K_SWAG_E2E_V1", 384)):
            made = outlined(f"torchvision:vit_b_16(weights='{weights}')", RGB)
            assert isinstance(made, Adapted)
            assert made.side == side
        with pytest.raises(UserError, match=r"cannot take images of size = 32; 224 will do"):
            outlined("torchvision:vit_b_16(size=32)", RGB)

    def test_random_weights_get_images_between_minus_one_and_one(self) -> None:
        made = adapted(f"torchvision:{SMALL}(weights='none')")
        torch.testing.assert_close(made.centred(images(2)), images(2) * 2 - 1)

    @pytest.mark.parametrize(
        ("spec", "shape", "message"),
        [
            ("torchvision:resnet17", RGB, r"no classifier 'resnet17'; did you mean 'resnet1[85]"),
            ("torchvision:fcn_resnet50", RGB, "no classifier 'fcn_resnet50'"),
            ("torchvision:resnet18(weights='IMAGENET1K_V3')", RGB, "did you mean 'IMAGENET1K_V1'"),
            ("torchvision:resnet18(weights='DEFAULT')", RGB, "'DEFAULT' are unknown; .*IMAGENET1K_V1"),
            ("torchvision:resnet18(weights='none')", (2, 32, 32), "images have 2 channels; it takes 1 or 3"),
            ("torchvision:alexnet(weights='none', size=8)", RGB, "cannot take images of size = 8; 64 will do"),
            ("torchvision:resnet18(size=-1)", RGB, "size: .*greater than or equal to 0"),
            ("torchvision:resnet18(weight='none')", RGB, "did you mean 'weights'"),
            ("torchvision", RGB, "it is written torchvision:NAME"),
        ],
    )
    def test_what_cannot_be_is_refused(self, spec: str, shape: Shape, message: str) -> None:
        with pytest.raises(UserError, match=message):
            build_model(spec, shape, 7, 0, "init")


class TestTraining:
    @pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_small", "squeezenet1_1", "convnext_tiny"])
    def test_nothing_is_drawn_from_the_global_stream(self, name: str) -> None:
        made = adapted(f"torchvision:{name}(weights='none')", (1, 28, 28)).train()
        before = torch.random.get_rng_state()
        gradients = torch.autograd.grad(made(images(2, (1, 28, 28))).square().sum(), list(made.parameters()))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)

    @pytest.mark.parametrize("name", ["mnasnet0_5", "regnet_x_400mf", "swin_v2_t", SMALL])
    def test_a_restored_model_predicts_the_same_to_the_last_bit(self, name: str) -> None:
        spec = f"torchvision:{name}(weights='none')"
        made = adapted(spec)
        made.train()(images(4))
        again = restored_model(spec, RGB, 7, made.state_dict())
        assert torch.equal(again.eval()(images(2)), made.eval()(images(2)))

    def test_a_lone_sample_can_be_learned_from(self) -> None:
        made = adapted(f"torchvision:{SMALL}(weights='none')").train()
        before = made.state_dict()["body.conv1.1.running_mean"].clone()
        assert made(images(1)).shape == (1, 7)
        assert torch.equal(made.state_dict()["body.conv1.1.running_mean"], before)

    def test_the_same_seed_gives_the_same_weights_whatever_was_built_before(self) -> None:
        spec = f"torchvision:{SMALL}(weights='none')"
        first = adapted(spec, (3, 40, 40)).state_dict()
        outlined(spec, (3, 41, 41))
        assert same_weights(first, adapted(spec, (3, 40, 40)).state_dict())
        assert not same_weights(first, adapted(spec, (3, 40, 40), seed=1).state_dict())


def test_the_library_does_not_import_torchvision_before_it_is_asked_for() -> None:
    script = """
import sys, fedkd
from fedkd.models import ARCHITECTURES
ARCHITECTURES.names
ARCHITECTURES.build("torchvision:resnet18")
assert "torchvision" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)

"""Networks of the user's own file: taken as they are, split where their head is, or refused by one clear line."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedkd.base.errors import UserError
from fedkd.base.own_code import load_file
from fedkd.base.streams import stream
from fedkd.models import ARCHITECTURES, build_model, restored_model
from fedkd.models.architecture import Shape
from fedkd.models.checkpoint import save_checkpoint
from fedkd.models.own import OwnModel
from tests.small import CLASSES, SHAPE, federate, same_weights, small, weights
from tests.small import own_cache as own_cache

IMAGES: Shape = (3, 8, 8)

NETS = '''
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Tiny(nn.Module):
    """As one writes them: dropout, batch statistics, a lazy layer, `view`."""

    def __init__(self, num_classes=10, in_channels=3, width=4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.hidden = nn.LazyLinear(6)
        self.fc = nn.Linear(6, num_classes)
        self.register_buffer("table", torch.tensor([1.0, 2.0]), persistent=False)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x))) * self.table[1]
        x = x.view(x.shape[0], -1)
        return self.fc(F.dropout(F.relu(self.hidden(x)), 0.5, self.training))


def factory(out_features, image_size, depth=1, **more):
    side = image_size if isinstance(image_size, int) else sum(image_size)
    assert not more, more
    layers = [nn.Flatten(), nn.LazyLinear(side), nn.ReLU()] * depth
    return nn.Sequential(*layers, nn.Linear(side, out_features))


def flat(inputs, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes, bias=False))


class TwoHeads(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first = nn.Linear(4, classes)
        self.second = nn.Linear(4, classes)

    def forward(self, x):
        pixels = x.flatten(1)[:, :4]
        main = self.first(pixels)
        self.second(pixels)
        return main


class Sampled(nn.Module):
    """Draws its weights from everywhere."""

    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(4, classes)
        with torch.no_grad():
            self.fc.weight += random.random() + np.random.rand()

    def forward(self, x):
        return self.fc(x.flatten(1)[:, :4])


class Words(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, 5)
        self.out = nn.Linear(5, vocab_size)

    def forward(self, x):
        return self.out(self.table(x).cumsum(1))


class Ahead(Words):
    def forward(self, x):
        return self.out(self.table(x).sum(1, keepdim=True).expand(-1, x.shape[1], -1))


class Wrong(nn.Module):
    """What it gives is decided by `kind`."""

    def __init__(self, kind, outputs=7, weights=None):
        super().__init__()
        self.kind = kind
        self.fc = nn.Linear(4, outputs)
        self.twin = nn.Linear(4, outputs)
        if kind == "tied":
            self.twin.weight = self.fc.weight

    def forward(self, x):
        z = self.fc(x.flatten(1)[:, :4])
        if self.kind == "raises":
            return z @ z
        if self.kind == "tuple" or (self.kind == "auxiliary" and self.training):
            return z, z
        if self.kind == "pixels":
            return z[:, :, None]
        return {"softmax": z.softmax(1), "log_softmax": z.log_softmax(1), "doubled": z * 2}.get(self.kind, z)


class Plain:
    pass


def raising():
    raise KeyError("no such layer")


def nothing():
    return {}


def asks(depth):
    return nn.Linear(1, 1)


made = nn.Linear(1, 1)
number = 3
'''


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """A user's file."""
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def made(spec: str, shape: Shape = IMAGES, classes: int = 5, seed: int = 0, client: int = 0) -> OwnModel:
    model = build_model(spec, shape, classes, seed, "init", client)
    assert isinstance(model, OwnModel)
    return model


def pixels(n: int = 3, shape: Shape = IMAGES) -> torch.Tensor:
    return torch.rand(n, *shape, generator=stream("pixels"))


class TestTaken:
    def test_the_network_is_what_the_user_wrote(self, nets: Path) -> None:
        model, plain = made(f"{nets}:Tiny(width=2)"), load_file(str(nets), "model").Tiny(5, 3, 2)
        plain(pixels())
        plain.load_state_dict({name: model.state_dict()[here] for name, here in model.own_names().items()})
        x = pixels()
        assert torch.equal(model.eval()(x), plain.eval()(x))
        assert torch.equal(model.head(model.features(x)), model(x))
        assert model.features(x).shape == (3, 6)
        gradients = torch.autograd.grad(model(x).sum(), list(model.parameters()), allow_unused=True)
        assert all(gradient is not None for gradient in gradients)

    def test_weights_depend_on_the_seed_alone_wherever_they_are_drawn(self, nets: Path) -> None:
        for name in ("Tiny", "Sampled"):
            first, again, other = (weights(made(f"{nets}:{name}", seed=seed)) for seed in (0, 0, 1))
            assert same_weights(first, again)
            assert not same_weights(first, other)

    def test_a_restored_one_gives_the_same_and_draws_nothing(self, nets: Path) -> None:
        model = made(f"{nets}:Tiny")
        before = torch.random.get_rng_state()
        again = restored_model(f"{nets}:Tiny", IMAGES, 5, weights(model))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(again.eval()(pixels()), model.eval()(pixels()))
        assert not any(tensor.is_meta for tensor in again.state_dict().values())

    @pytest.mark.parametrize(
        ("spec", "shape", "classes", "expected"),
        [
            ("Tiny", (1, 8, 8), 4, {"body.conv.weight": (4, 1, 3, 3), "head.weight": (4, 6)}),
            ("Tiny(in_channels=3, num_classes=5)", IMAGES, 5, {"head.weight": (5, 6)}),
            ("factory", (3, 8, 8), 4, {"body.1.weight": (8, 192), "head.weight": (4, 8)}),
            ("factory", (3, 8, 6), 4, {"body.1.weight": (14, 144), "head.weight": (4, 14)}),
            ("flat", (2, 3, 4), 6, {"head.weight": (6, 24)}),
        ],
    )
    def test_what_the_data_decide_is_passed_where_it_is_asked_for(
        self, spec: str, shape: Shape, classes: int, expected: dict[str, tuple[int, ...]], nets: Path
    ) -> None:
        model = made(f"{nets}:{spec}", shape, classes)
        assert model(pixels(2, shape)).shape == (2, classes)
        for name, wanted in expected.items():
            assert model.state_dict()[name].shape == wanted

    def test_pixels_are_as_they_are_or_normalised(self, nets: Path) -> None:
        x = pixels()
        plain, each = made(f"{nets}:Tiny"), made(f"{nets}:Tiny(mean=[0.1, 0.2, 0.3], std=0.5)")
        assert torch.equal(plain.centred(x), x)
        shift = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
        each.load_state_dict(weights(plain) | {"mean": each.mean, "std": each.std})
        torch.testing.assert_close(each.eval()(x), plain.eval()((x - shift) / 0.5))

    def test_the_head_may_be_named(self, nets: Path) -> None:
        assert made(f"{nets}:TwoHeads(head='first')").origin == "first"
        with pytest.raises(UserError, match="its output is not that of its linear layer 'second'"):
            made(f"{nets}:TwoHeads")

    def test_text_is_taken_too_but_not_what_looks_ahead(self, nets: Path) -> None:
        model = made(f"{nets}:Words", (4,), 9)
        x = torch.randint(9, (2, 4), generator=stream("tokens"))
        assert (model.features(x).shape, model(x).shape) == ((2, 4, 5), (2, 4, 9))
        with pytest.raises(UserError, match="depend on later tokens"):
            made(f"{nets}:Ahead", (4,), 9)

    @pytest.mark.parametrize(
        "method", ["kd", "dml", 'kd(select="influence(keep=0.5)")', "fedavg", 'dp_kd(form="soup")', "fedprox"]
    )
    def test_every_kind_of_method_takes_them(self, method: str, nets: Path) -> None:
        transfer = "public(fraction=0.2, labelled=true)"
        outcome = federate(small(method, models=f"{nets}:Tiny", transfer=transfer))
        assert all(torch.isfinite(value).all() for value in outcome.final(0).values())
        assert not same_weights(outcome.weights[0][0], outcome.final(0))

    def test_an_architecture_in_the_same_file_is_one_still(self, nets: Path) -> None:
        nets.write_text(
            NETS + "\n\nfrom fedkd.models.mlp import MLP as Base\n\n\nclass Mine(Base):\n    '''A network.'''\n"
        )
        assert type(ARCHITECTURES.build(f"{nets}:mine(hidden=[3])")).__name__ == "Mine"


class TestWeights:
    @pytest.mark.parametrize("form", ["plain", "state_dict", "model", "model_state_dict", "module.", "_orig_mod."])
    def test_what_training_scripts_save_is_taken_up(self, form: str, nets: Path, tmp_path: Path) -> None:
        model, path = made(f"{nets}:Tiny", seed=3), tmp_path / "saved.pth"
        state = {name: model.state_dict()[here] for name, here in model.own_names().items()}
        if form.endswith("."):
            state = {form + name: value for name, value in state.items()}
        torch.save(state if form == "plain" or form.endswith(".") else {form: state, "epoch": 3, "best": 0.5}, path)
        for spec in (f"{nets}:Tiny(weights='{path}')", f"checkpoint:{path}(model='{nets}:Tiny')"):
            assert same_weights(weights(made(spec)), weights(model)), spec
        assert ARCHITECTURES.build(f"{nets}:Tiny(weights='{path}')").files(1) == (path,)

    def test_each_client_may_have_a_file_and_older_ones_lack_counters(self, nets: Path, tmp_path: Path) -> None:
        for client in (0, 1):
            model = made(f"{nets}:Tiny", seed=client)
            state = {name: model.state_dict()[here] for name, here in model.own_names().items()}
            state.pop("norm.num_batches_tracked")
            torch.save(state, tmp_path / f"net-{client}.pt")
            spec = f"{nets}:Tiny(weights='{tmp_path}/net-{{client}}.pt')"
            assert same_weights(weights(made(spec, client=client)), weights(model))
            assert ARCHITECTURES.build(spec).files(client) == (tmp_path / f"net-{client}.pt",)
            assert ARCHITECTURES.build(spec).brings_weights
        assert not ARCHITECTURES.build(f"{nets}:Tiny").brings_weights

    def test_what_fedkd_has_saved_is_taken_up_where_the_user_names_the_file(self, nets: Path, tmp_path: Path) -> None:
        model, path = made(f"{nets}:Tiny", seed=3), tmp_path / "kept.safetensors"
        save_checkpoint(path, f"{nets}:Tiny", model, IMAGES, 5)
        assert same_weights(weights(made(f"checkpoint:{path}(model='{nets}:Tiny')")), weights(model))
        with pytest.raises(UserError, match="which it may not decide"):
            made(f"checkpoint:{path}")

    def test_tensors_of_another_network_are_named_as_the_user_names_them(self, nets: Path, tmp_path: Path) -> None:
        model = made(f"{nets}:Tiny", classes=6)
        state = {name: model.state_dict()[here] for name, here in model.own_names().items()}
        torch.save(state, tmp_path / "six.pt")
        with pytest.raises(UserError, match=r"six\.pt: 'fc\.weight' has shape 6×6, not 5×6"):
            made(f"{nets}:Tiny(weights='{tmp_path}/six.pt')")

    @pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
    def test_programs_pickles_and_text_are_refused_with_what_to_do(self, nets: Path, tmp_path: Path) -> None:
        path = tmp_path / "given.pt"
        spec = f"{nets}:Tiny(weights='{path}')"
        program: Any = torch.jit.trace  # type: ignore[attr-defined,unused-ignore]
        program(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
        assert zipfile.is_zipfile(path)
        with pytest.raises(UserError, match=r"is TorchScript.*torch\.jit\.load\('given\.pt'\)\.state_dict\(\)"):
            made(spec)
        torch.save(nn.Linear(2, 2), path)
        with pytest.raises(UserError, match=r"a pickled torch\.nn\.\S+Linear; .* torch\.save\(model\.state_dict\(\)"):
            made(spec)
        path.write_text("weights\n")
        with pytest.raises(UserError, match="no file of tensors"):
            made(spec)


class TestRefused:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("Nope", r"defines no 'Nope'; Known: Ahead, Plain|defines no 'Nope'; Known: Ahead, "),
            ("Plain", "is a class; name a class of torch.nn.Module"),
            ("number", "is a int; name a class"),
            ("made", "is a network already; name its class"),
            ("nothing", "nothing gives a dict; it should give a torch.nn.Module"),
            ("raising", r"it cannot be made: nets\.py, line \d+: KeyError: 'no such layer'"),
            ("asks", r"asks asks for 'depth'; give it, as in asks\(depth=…\)"),
            ("Tiny(widht=3)", "unknown parameter 'widht'; did you mean 'width'"),
            ("Tiny(mean=[0.1, 0.2])", r"mean=\[0\.1, 0\.2\] has 2 numbers, but images have 3 channels"),
            ("Tiny(std=0.0)", r"std=0\.0: pixels are divided by it; it is above 0"),
            ("Tiny(num_classes=4)", "gives 4 outputs, but the data set has 5 classes; num_classes should be .*=5"),
            ("Tiny(head='fcc')", "head='fcc' is no linear layer of it; did you mean 'fc'"),
            ("Tiny(head='hidden')", "its output is not that of its linear layer 'hidden'"),
            (
                "Wrong(kind='')",
                "gives 7 outputs, but the data set has 5 classes; outputs should be",
            ),
            ("Wrong(kind='raises', outputs=5)", r"it fails on images of 3×8×8: nets\.py, line \d+: RuntimeError"),
            ("Wrong(kind='tuple', outputs=5)", "returns a tuple; return the logits alone"),
            ("Wrong(kind='auxiliary', outputs=5)", "returns a tuple in training; return the logits alone"),
            ("Wrong(kind='pixels', outputs=5)", "gives 2×5×1 for 2 samples; logits are 2×classes"),
            ("Wrong(kind='softmax', outputs=5)", "'fc', but of a softmax after it; return the output of a linear"),
            ("Wrong(kind='log_softmax', outputs=5)", "'fc', but of a log_softmax after it"),
            ("Wrong(kind='doubled', outputs=5)", "its output is not that of its linear layer 'fc'; return"),
            ("Wrong(kind='tied', outputs=5)", r"fc\.weight and twin\.weight are one tensor"),
            ("Wrong(kind='', weights='a.pt')", "has a parameter 'weights' of its own, which is a name of fedkd's"),
        ],
    )
    def test_by_one_line_that_says_what_would_be_right(self, spec: str, message: str, nets: Path) -> None:
        with pytest.raises(UserError, match=message) as caught:
            made(f"{nets}:{spec}")
        assert "\n" not in str(caught.value)
        assert re.match(r"model \S+|model Tiny", str(caught.value))

    def test_a_normalisation_of_text(self, nets: Path) -> None:
        with pytest.raises(UserError, match=r"mean=0\.5 is of images, but the data set is text"):
            made(f"{nets}:Words(mean=0.5)", (4,), 9)


def test_the_shape_of_the_tests_data_is_taken_too(nets: Path) -> None:
    assert made(f"{nets}:Tiny", SHAPE, CLASSES)(pixels(2, SHAPE)).shape == (2, CLASSES)


def test_values_reach_the_network_as_they_were_written(nets: Path) -> None:
    architecture: Any = ARCHITECTURES.build(f"{nets}:factory(depth=2, widths=[1, 2], name='a')")
    assert architecture.given == {"depth": 2, "widths": [1, 2], "name": "a"}

"""Every architecture keeps the contract of `Model`, and starts from its own seed."""

from __future__ import annotations

import pytest
import torch

from fedkd.base.catalogue import parameters
from fedkd.base.errors import UserError
from fedkd.base.spec import parse
from fedkd.base.streams import stream
from fedkd.models import ARCHITECTURES, Model, assignment, build_model, restored_model
from fedkd.models.architecture import Shape
from fedkd.settings.training import Optimisation
from fedkd.tensors.losses import cross_entropy
from fedkd.training.optimisers import SGD
from tests.small import distance, same_weights, samples, weights

SHAPES: list[Shape] = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 17, 9)]
FOUND = [name for name in ARCHITECTURES.names if not hasattr(ARCHITECTURES.find(parse(name)), "usage")]
NAMES = [name for name in FOUND if ARCHITECTURES.build(name).takes == "images"]
"""All for images that need no argument; torchvision, checkpoint and language models have files of their own here."""


def variants(name: str) -> list[str]:
    """Spec strings of an architecture: as it is, and with every other kind of normalisation that it offers."""
    norm = next((each for each in parameters(ARCHITECTURES.find(parse(name))) if each.name == "norm"), None)
    others = [kind for kind in norm.type.split(" | ") if kind != norm.default] if norm else []
    return [name, *(f"{name}(norm={kind})" for kind in others)]


OTHERS = ["mlp(hidden=[7, 5])", "cnn(width=4, hidden=6)", "wrn(depth=10, width=1)", "mobilenet_v2(width=0.5)"]
SPECS = sorted([*(spec for name in NAMES for spec in variants(name)), *OTHERS, "shufflenet_v2(width=0.5)"])
EVERY = pytest.mark.parametrize("spec", SPECS)


def mixes(spec: str) -> bool:
    """Whether a model has batch statistics."""
    return "'batch'" in spec


def build(spec: str, shape: Shape = (1, 8, 8), classes: int = 5, seed: int = 0, purpose: str = "init") -> Model:
    return build_model(spec, shape, classes, seed, purpose)


def outlined(spec: str, shape: Shape) -> Model:
    """The model on the meta device, where nothing is computed."""
    with torch.device("meta"):
        return ARCHITECTURES.build(spec).build(shape, 5)


def images(n: int, shape: Shape) -> torch.Tensor:
    return torch.rand(n, *shape, generator=stream("images"))


def test_the_catalogue_lists_architectures_only() -> None:
    resnets = {"resnet8", "resnet20", "resnet32", "resnet56", "resnet8x4", "resnet32x4", "wrn"}
    others = {"cnn", "fedavg_cnn", "lenet5", "mlp", "mobilenet_v2", "shufflenet_v2", "vgg8", "vgg13"}
    assert set(NAMES) >= resnets | others
    assert set(ARCHITECTURES.names) >= {"checkpoint", "torchvision"}
    assert not {"architecture", "assign", "blocks"} & set(ARCHITECTURES.names)


CASES = [(spec, shape) for spec in SPECS for shape in (SHAPES if spec in NAMES else SHAPES[::3])]
"""Every architecture on every shape; variants on the smallest one and the oddest one."""


@pytest.fixture(scope="class", params=CASES, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def case(request: pytest.FixtureRequest) -> tuple[str, Shape, Model]:
    """A spec, a shape, and the model of both."""
    spec, shape = request.param
    return spec, shape, build(spec, shape)


Case = tuple[str, Shape, Model]


class TestContract:
    def test_logits_are_the_head_on_the_features(self, case: Case) -> None:
        _, shape, made = case
        x = images(2, shape)
        features = made.features(x)
        assert features.shape == (2, made.head.in_features)
        assert made(x).shape == (2, 5)
        torch.testing.assert_close(made(x), features @ made.head.weight.T + made.head.bias)

    def test_every_weight_learns(self, case: Case) -> None:
        spec, shape, made = case
        parameters = dict(made.train().named_parameters())
        gradients = torch.autograd.grad(made(images(4, shape)).square().sum(), list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            assert torch.isfinite(gradient).all(), name
            # A bias in front of batch statistics is subtracted again: that of the published VGG.
            if not (spec.startswith("vgg") and mixes(spec) and name.endswith("bias")):
                assert float(gradient.abs().sum()) > 0, name

    def test_a_sample_is_predicted_alike_alone_and_in_company(self, case: Case) -> None:
        spec, shape, made = case
        x = images(3, shape)
        # Batch statistics mix the samples of a batch in training; in evaluation nothing does.
        for mode in (False,) if mixes(spec) else (True, False):
            made.train(mode)
            together = made(x)
            torch.testing.assert_close(
                torch.cat([made(x[i : i + 1]) for i in range(3)]), together, rtol=1e-4, atol=1e-5
            )

    def test_only_batch_statistics_are_kept_beside_the_weights(self, case: Case) -> None:
        spec, shape, made = case
        before = {name: buffer.clone() for name, buffer in made.named_buffers()}
        assert bool(before) == mixes(spec)
        made.train()(images(2, shape))
        assert all(not torch.equal(buffer, before[name]) for name, buffer in made.named_buffers())
        after = {name: buffer.clone() for name, buffer in made.named_buffers()}
        made.eval()(images(2, shape))
        assert all(torch.equal(buffer, after[name]) for name, buffer in made.named_buffers())

    def test_a_lone_sample_can_be_learned_from(self, case: Case) -> None:
        _, shape, made = case
        before = {name: buffer.clone() for name, buffer in made.named_buffers()}
        loss = made.train()(images(1, shape)).square().sum()
        assert all(module.training for module in made.modules())
        assert all(torch.equal(buffer, before[name]) for name, buffer in made.named_buffers())
        assert float(torch.autograd.grad(loss, made.head.weight)[0].abs().sum()) > 0

    def test_a_restored_model_predicts_the_same_to_the_last_bit(self, case: Case) -> None:
        spec, shape, made = case
        again = restored_model(spec, shape, 5, {name: tensor.clone() for name, tensor in made.state_dict().items()})
        x = images(2, shape)
        assert torch.equal(again.eval()(x), made.eval()(x))
        assert not any(tensor.is_meta for tensor in [*again.parameters(), *again.buffers()])


@EVERY
class TestStart:
    def test_the_same_seed_gives_the_same_weights(self, spec: str) -> None:
        assert same_weights(weights(build(spec)), weights(build(spec)))

    def test_another_seed_or_purpose_gives_others(self, spec: str) -> None:
        start = weights(build(spec))
        assert distance(start, weights(build(spec, seed=1))) > 1e-3
        assert distance(start, weights(build(spec, purpose="init/client 1"))) > 1e-3

    def test_torch_global_seed_neither_matters_nor_changes(self, spec: str) -> None:
        start = weights(build(spec))
        with torch.random.fork_rng():
            torch.manual_seed(7)
            before = torch.random.get_rng_state()
            assert same_weights(weights(build(spec)), start)
            assert torch.equal(torch.random.get_rng_state(), before)

    def test_a_model_is_restored_from_its_weights_and_learns_on(self, spec: str) -> None:
        made, x = build(spec, seed=3), images(4, (1, 8, 8))
        again = restored_model(spec, (1, 8, 8), 5, weights(made))
        assert same_weights(weights(again), weights(made))
        assert torch.equal(again(x), made(x))
        assert all(parameter.requires_grad for parameter in again.parameters())


# Without the two that take seconds to show what their smaller siblings do.
@pytest.mark.parametrize("spec", sorted({*SPECS} - {"resnet32x4(norm='batch')", "vgg13(norm='batch')"}))
def test_a_few_steps_fit_a_few_samples(spec: str) -> None:
    # What takes one network far throws another about: deep ones need small steps, those without norms large ones.
    assert any(loss_after_steps(spec, lr) < 0.9 * loss_after_steps(spec, 0) for lr in (0.02, 0.005, 0.3))


def loss_after_steps(spec: str, lr: float) -> float:
    """Cross-entropy of eight samples after 12 steps; of none where the learning rate is 0."""
    made, data = build(spec).train(), samples(8, "learned", shape=(1, 8, 8), classes=5)
    assert data.y is not None
    if lr:
        weights = list(made.parameters())
        optimiser = SGD(weights, Optimisation(lr=lr))
        for _ in range(12):
            optimiser.step(torch.autograd.grad(cross_entropy(made(data.x), data.y), weights))
    return float(cross_entropy(made(data.x), data.y).detach())


@pytest.mark.parametrize("spec", [name for name in NAMES if name != "mlp"])
@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 8, 3), (3, 1, 1)], ids=str)
def test_images_that_are_too_small_are_refused_with_their_size(spec: str, shape: Shape) -> None:
    with pytest.raises(UserError, match=rf"model {spec}: .* {shape[1]}×{shape[2]}; it needs at least [48]×[48]"):
        build(spec, shape)


@pytest.mark.parametrize("spec", NAMES)
def test_images_of_any_size_are_taken_or_refused_but_never_fail_later(spec: str) -> None:
    for side in (1, 2, 4, 5, 7):
        try:
            made = outlined(spec, (1, side, side))
        except UserError:
            continue
        assert made(torch.empty(2, 1, side, side, device="meta")).shape == (2, 5)


class TestAssignment:
    def test_alternatives_are_given_out_in_turn(self) -> None:
        assert assignment("cnn|mlp", 5) == ("cnn", "mlp", "cnn", "mlp", "cnn")
        assert assignment("a | b|c ", 4) == ("a", "b", "c", "a")
        assert assignment("mlp(hidden=[4])", 2) == ("mlp(hidden=[4])",) * 2

    def test_a_bar_or_star_within_brackets_or_quotes_is_no_sign(self) -> None:
        assert assignment('a(x="p|q*2")|b', 2) == ("a(x='p|q*2')", "b")

    @pytest.mark.parametrize("clients", [4, 7, 40])
    def test_weights_are_shares_kept_from_the_first_client_on(self, clients: int) -> None:
        given = assignment("a*3|b", clients)
        for stop in range(1, clients + 1):
            assert abs(given[:stop].count("b") - stop / 4) < 1
        assert given[:4].count("b") == 1

    def test_equal_weights_are_turns(self) -> None:
        assert assignment("a*2|b*2|c*2", 7) == assignment("a|b|c", 7)

    def test_clients_can_be_named(self) -> None:
        assert assignment("0: big | small", 4) == ("big", "small", "small", "small")
        assert assignment("0-1,3: a | c | d", 6) == ("a", "a", "c", "a", "d", "c")
        assert assignment("0: torchvision:resnet18(weights='X') | 1: checkpoint:a.safetensors", 2) == (
            "torchvision:resnet18(weights='X')",
            "checkpoint:a.safetensors",
        )

    @pytest.mark.parametrize(
        ("models", "message"),
        [
            *((text, "empty") for text in ("", "cnn|", "|cnn", "cnn||mlp", " ", "0:", "*2")),
            ("a*0|b", "weight"),
            ("0: a*2|b", "weight"),
            ("0: a | 0-1: b | c", "client 0 is given two"),
            ("0: a", "client 1 has no model"),
            ("4: a | b", "no client 4; clients are 0 to 2"),
            ("1-3: a | b", "no client 1-3"),
            ("2-1: a | b", "no client 2-1"),
            ("a|b|c|d", "no client is left for d"),
            ("0-2: a | b", "no client is left for b"),
            ("a|os.remove('x')", "cannot read"),
        ],
    )
    def test_what_cannot_be_given_out_is_refused(self, models: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            assignment(models, 3)

    def test_an_unknown_model_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(UserError, match="did you mean 'lenet5'"):
            build("lenet")

"""Every architecture keeps the contract of `Model`, and starts from its own seed."""

from __future__ import annotations

import pytest
import torch

from fedkd.errors import UserError
from fedkd.models import ARCHITECTURES, Model, assignment, build_model, restored_model
from fedkd.models.architecture import Shape
from fedkd.streams import stream
from tests.small import distance, same_weights, weights

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 17, 9)]
SPECS = sorted({*ARCHITECTURES.names, "lenet5(norm='group')", "mlp(hidden=[7, 5])", "cnn(width=4, hidden=6)"})
EVERY = pytest.mark.parametrize("spec", SPECS)


def build(spec: str, shape: Shape = (1, 8, 8), classes: int = 5, seed: int = 0, purpose: str = "init") -> Model:
    return build_model(spec, shape, classes, seed, purpose)


def images(n: int, shape: Shape) -> torch.Tensor:
    return torch.rand(n, *shape, generator=stream("images"))


def test_the_catalogue_lists_architectures_only() -> None:
    assert set(ARCHITECTURES.names) >= {"cnn", "lenet5", "mlp"}
    assert not {"architecture", "assign"} & set(ARCHITECTURES.names)


@EVERY
@pytest.mark.parametrize("shape", SHAPES, ids=str)
class TestContract:
    def test_logits_are_the_head_on_the_features(self, spec: str, shape: Shape) -> None:
        made = build(spec, shape)
        x = images(6, shape)
        features = made.features(x)
        assert features.shape == (6, made.head.in_features)
        assert made(x).shape == (6, 5)
        torch.testing.assert_close(made(x), features @ made.head.weight.T + made.head.bias)

    def test_a_sample_is_predicted_alike_alone_and_in_company(self, spec: str, shape: Shape) -> None:
        # Batch statistics would mix what clients hold.
        made, x = build(spec, shape).train(), images(6, shape)
        torch.testing.assert_close(torch.cat([made(x[i : i + 1]) for i in range(6)]), made(x), rtol=1e-4, atol=1e-5)

    def test_every_weight_learns(self, spec: str, shape: Shape) -> None:
        made = build(spec, shape)
        loss = made(images(64, shape)).square().sum()
        for name, parameter in made.named_parameters():
            (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            assert float(gradient.abs().sum()) > 0, name


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


@pytest.mark.parametrize("spec", ["cnn", "lenet5"])
@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 8, 3), (3, 1, 1)], ids=str)
def test_images_that_are_too_small_are_refused_with_their_size(spec: str, shape: Shape) -> None:
    with pytest.raises(UserError, match=rf"{spec}.*{shape[1]}×{shape[2]}"):
        build(spec, shape)


@EVERY
@pytest.mark.parametrize("side", range(1, 9))
def test_images_of_any_size_are_taken_or_refused_but_never_fail_later(spec: str, side: int) -> None:
    try:
        made = build(spec, (1, side, side))
    except UserError:
        return
    assert made(images(2, (1, side, side))).shape == (2, 5)


def test_lenet5_has_the_sizes_of_the_original_on_28_by_28() -> None:
    # LeCun et al. 1998, fully connected form: 156 + 2,416 + 48,120 + 10,164 + 850 = 61,706 weights.
    made = build("lenet5", (1, 28, 28), classes=10)
    assert sum(parameter.numel() for parameter in made.parameters()) == 61_706


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

"""Augmentation: each step against a loop over samples with the same draws, its limits, and its share of the time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.base.catalogue import parameters, summary
from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.models import build_model
from fedkd.training.augment import KNOWN, Augmentation, Crop, Flip, augmentation
from tests.small import SHAPE

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(3, 7), st.integers(3, 7))


def made(text: str) -> Augmentation:
    found = augmentation(text)
    assert found is not None
    return found


def images(n: int = 6, channels: int = 2, height: int = 5, width: int = 4) -> Tensor:
    """Images of which no two pixels are equal, and none is black."""
    return torch.arange(1, n * channels * height * width + 1).float().reshape(n, channels, height, width)


def mirrored(place: int, length: int) -> int:
    """Where a place beyond the edge lies in the mirror; the edge itself is not repeated."""
    if place < 0:
        return -place
    return 2 * (length - 1) - place if place >= length else place


def cropped(x: Tensor, padding: int, fill: str, corners: Tensor) -> Tensor:
    """Pixel by pixel: pixel (r, c) of the result is pixel (r + top − padding, c + left − padding), if there is one."""
    n, channels, height, width = x.shape
    out = torch.zeros_like(x)
    for i in range(n):
        top, left = int(corners[0, i]) - padding, int(corners[1, i]) - padding
        for row in range(height):
            for column in range(width):
                r, c = row + top, column + left
                if fill == "reflect":
                    r, c = mirrored(r, height), mirrored(c, width)
                if 0 <= r < height and 0 <= c < width:
                    for channel in range(channels):
                        out[i, channel, row, column] = x[i, channel, r, c]
    return out


class TestCrop:
    @given(SHAPES, st.integers(0, 5), st.integers(0, 10**6))
    def test_with_black_around_it_is_the_loop(self, shape: tuple[int, ...], padding: int, seed: int) -> None:
        x = images(*shape)
        corners = torch.randint(2 * padding + 1, (2, len(x)), generator=stream(seed))
        assert torch.equal(Crop(padding)(x, stream(seed)), cropped(x, padding, "zero", corners))

    @given(SHAPES, st.integers(0, 2), st.integers(0, 10**6))
    def test_with_a_mirror_around_it_is_the_loop(self, shape: tuple[int, ...], padding: int, seed: int) -> None:
        x = images(*shape)
        corners = torch.randint(2 * padding + 1, (2, len(x)), generator=stream(seed))
        assert torch.equal(Crop(padding, "reflect")(x, stream(seed)), cropped(x, padding, "reflect", corners))

    @pytest.mark.parametrize("fill", ["zero", "reflect"])
    def test_no_padding_changes_nothing(self, fill: str) -> None:
        x = images()
        assert torch.equal(made(f"crop(padding=0, fill={fill!r})")(x, stream(1)), x)

    def test_every_window_is_as_likely(self) -> None:
        # One bright pixel in the middle: where it lands tells the window. Four standard errors of a multinomial.
        n, padding = 20_000, 1
        x = torch.zeros(n, 1, 3, 3)
        x[:, :, 1, 1] = 1
        counts = Crop(padding)(x, stream(5)).sum((0, 1))
        assert counts.sum() == n, "it never leaves the picture"
        assert (counts - n / 9).abs().max() < 4 * (n * (1 / 9) * (8 / 9)) ** 0.5

    def test_a_border_wider_than_the_image(self) -> None:
        x = images(2, 1, 3, 3)
        assert Crop(7)(x, stream(0)).shape == x.shape
        with pytest.raises(UserError, match=r"padding=3, fill='reflect'.*images are 3×4; .* at most 2 wide"):
            Crop(3, "reflect")(images(2, 1, 3, 4), stream(0))


class TestFlip:
    @given(SHAPES, st.floats(0, 1), st.integers(0, 10**6))
    def test_it_is_the_loop(self, shape: tuple[int, ...], probability: float, seed: int) -> None:
        x = images(*shape)
        draws = torch.rand(len(x), generator=stream(seed)).tolist()
        expected = [
            [[row[::-1] if draw < probability else row for row in channel] for channel in image]
            for image, draw in zip(x.tolist(), draws, strict=True)
        ]
        assert Flip(probability)(x, stream(seed)).tolist() == expected

    def test_twice_with_the_same_draws_is_the_original(self) -> None:
        x = images(50)
        once = Flip()(x, stream(3))
        assert not torch.equal(once, x)
        assert torch.equal(Flip()(once, stream(3)), x)

    def test_its_limits_and_its_share(self) -> None:
        x = images(1000, 1, 1, 2)
        assert torch.equal(Flip(0.0)(x, stream(0)), x)
        assert torch.equal(Flip(1.0)(x, stream(0)), x.flip(3))
        share = (Flip(0.3)(x, stream(0)) != x).any(3).float().mean().item()
        assert share == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 1000) ** 0.5)


class TestSteps:
    TEXT = "crop(padding=2)+flip"

    def test_they_follow_each_other(self) -> None:
        x, one = images(), stream(7)
        expected = Flip()(Crop(2)(x, one), one)
        assert torch.equal(made(self.TEXT)(x, stream(7)), expected)

    def test_same_generator_same_images(self) -> None:
        x, augment = images(40), made(self.TEXT)
        assert torch.equal(augment(x, stream(1)), augment(x, stream(1)))
        assert not torch.equal(augment(x, stream(1)), augment(x, stream(2)))

    def test_nothing_global_is_drawn_from_and_the_images_are_left_alone(self) -> None:
        x, state = images(), torch.get_rng_state()
        before = x.clone()
        made(self.TEXT)(x, stream(1))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(x, before)

    @pytest.mark.parametrize("text", ["crop(padding=0)", "crop(padding=3)", "flip(probability=0.0)", "flip"])
    def test_as_many_numbers_are_drawn_whatever_the_images_are(self, text: str) -> None:
        left = []
        for shape in ((4, 1, 5, 5), (4, 3, 9, 6)):
            generator = stream(2)
            made(text)(images(*shape), generator)
            left.append(torch.rand(1, generator=generator))
        assert torch.equal(*left)

    def test_an_empty_batch(self) -> None:
        assert made(self.TEXT)(torch.empty(0, 3, 4, 4), stream(0)).shape == (0, 3, 4, 4)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
    def test_values_keep_their_type(self, dtype: torch.dtype) -> None:
        assert made(self.TEXT)(images(1).to(dtype), stream(0)).dtype == dtype

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    @pytest.mark.parametrize("text", [TEXT, "crop(padding=2, fill='reflect')"])
    def test_the_device_changes_no_number(self, text: str) -> None:
        x = torch.rand(40, 3, 8, 8)
        on_gpu = made(text)(x.cuda(), stream(1))
        assert on_gpu.is_cuda
        assert torch.equal(on_gpu.cpu(), made(text)(x, stream(1)))

    def test_it_takes_a_small_part_of_a_training_step(self) -> None:
        # Measured with one thread, a batch of 32: of a step of cnn 4 % (1×8×8), 0.8 % (1×28×28), 1.6 % (3×32×32).
        # The bound leaves room for a busy machine.
        x, y = torch.rand(32, 3, 32, 32), torch.zeros(32, dtype=torch.int64)
        model, augment, generator = build_model("cnn", (3, 32, 32), 10, 0, "test"), made("crop+flip"), stream(0)
        weights = list(model.parameters())

        def step() -> object:
            return torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), weights)

        assert median(lambda: augment(x, generator)) < 0.25 * median(step)


def median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(9):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


class TestText:
    def test_none(self) -> None:
        assert augmentation("") is None
        assert augmentation("  ") is None

    def test_what_it_stands_for(self) -> None:
        assert made(" crop( padding=4 ) + flip ").steps == (Crop(4), Flip())
        assert made('crop(fill="reflect")+flip(probability=0.1)').steps == (Crop(4, "reflect"), Flip(0.1))
        assert made("crop+flip") == made("crop(padding=4)+flip")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("flop", "unknown augmentation 'flop': did you mean 'flip'. Known: crop, flip"),
            ("crop+", r"augmentation 'crop\+': a step is missing beside '\+'"),
            ("+flip", "a step is missing"),
            ("crop(pading=4)", "augmentation crop: unknown parameter 'pading'; did you mean 'padding'"),
            ("crop(padding=-1)", "augmentation crop: padding: input should be greater than or equal to 0, found -1"),
            ("crop(padding=1.5)", "augmentation crop: padding: input should be a valid integer, found 1.5"),
            ("crop(fill='edge')", "augmentation crop: fill: input should be 'zero' or 'reflect', found 'edge'"),
            ("flip(probability=2.0)", "augmentation flip: probability: input should be less than or equal to 1"),
            ("crop(4)", r"crop: parameters are given by name"),
            ("crop:4", "augmentation 'crop:4': it is written crop"),
            ("own.py:crop", "unknown augmentation 'own.py:crop'"),
            ("crop flip", "cannot read the spec 'crop flip'"),
        ],
    )
    def test_what_is_wrong_is_named(self, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            augmentation(text)

    @pytest.mark.parametrize("name", KNOWN)
    def test_every_step_and_parameter_is_described(self, name: str) -> None:
        assert summary(KNOWN[name])
        assert all(parameter.help for parameter in parameters(KNOWN[name]))
        x = torch.rand(3, *SHAPE)
        assert made(name)(x, stream(0)).shape == x.shape

"""Gaussian classes: the accuracy that is promised is the one that the best rule reaches, and no other is better."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from fedkd.base.catalogue import summary
from fedkd.base.errors import UserError
from fedkd.data import load
from fedkd.data.sources import source
from fedkd.data.sources.synthetic import Synthetic


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))


def four_sigma(accuracy: float, n: int) -> float:
    """Four binomial standard errors."""
    return 4 * math.sqrt(max(accuracy * (1 - accuracy), 1 / n) / n)


def nearest_mean(images: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) label of the nearest of the (classes, d) means."""
    squares = (images**2).sum(1)[:, None] - 2 * images @ means.T + (means**2).sum(1)
    return np.asarray(squares.argmin(1), np.int64)


class TestBayesAccuracy:
    @pytest.mark.parametrize("separation", [0.0, 0.5, 2.0, 5.0, 8.0])
    def test_two_classes_have_the_textbook_accuracy(self, separation: float) -> None:
        assert Synthetic(classes=2, separation=separation).bayes_accuracy == pytest.approx(
            norm.cdf(separation / 2), abs=1e-9
        )

    @pytest.mark.parametrize("classes", [2, 3, 10, 50])
    def test_limits(self, classes: int) -> None:
        assert Synthetic(classes=classes, separation=0.0).bayes_accuracy == pytest.approx(1 / classes, abs=1e-9)
        assert Synthetic(classes=classes, separation=40.0).bayes_accuracy == pytest.approx(1, abs=1e-9)
        rising = [Synthetic(classes=classes, separation=d / 2).bayes_accuracy for d in range(16)]
        assert rising == sorted(rising)

    @pytest.mark.parametrize(("classes", "separation"), [(2, 1.0), (3, 2.0), (10, 4.0), (40, 5.0)])
    def test_the_integral_equals_monte_carlo(self, classes: int, separation: float) -> None:
        n = 200_000
        rng = np.random.default_rng(classes)
        others = rng.standard_normal((n, classes - 1)).max(1)
        right = (rng.standard_normal(n) + separation / math.sqrt(2) > others).mean()
        accuracy = Synthetic(classes=classes, separation=separation).bayes_accuracy
        assert right == pytest.approx(accuracy, abs=four_sigma(accuracy, n))

    def test_the_users_text_has_the_number(self) -> None:
        accuracy = Synthetic().bayes_accuracy
        assert f"{100 * accuracy:.1f} %" in summary(Synthetic)
        # Rounding is noise of variance 1/12 more: what it costs is what the docstring says.
        levels = Synthetic().levels()
        less = Synthetic(separation=4.0 / math.sqrt(1 + 1 / (12 * levels**2))).bayes_accuracy
        assert 0 < accuracy - less < 1e-4
        assert round(levels) == 22


class TestSamples:
    @pytest.mark.parametrize(
        ("classes", "shape", "separation"),
        [(10, (1, 8, 8), 4.0), (2, (1, 1, 3), 2.0), (5, (3, 4, 4), 3.0), (63, (1, 8, 8), 6.0)],
    )
    def test_the_nearest_mean_reaches_it(self, classes: int, shape: tuple[int, ...], separation: float) -> None:
        n = 60_000
        made = Synthetic(classes=classes, samples=n, shape=shape, separation=separation)
        prepared = made.prepare(lambda *_: None)
        means = (127.5 + made.levels() * separation / math.sqrt(2) * made.patterns()).reshape(classes, -1)
        found = nearest_mean(prepared.images.reshape(n, -1).astype(float), means)
        accuracy = made.bayes_accuracy
        assert (found == prepared.labels).mean() == pytest.approx(accuracy, abs=four_sigma(accuracy, n))

    def test_means_and_noise_are_as_promised(self) -> None:
        made = Synthetic(classes=4, samples=40_000, shape=(1, 3, 4), separation=5.0)
        prepared = made.prepare(lambda *_: None)
        pixels = prepared.images.reshape(40_000, -1).astype(float)
        means = np.stack([pixels[prepared.labels == label].mean(0) for label in range(4)])
        noise = pixels - means[prepared.labels]
        covariance = np.cov(noise.T) / made.levels() ** 2
        assert np.abs(covariance - np.eye(12)).max() < 0.04
        distances = np.linalg.norm(means[:, None] - means[None], axis=2) / made.levels()
        assert np.abs(distances[~np.eye(4, dtype=bool)] - 5.0).max() < 0.06

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 5), (2, 1, 9)])
    def test_the_patterns_are_orthonormal_and_have_no_mean(self, shape: tuple[int, ...]) -> None:
        patterns = Synthetic(shape=shape, separation=1.0).patterns().reshape(10, -1)
        assert np.allclose(patterns @ patterns.T, np.eye(10))
        assert np.allclose(patterns.sum(1), 0)

    @pytest.mark.parametrize("separation", [0.0, 4.0, 100.0])
    def test_hardly_a_value_is_clipped(self, separation: float) -> None:
        images = Synthetic(separation=separation, samples=20_000).prepare(lambda *_: None).images
        assert ((images == 0) | (images == 255)).mean() < 2e-6

    def test_classes_are_balanced_and_the_border_is_seeded(self) -> None:
        dataset = load("synthetic(classes=3, samples=100, shape=[1, 2, 3])")
        assert sorted(torch.bincount(dataset.labels).tolist()) == [33, 33, 34]
        assert dataset.shape == (1, 2, 3)
        assert (len(dataset.train), len(dataset.test)) == (83, 17)
        assert dataset.classes == ("0", "1", "2")

    def test_same_seed_same_images(self) -> None:
        one, again = (Synthetic(samples=50, seed=1).prepare(lambda *_: None) for _ in range(2))
        other = Synthetic(samples=50, seed=2).prepare(lambda *_: None)
        assert np.array_equal(one.images, again.images)
        assert not np.array_equal(one.images, other.images)
        assert load("synthetic(seed=1)").fingerprint != load("synthetic(seed=2)").fingerprint
        assert load("synthetic(seed=1)").fingerprint != load("synthetic(seed=1, separation=4.5)").fingerprint

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("synthetic(classes=1)", "classes: input should be greater than or equal to 2, found 1"),
            ("synthetic(classes=6, shape=[1, 2, 3])", r"classes=6 need more than 6 pixels; shape=\[1, 2, 3\] has 6"),
            ("synthetic(samples=19)", "samples=19 are too few; 20 are two a class"),
            ("synthetic(separation=-1.0)", "separation: input should be greater than or equal to 0"),
            ("synthetic(shape=[8, 8])", r"shape=\[8, 8\] should be channels, height and width"),
            ("synthetic(shape=[0, 8, 8])", "shape.0: input should be greater than 0, found 0"),
            ("synthetic(sigma=1.0)", "unknown parameter 'sigma'"),
        ],
    )
    def test_what_is_wrong_is_named(self, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            source(text)

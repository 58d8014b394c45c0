"""Strategies that change what clients see: how much at which client, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from partitions.brightness import Brightness
from partitions.composition import Skew, composed
from partitions.contract import Images, Partition, PartitionError, Samples, Strategy, apply
from partitions.dirichlet import Dirichlet
from partitions.iid import IID
from partitions.label_noise import LabelNoise
from partitions.likeness import alike
from partitions.long_tail import LongTail
from partitions.noise import Noise
from partitions.pathological import Pathological
from partitions.rotation import Rotation, Turned
from tests.test_partitions import make, same, tables


class Liar(Strategy):
    """Deals IID, and every label is the next."""

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """As IID, with false labels."""
        return replace(IID().split(samples, clients, rng), labels=(samples.labels + 1) % 3)


def seen(strategy: Strategy, images: Images, clients: int) -> list[Images]:
    """What each client makes of the same images."""
    partition = apply(strategy, make(100, 10), clients, seed=0)
    assert partition.transforms is not None
    return [transform(images, np.random.default_rng(i)) for i, transform in enumerate(partition.transforms)]


def pictures(*shape: int) -> Images:
    """Random images in [0, 1]."""
    return np.random.default_rng(0).random(shape, np.float32)


def test_noise_grows_linearly_with_the_client() -> None:
    grey = np.full((40, 1, 50, 50), 0.5, np.float32)
    for i, images in enumerate(seen(Noise(0.1), grey, 5)):
        # 100,000 draws: relative error 0.0022. Five standard deviations lie within [0, 1].
        assert (images - grey).std() == pytest.approx(0.1 * i / 4, rel=0.012)
        assert abs((images - grey).mean()) <= 4.5 * 0.1 * i / 4 / np.sqrt(100_000)
    (alone,) = seen(Noise(0.1), grey, 1)
    assert np.array_equal(alone, grey)


def test_noise_is_independent_between_pixels_and_clipped() -> None:
    strong = seen(Noise(5.0), np.full((40, 1, 50, 50), 0.5, np.float32), 2)[1]
    # Half of all draws are negative; those beyond ±0.5/5 standard deviations are clipped: 92 %.
    assert ((strong == 0) | (strong == 1)).mean() == pytest.approx(0.92, abs=0.01)
    signs = np.sign(strong - 0.5).reshape(40, -1)
    assert abs(np.corrcoef(signs[:, :-1].ravel(), signs[:, 1:].ravel())[0, 1]) < 4.5 / np.sqrt(100_000)


@pytest.mark.parametrize("shape", [(3, 2, 9, 9), (2, 1, 8, 13), (1, 3, 1, 5)])
@pytest.mark.parametrize("degrees", [-360.0, -90.0, 7.0, 45.0, 123.4, 180.0])
def test_turning_is_scipy_s_bilinear_rotation(degrees: float, shape: tuple[int, ...]) -> None:
    images = pictures(*shape)
    expected = ndimage.rotate(images, degrees, (2, 3), reshape=False, order=1, mode="grid-constant", prefilter=False)
    assert np.abs(Turned(degrees)(images, np.random.default_rng()) - expected).max() < 1e-6


def test_rotation_grows_linearly_with_the_client() -> None:
    images = pictures(2, 1, 6, 6)
    turned = seen(Rotation(270.0), images, 4)
    for quarters, own in enumerate(turned):
        assert np.array_equal(own, np.rot90(images, quarters, (2, 3)))
    clockwise = seen(Rotation(-90.0), images, 2)[1]
    assert np.array_equal(clockwise, np.rot90(images, -1, (2, 3)))
    assert np.array_equal(seen(Rotation(90.0), images, 1)[0], images)


def test_brightness_grows_linearly_with_the_client() -> None:
    dark = pictures(3, 1, 6, 6) * np.float32(0.5)
    for own, factor in zip(seen(Brightness(0.6), dark, 4), (0.4, 0.8, 1.2, 1.6), strict=True):
        assert own == pytest.approx(dark * factor, abs=1e-6)
    assert seen(Brightness(0.6), np.ones((1, 1, 2, 2), np.float32), 2)[1].max() == 1
    assert np.array_equal(seen(Brightness(), dark, 1)[0], dark)


class TestLabelNoise:
    @staticmethod
    def hit(strategy: Strategy, samples: Samples, clients: int, seed: int = 0) -> tuple[Partition, NDArray[np.bool_]]:
        """The partition, and which labels are false."""
        partition = apply(strategy, samples, clients, seed)
        assert partition.labels is not None
        return partition, partition.labels != samples.labels

    @pytest.mark.parametrize("kind", ["symmetric", "pair"])
    @pytest.mark.parametrize("rate", [0.001, 0.25, 1.0])
    def test_exactly_so_many_on_chosen_clients(self, kind: str, rate: float) -> None:
        samples = make(1003, 7)
        for chosen in ((), (2,), (3, 0, 3)):
            strategy = LabelNoise(rate, chosen, kind)  # type: ignore[arg-type]
            partition, wrong = self.hit(strategy, samples, 4)
            for client, own in enumerate(partition.clients):
                expected = round(rate * len(own)) if not chosen or client in chosen else 0
                assert wrong[own].sum() == expected
            assert same(apply(strategy, samples, 4, 0), partition)

    def test_symmetric_labels_are_uniform_over_the_others(self) -> None:
        samples = Samples(np.repeat([3, 5, 6, 9], 3000))  # labels with gaps
        partition, wrong = self.hit(LabelNoise(0.5), samples, 2)
        assert partition.labels is not None
        flips = np.array(
            [[((samples.labels == a) & (partition.labels == b)).sum() for b in (3, 5, 6, 9)] for a in (3, 5, 6, 9)]
        )
        assert flips.sum() == len(samples)
        # Of 1,500 hit in each class a third goes to each other: standard deviation 18, and 27 for how many are hit.
        off = flips[~np.eye(4, dtype=bool)]
        assert np.abs(off - 500).max() < 4.5 * 24
        assert wrong.sum() == 6000

    def test_pairs_lead_to_the_next_class(self) -> None:
        samples = Samples(np.repeat([3, 5, 9], 100))
        partition, wrong = self.hit(LabelNoise(0.3, kind="pair"), samples, 3)
        following = {3: 5, 5: 9, 9: 3}
        assert partition.labels is not None
        for true, false in zip(samples.labels[wrong].tolist(), partition.labels[wrong].tolist(), strict=True):
            assert following[true] == false

    def test_two_terms_hit_one_after_the_other(self) -> None:
        samples = make(900, 3)
        twice = composed([LabelNoise(1.0, kind="pair"), LabelNoise(1.0, (1,), "pair")], ["a", "b"])
        partition = apply(twice, samples, 2, seed=0)
        assert partition.labels is not None
        for client, own in enumerate(partition.clients):
            assert np.array_equal(partition.labels[own], (samples.labels[own] + 1 + client) % 3)

    def test_what_cannot_be(self) -> None:
        with pytest.raises(PartitionError, match="names client 7, but there are 3; ids are 0 to 2"):
            apply(LabelNoise(0.1, (0, 7)), make(30, 3), 3, seed=0)
        with pytest.raises(PartitionError, match="at least 2 classes; all samples are of class 0"):
            apply(LabelNoise(), make(30, 1), 3, seed=0)


class TestSums:
    @pytest.mark.parametrize("skew", [Noise(), Rotation(), Brightness(), LabelNoise(0.4)])
    @pytest.mark.parametrize("dealer", [IID(), Dirichlet(0.4), Pathological(2)])
    def test_a_skew_leaves_the_deal_alone(self, skew: Skew, dealer: Strategy) -> None:
        samples = make(600, 6)
        plain, skewed = apply(dealer, samples, 4, 0), apply(composed([skew, dealer], ["a", "b"]), samples, 4, 0)
        assert all(np.array_equal(a, b) for a, b in zip(plain.clients, skewed.clients, strict=True))
        assert skewed.transforms is not None or skewed.labels is not None

    def test_transforms_come_in_the_order_of_the_terms(self) -> None:
        images = pictures(2, 1, 5, 5)
        both = seen(composed([Rotation(90.0), Brightness(0.3)], ["a", "b"]), images, 2)
        for own, quarters, factor in zip(both, (0, 1), (0.7, 1.3), strict=True):
            assert own == pytest.approx(np.clip(np.rot90(images, quarters, (2, 3)) * factor, 0, 1), abs=1e-6)

    def test_thinned_dealt_and_skewed(self) -> None:
        samples = make(3000, 6)
        strategy = composed([LabelNoise(0.5), LongTail(10.0), Pathological(2)], ["a", "b", "c"])
        partition = apply(strategy, samples, 6, seed=0)
        table = tables(partition, samples.labels)
        assert ((table > 0).sum(axis=1) == 2).all()
        assert table.sum(axis=0).tolist() == [round(500 * 10 ** (-rank / 5)) for rank in range(6)]
        assert partition.labels is not None
        assert (partition.labels == samples.labels)[partition.dropped].all()

    def test_local_tests_follow_the_deal_and_have_true_labels(self) -> None:
        samples, test = make(3000, 6), make(600, 6, seed=1)
        strategy = composed([Pathological(2), LabelNoise(1.0)], ["a", "b"])
        partition = apply(strategy, samples, 5, seed=0)
        local = strategy.local_test(partition, samples, test, np.random.default_rng(0))
        # Were false labels looked at, a client would be tested on the classes that its own are not.
        assert np.array_equal(tables(local, test.labels) > 0, tables(partition, samples.labels) > 0)

    def test_labels_that_a_deal_falsifies_are_those_of_its_samples(self) -> None:
        samples = make(300, 3)
        strategy = composed([LongTail(4.0), Liar(), LabelNoise(1.0, (0,), "pair")], ["a", "b", "c"])
        partition = apply(strategy, samples, 2, seed=0)
        assert partition.labels is not None
        first, second = partition.clients
        assert np.array_equal(partition.labels[first], (samples.labels[first] + 2) % 3)
        assert np.array_equal(partition.labels[second], (samples.labels[second] + 1) % 3)
        assert np.array_equal(partition.labels[partition.dropped], samples.labels[partition.dropped])

    def test_two_that_deal_are_refused(self) -> None:
        with pytest.raises(PartitionError, match="x and y both deal"):
            composed([Noise(), IID(), Dirichlet()], ["n", "x", "y"])


class TestLikeness:
    def test_few_test_samples_are_spread_over_the_clients(self) -> None:
        # 1,000 equal clients and 4 test samples for each: none may go without while others have ten.
        samples, test = Samples(np.tile(np.arange(10), 1000)), Samples(np.tile(np.arange(10), 400))
        partition = Partition(tuple(np.arange(10_000).reshape(1000, 10)))
        sizes = [len(own) for own in alike(partition, samples, test, np.random.default_rng(0)).clients]
        assert sum(sizes) == 4000
        assert (min(sizes), max(sizes)) == (4, 4)

    def test_classes_that_are_missing_on_one_side(self) -> None:
        samples, test = Samples(np.array([0] * 8 + [1] * 8 + [5] * 3)), Samples(np.array([1] * 4 + [2] * 6))
        partition = Partition((np.arange(12), np.arange(12, 16)), np.arange(16, 19))
        local = alike(partition, samples, test, np.random.default_rng(0))
        assert [sorted(test.labels[own].tolist()) for own in local.clients] == [[1, 1], [1, 1]]
        nothing = alike(partition, samples, Samples(np.array([9, 9])), np.random.default_rng(0))
        assert [len(own) for own in nothing.clients] == [0, 0]
        assert sorted(nothing.dropped.tolist()) == [0, 1]

"""Deals and holdings: local tests by the same law, skews that clients see, manifests taken over, transfer sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.base.errors import UserError
from fedkd.base.files import forget_files
from fedkd.data import Dataset, load
from fedkd.node.node import SERVER
from fedkd.settings.federation import Federation
from partitions.measures import skew
from partitions.split import Split
from simulations.data import load_holdings
from simulations.splits import make_split, split_of, write_manifest
from simulations.transfer import Public, fitted, hold_transfer, transfer_set
from tests.small import own_cache

__all__ = ["own_cache"]

LAWS = ("iid", "dirichlet(alpha=0.3)", "pathological(classes=3)", 'quantity(law="square")', "shards")


def federation(partition: str = "iid", **settings: Any) -> Federation:
    plain: dict[str, Any] = {"clients": 5, "seed": 3}
    return Federation("local", partition=partition, **(plain | settings))


def dealt(partition: str = "iid", **settings: Any) -> Split:
    return make_split(federation(partition, **settings), load("digits"))


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A second data set: RGB, 12×10, four classes with names of their own."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("colours") / "colours.npz"
    np.savez(path, images=rng.integers(0, 256, (80, 12, 10, 3), np.uint8), labels=np.arange(80) % 4)
    return f"npz:{path}"


class TestLocalTest:
    @pytest.mark.parametrize("partition", LAWS)
    def test_each_client_is_tested_on_its_own_distribution(self, partition: str) -> None:
        source, split = load("digits"), dealt(partition)
        train = split.counts(source.labels[source.train].numpy(), 10)
        test = np.stack(
            [np.bincount(source.labels[source.test][own].numpy(), minlength=10) for own in split.local_test]
        )
        factor = test.sum() / train.sum()
        # Validation samples left each client's counts at random, and test counts are whole numbers.
        assert np.abs(test - factor * train).max() < 1 + 4 * np.sqrt(factor * train.max())
        assert (test[train == 0].sum()) <= test.sum() * 0.05

    def test_local_tests_are_disjoint_parts_of_the_test_array(self) -> None:
        split, source = dealt("dirichlet(alpha=0.3)"), load("digits")
        everything = np.concatenate(split.local_test)
        assert len(np.unique(everything)) == len(everything)
        assert everything.max() < len(source.test)

    def test_the_common_test_set_stays_whole(self) -> None:
        held = load_holdings(federation("pathological(classes=2)"), 0)
        source = load("digits")
        assert len(held.evaluation["test"]) == len(source.test)
        assert 0 < len(held.evaluation["local_test"]) < len(source.test)

    def test_what_a_client_is_judged_on_is_never_in_what_it_learns_from(self) -> None:
        split, source = split_of(federation("dirichlet(alpha=0.5)")), load("digits")
        held = load_holdings(federation("dirichlet(alpha=0.5)"), 2)
        assert torch.equal(
            held.evaluation["local_test"].x, source.pixels(source.test[torch.from_numpy(split.local_test[2])])
        )


class TestSkews:
    def test_noise_reaches_training_validation_and_local_test_but_not_the_common_test(self) -> None:
        plain, noisy = (load_holdings(federation(spec), 4) for spec in ("iid", "iid+noise(sigma=0.3)"))
        assert plain.data is not None
        assert noisy.data is not None
        assert plain.val is not None
        assert noisy.val is not None
        for clean, changed in (
            (plain.data.x, noisy.data.x),
            (plain.val.x, noisy.val.x),
            (plain.evaluation["local_test"].x, noisy.evaluation["local_test"].x),
        ):
            assert 0.05 < float((clean - changed).abs().mean()) < 0.3
            assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
        for common in ("test", "transfer"):
            assert torch.equal(plain.evaluation[common].x, noisy.evaluation[common].x)

    def test_the_first_client_sees_no_noise_and_the_last_the_most(self) -> None:
        changes = []
        for client in range(5):
            plain, noisy = (load_holdings(federation(spec), client) for spec in ("iid", "iid+noise(sigma=0.3)"))
            assert plain.data is not None
            assert noisy.data is not None
            changes.append(float((plain.data.x - noisy.data.x).abs().mean()))
        assert changes[0] == 0
        assert changes == sorted(changes)

    def test_wrong_labels_are_learnt_and_validated_on_but_never_tested(self) -> None:
        wrong = 0
        for client in range(5):
            plain, noisy = (load_holdings(federation(spec), client) for spec in ("iid", "iid+label_noise(rate=0.4)"))
            for clean, changed in ((plain.data, noisy.data), (plain.val, noisy.val)):
                assert clean is not None
                assert changed is not None
                assert torch.equal(clean.x, changed.x)
                assert clean.y is not None
                assert changed.y is not None
                wrong += int((clean.y != changed.y).sum())
            for split in ("test", "local_test", "transfer"):
                true, seen = plain.evaluation[split].y, noisy.evaluation[split].y
                assert true is not None
                assert seen is not None
                assert torch.equal(true, seen)
        sizes = sum(map(len, split_of(federation()).clients)) + sum(map(len, split_of(federation()).val))
        assert abs(wrong - 0.4 * sizes) <= 5

    def test_the_same_federation_sees_the_same_noise_again(self) -> None:
        from simulations import data

        of = federation("dirichlet(alpha=0.5)+noise(sigma=0.3)+label_noise(rate=0.1)")
        first = load_holdings(of, 3)
        data._SHARDS.__init__()  # type: ignore[misc]
        forget_files()
        again = load_holdings(of, 3)
        assert first.data is not None
        assert again.data is not None
        assert first.data.x is not again.data.x
        assert torch.equal(first.data.x, again.data.x)
        assert first.data.y is not None
        assert again.data.y is not None
        assert torch.equal(first.data.y, again.data.y)

    def test_a_strategy_of_ones_own_may_change_what_clients_see(self, tmp_path: Path) -> None:
        file = tmp_path / "own.py"
        file.write_text(
            "import numpy as np\n"
            "from pydantic.dataclasses import dataclass\n"
            "from partitions.contract import STRICT, Partition, Strategy\n\n\n"
            "@dataclass(frozen=True, config=STRICT)\n"
            "class Dark(Strategy):\n"
            '    """Every image black, every label 7."""\n\n'
            "    def split(self, samples, clients, rng):\n"
            "        parts = tuple(np.array_split(rng.permutation(len(samples)), clients))\n"
            "        sevens = np.full(len(samples), 7)\n"
            "        return Partition(parts, transforms=(lambda x, _: x * 0,) * clients, labels=sevens)\n"
        )
        held = load_holdings(federation(f"{file}:dark"), 1)
        assert held.data is not None
        assert held.data.y is not None
        assert not held.data.x.any()
        assert set(held.data.y.tolist()) == {7}


class TestManifest:
    def test_a_saved_deal_is_taken_over_whole(self, tmp_path: Path) -> None:
        original = dealt("dirichlet(alpha=0.3)")
        write_manifest(tmp_path / "split.json", original)
        again = dealt(f"manifest(file='{tmp_path / 'split.json'}')")
        assert again.sha256 == original.sha256

    def test_a_changed_file_is_dealt_anew(self, tmp_path: Path) -> None:
        of = federation(f"manifest(file='{tmp_path / 'split.json'}')")
        for partition in ("iid", "dirichlet(alpha=0.3)"):
            write_manifest(tmp_path / "split.json", dealt(partition))
            forget_files()
            assert split_of(of).sha256 == dealt(partition).sha256

    @pytest.mark.parametrize(
        ("settings", "addition", "message"),
        [
            ({"clients": 4}, "", "set clients = 5"),
            ({"transfer": "public(fraction=0.3)"}, "", "ask for the one in the file"),
            ({}, "+long_tail", "thin out"),
            ({}, "+iid", "both deal"),
        ],
    )
    def test_what_does_not_fit_the_file_is_refused(
        self, tmp_path: Path, settings: dict[str, Any], addition: str, message: str
    ) -> None:
        write_manifest(tmp_path / "split.json", dealt())
        with pytest.raises(UserError, match=message):
            dealt(f"manifest(file='{tmp_path / 'split.json'}'){addition}", **settings)

    def test_measures_are_those_of_the_private_samples(self) -> None:
        split, source = dealt("dirichlet(alpha=0.3)"), load("digits")
        assert split.measures == skew(split.counts(source.labels[source.train].numpy(), 10))


class TestTransfer:
    def held(self, text: str, seed: int = 0) -> Any:
        return hold_transfer(transfer_set(text), load("digits"), seed)

    def labels(self, positions: Any) -> list[int]:
        source = load("digits")
        return [int(label) for label in source.labels[source.train][torch.from_numpy(positions)]]

    def test_a_fraction_a_size_and_classes(self) -> None:
        n = len(load("digits").train)
        assert len(self.held("public(fraction=0.25)").transfer) == round(0.25 * n)
        assert len(self.held("public(size=100)").transfer) == 100
        some = self.held("public(fraction=0.5, classes=[1, '7'])")
        assert set(self.labels(some.transfer)) == {1, 7}
        assert set(self.labels(some.rest)) == set(range(10))
        whole = self.held("public(fraction=1.0, classes=[4])")
        assert 4 not in self.labels(whole.rest)

    def test_every_sample_is_in_one_place(self) -> None:
        for text in ("public(fraction=0.2)", "public(size=50, use=0.5)", "public(classes=[0, 1], use=0.3)"):
            held = self.held(text)
            everything = np.concatenate([held.transfer, held.rest, held.unused])
            assert np.array_equal(np.sort(everything), np.arange(len(load("digits").train)))

    def test_using_less_leaves_the_clients_as_they_are(self) -> None:
        whole, part = (dealt(transfer=f"public(fraction=0.4, use={use})") for use in (1.0, 0.25))
        assert all(np.array_equal(a, b) for a, b in zip(whole.clients, part.clients, strict=True))
        assert set(part.transfer) < set(whole.transfer)
        assert len(part.transfer) == round(0.25 * len(whole.transfer))
        assert set(part.dropped) == set(whole.transfer) - set(part.transfer)

    def test_another_data_set_leaves_the_training_data_to_the_clients(self, colours: str) -> None:
        of = federation(transfer=f"public(source='{colours}', fraction=0.5)")
        split = make_split(of, load("digits"))
        assert split.transfer_dataset == colours
        assert sum(map(len, split.clients)) + sum(map(len, split.val)) == len(load("digits").train)
        client, server = load_holdings(of, 0), load_holdings(of, SERVER)
        assert client.transfer is not None
        assert server.transfer is not None
        assert client.transfer.x.shape[1:] == (1, 8, 8)
        assert torch.equal(client.transfer.x, server.transfer.x)
        assert "transfer" not in client.evaluation, "its labels mean other classes"

    def test_labels_of_other_classes_are_not_taught(self, colours: str) -> None:
        with pytest.raises(UserError, match="other classes"):
            dealt(transfer=f"public(source='{colours}', labelled=true)")

    def test_colours_and_sizes_are_brought_together(self) -> None:
        grey = torch.rand(3, 1, 8, 8)
        rgb = fitted(grey, (3, 8, 8))
        assert torch.equal(rgb, grey.expand(-1, 3, -1, -1))
        assert torch.allclose(fitted(rgb, (1, 8, 8)), grey, atol=1e-6)
        red = torch.zeros(1, 3, 4, 4)
        red[:, 0] = 1
        assert torch.allclose(fitted(red, (1, 4, 4)), torch.full((1, 1, 4, 4), 0.299))
        assert fitted(grey, (1, 16, 12)).shape == (3, 1, 16, 12)
        assert torch.allclose(fitted(torch.full((1, 1, 9, 9), 0.3), (1, 4, 4)), torch.full((1, 1, 4, 4), 0.3))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("public(fraction=1.0)", "nothing"),
            ("public(fraction=0.0)", "greater than 0"),
            ("public(classes=[11])", "no class 11; labels are 0 to 9"),
            ("public(classes=['seven'])", "no class 'seven'"),
            ("public(size=99999)", "1438 training samples to choose from|training samples"),
            ("public(use=0.0)", "greater than 0"),
            ("public(sauce='digits')", "unexpected"),
            ("public(source='digit')", "did you mean 'digits'"),
            ("private(fraction=0.1)", "unknown"),
        ],
    )
    def test_what_cannot_be_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            dealt(transfer=text)

    def test_defaults(self) -> None:
        assert transfer_set("public") == Public(fraction=0.2, labelled=False)


def test_a_column_decides_who_holds_what(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    writer = rng.integers(0, 6, 240)
    file = tmp_path / "w.npz"
    np.savez(file, images=rng.integers(0, 256, (240, 5, 5), np.uint8), labels=np.arange(240) % 3, writer=writer)
    source: Dataset = load(f"npz:{file}")
    split = make_split(federation('by_column(name="writer")', clients=6, dataset=f"npz:{file}"), source)
    column = source.columns["writer"]
    for client in range(6):
        own = np.concatenate([split.clients[client], split.val[client]])
        assert set(column[source.train.numpy()[own]]) == {client}
        assert set(column[source.test.numpy()[split.local_test[client]]]) <= {client}
    with pytest.raises(UserError, match="did you mean 'writer'"):
        make_split(federation('by_column(name="writr")', dataset=f"npz:{file}"), source)

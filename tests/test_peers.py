"""The comparison with others: its recipes are valid and do the jobs; what is missing is left out with a reason."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import blazefl, htfllib, pfl_research
from benchmarks.peers.__main__ import CONTENDERS, Table, run
from benchmarks.peers.job import JOBS, NOT_INSTALLED, Measured, balanced, network, shares
from benchmarks.peers.ours import MARGIN, RECIPES, archive
from benchmarks.spread import Spread, ratios
from fedkd.data import load
from fedkd.models import build_model
from simulations.recipe import read
from simulations.splits import make_split

BY_NAME = {contender.name: contender for contender in CONTENDERS}


@pytest.mark.parametrize("job", JOBS)
def test_recipe_is_the_job(job: str) -> None:
    (federation,) = read(str(RECIPES[job])).federations
    terms = JOBS[job]
    assert (federation.clients, federation.rounds) == (terms.clients, terms.rounds)
    assert (federation.train.batch_size, federation.train.lr, federation.train.epochs) == (terms.batch, terms.lr, 1)
    model = build_model(federation.models, (1, 28, 28), 10, 0, "test")
    for weights in (model, network(job)):
        assert sum(parameter.numel() for parameter in weights.parameters()) == terms.weights


def test_stored_split_goes_to_its_owners(tmp_path: Path) -> None:
    """Every client gets the images of its column, those marked for testing as its own test part, and all of them."""
    draw = np.random.default_rng(1)
    owner, testing = np.arange(400) % 20, draw.random(400) < 0.3
    images, labels = draw.integers(0, 256, (400, 28, 28), np.uint8), np.arange(400) % 10
    np.savez(tmp_path / "data.npz", images=images, labels=labels, peer_client=owner, peer_is_test=testing)
    source = archive("A", tmp_path / "data.npz", tmp_path)
    (federation,) = read(str(RECIPES["A"]), [f"dataset={source}"]).federations
    data = load(federation.dataset)
    split = make_split(federation, data)
    held = shares("A", tmp_path / "data.npz")
    for client in range(20):
        trained, tested = data.train.numpy()[split.clients[client]], data.test.numpy()[split.local_test[client]]
        assert set(trained) == set(np.flatnonzero((owner == client) & ~testing))
        assert set(tested) == set(np.flatnonzero((owner == client) & testing))
        assert len(held.train[client][1]) == len(trained)
        assert len(held.test[client][1]) == len(tested)


def test_random_images_are_sixty_a_client(tmp_path: Path) -> None:
    (federation,) = read(str(RECIPES["B"]), [f"dataset={archive('B', None, tmp_path)}"]).federations
    split = make_split(federation, load(federation.dataset))
    assert {len(indices) for indices in split.clients} == {60}
    assert {len(indices) for indices in split.local_test} == {1}


@pytest.mark.parametrize(
    ("main", "arguments", "reason"),
    [
        (htfllib.main, ["--job", "A"], "--htfllib FOLDER"),
        (htfllib.main, ["--job", "B"], "job B"),
        (blazefl.main, ["--job", "A"], "job A"),
        (blazefl.main, ["--job", "B"], "pip install blazefl"),
        (pfl_research.main, ["--job", "B"], "pip install pfl"),
    ],
)
def test_what_is_not_installed_says_so(
    main: Callable[[], None],
    arguments: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["peer", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == NOT_INSTALLED
    assert reason in capsys.readouterr().err


def test_driver_leaves_out_what_ends_so(tmp_path: Path) -> None:
    """Its reason is shown; another exit code is a failure."""
    script = tmp_path / "python"
    asked = argparse.Namespace(python=[f"bare={script}"], data=None, htfllib=None, rounds=1, overrides=[], limit=60.0)
    outcomes = []
    for code in (NOT_INSTALLED, 1):
        script.write_text(f"#!/bin/sh\necho it is not here >&2\nexit {code}\n")
        script.chmod(0o755)
        outcomes.append(run(BY_NAME["bare loop"], "B", asked))
    assert outcomes == ["it is not here", "failed: it is not here"]


def test_table_divides_what_ran_side_by_side() -> None:
    """A machine that is twice as slow in one repeat changes no ratio."""
    table = Table("A")
    for name, seconds, accuracy in (("fedkd", 4.0, 0.9), ("HtFLlib", 10.0, 0.89), ("bare loop", 3.8, 0.9)):
        table.runs[name] = [Measured(name, "A", [seconds * slow], 52_492, accuracy) for slow in (1, 2)]
    said = "\n".join((*table.lines(), *table.targets()))
    assert "| HtFLlib | 15.00 (10.00 to 20.00) | 2.50 (2.50 to 2.50) |" in said
    assert "images a second against the faster bare loop: 0.95 (0.95 to 0.95)" in said
    assert "accuracy: fedkd 90.0%, HtFLlib 89.0%" in said


def test_ratios_and_their_spread() -> None:
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == Spread(1.0, 2.0, 3.0)
    assert balanced([5, 1, 4, 3], 2) == [[0, 1], [2, 3]]
    assert MARGIN.keys() == JOBS.keys()


def test_driver_stops_a_contender_with_its_workers(tmp_path: Path) -> None:
    """A worker that outlives its parent and holds its pipes does not hold up the driver."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nsleep 30 &\nwait\n")
    script.chmod(0o755)
    asked = argparse.Namespace(python=[f"bare={script}"], data=None, htfllib=None, rounds=1, overrides=[], limit=0.3)
    began = time.monotonic()
    assert run(BY_NAME["bare loop"], "B", asked) == "stopped after 0 s"
    assert time.monotonic() - began < 10

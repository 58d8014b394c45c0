"""Verdicts on the shipped studies: every claim can be computed from what its recipe runs, and points the right way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import finished, load
from docs import claims
from docs.results import _methods
from docs.study import Study
from simulations.recipe import read
from tests.test_analysis_synthetic import Rich

BY_SCORES = ("tuning", "weak_teachers", "masks", "reffakd", "revision", "selection", "miniplm")
"""Claims that ask for nothing but one score a federation."""


def study(name: str, better: str = "") -> Study:
    """A study of the recipe's first data set with made-up scores; methods that begin with `better` are better."""
    recipe = read(name)
    first = recipe.federations[0].dataset
    rows = [
        {"partition": each.partition, "method": each.method, "seed": each.seed}
        for each in recipe.federations
        if each.dataset == first
    ]
    made = Study.__new__(Study)
    made.table, made.recipe, made.scores = pd.DataFrame(), dict(recipe.source), pd.DataFrame(rows)
    noise = np.random.default_rng(0).normal(0, 0.001, len(rows))
    lead = [0.2 * (bool(better) and str(method).startswith(better)) for method in made.scores["method"]]
    for score in ("delta", "accuracy", "success_rate"):
        made.scores[score] = 0.1 + noise + lead
    made.scores["bits_per_byte"] = 3.0 + noise - np.array(lead)
    made.scores["lost"] = 0.1 + noise - np.array(lead) / 4
    return made


@pytest.mark.parametrize("name", BY_SCORES)
def test_every_claim_can_be_judged_from_its_recipe(name: str) -> None:
    judged = claims.CLAIMS[name][0](study(name))
    assert judged
    assert {claim.n for claim in judged} == {len(set(study(name).scores["seed"]))}
    assert len({claim.text for claim in judged}) == len(judged)


@pytest.mark.parametrize(
    ("name", "better", "held"),
    [
        ("tuning", "tuned_kd", "Δ of tuned_kd − "),
        ("weak_teachers", "dp_kd", ": dp_kd − KL-Dist"),
        ("reffakd", "reffakd", "reffakd − "),
        ("revision", "kd(weight=0.9, revise='labels(eta=0.8)')", "revised − as it is"),
        ("selection", "kd(weight=0.9, select='influence(keep=0.5)')", "influence − "),
        ("miniplm", "miniplm(teacher='gpt(layers=2)', keep=0.5)", "top half − "),
    ],
)
def test_a_planted_lead_is_held_and_its_opposite_is_not(name: str, better: str, held: str) -> None:
    judged = {claim.text: claim.verdict for claim in claims.CLAIMS[name][0](study(name, better))}
    about = [verdict for text, verdict in judged.items() if held in text and not text.startswith("margin")]
    assert about
    assert set(about) == {"held"}
    others = {"tuning": "kd", "weak_teachers": "kd(weight=1.0)", "revision": "kd(weight=0.9)"}
    if name in others:
        worse = study(name)
        lost = worse.scores["method"] == others[name]
        worse.scores.loc[lost, ["delta", "success_rate"]] += 0.2
        worse.scores.loc[lost, "lost"] -= 0.05
        against = {claim.text: claim.verdict for claim in claims.CLAIMS[name][0](worse)}
        wanted = {"tuning": "Δ of tuned_kd − Δ of kd", "weak_teachers": "KL-Dist", "revision": "revised − as it is"}[
            name
        ]
        assert {verdict for text, verdict in against.items() if wanted in text} == {"not held"}


def test_equal_cells_are_parted_by_loss_and_then_by_the_order_of_the_recipe() -> None:
    made = study("cells")
    made.scores.index = pd.Index([f"f{place}" for place in range(len(made.scores))], name="federation")
    kinds = made.scores["method"].map(made.methods.index)
    assert made.methods[5] > made.methods[6]  # in the order of their names it would be the other way round
    # Cells 5 and 6 are equally right on validation, as means of counts though not of floats, and equally wrong.
    right = {5: [10, 1, 1], 6: [1, 1, 10]}
    for losses, chosen in (({5: 0.1 + 0.2, 6: 0.3}, 5), ({5: 0.4, 6: 0.3}, 6)):
        rows = [
            (name, number, client, "val", metric, value)
            for name, kind in kinds.items()
            for number in (0, 1)
            for client, share in enumerate(right.get(kind, [1, 1, 1]))
            for metric, value in (("accuracy", share / 10), ("loss", losses.get(kind, 0.1)))
        ]
        made.table = pd.DataFrame(rows, columns=["federation", "round", "client", "split", "metric", "value"])
        skewed = made.scores["partition"] == made.partitions[-1]
        made.scores["accuracy"] = np.where(kinds == np.where(skewed, chosen, 0), 0.5, 0.1)
        judged = claims.cells(made)
        # By validation both partitions choose the same cell; by test accuracy, skew chooses it and uniform data cell 0.
        assert [claim.value for claim in judged] == pytest.approx([0.0, 0.4])


def test_noise_is_judged_by_what_manifests_say(tmp_path: Path) -> None:
    for seed in range(5):
        (tmp_path / str(seed)).mkdir()
        told = {"shuffled": {"dropped": 0.9 + seed / 100}, "boilerplate": {"dropped": 0.1 + seed / 100}}
        (tmp_path / str(seed) / "manifest.json").write_text(json.dumps({"noise": told}))
    judged = claims.noise(tmp_path)
    assert [(claim.verdict, round(claim.value, 3), claim.n) for claim in judged] == [
        ("not held", 0.12, 5),
        ("held", 0.92, 5),
    ]
    assert claims.noise(tmp_path / "none") == []


def test_an_unknown_method_is_told() -> None:
    with pytest.raises(KeyError, match="no_such"):
        study("masks").by_seed("delta", "iid", "no_such")
    with pytest.raises(KeyError, match="methods"):
        study("revision").by_seed("delta", "iid", "kd(weight=0.9")


def test_the_page_shows_every_method_with_its_start_its_verdicts_and_unequal_steps(tmp_path: Path) -> None:
    gain = {"local": -0.1, "kd": -0.03, "dml": 0.05, "pooled": 0.1}
    planted = Rich(methods=(*gain, "fedavg"), gain=gain, noise=0.002, seeds=range(5), **SMALL)
    table = load(planted.write(tmp_path))
    third = (table["method"] == "dml") & (table["metric"] == "steps")
    table.loc[third, "value"] /= 3
    (heads, _, *lines) = _methods(Study(finished(table), {}))
    assert heads.split(" | ")[2:8] == ["at the start", "final", "Δ", "vs start", "vs local", "gained"]
    rows = {line.split(" | ")[1]: line.split(" | ") for line in lines}
    assert rows["`kd`"][2].endswith(" (clients' mean)")
    assert rows["`fedavg`"][2].endswith(" (global model)")
    assert rows["`kd`"][5] == "worse"
    assert rows["`kd`"][6].endswith(", loses less than local")
    assert rows["`dml` [0.33 × the steps]"][6].endswith(", better")
    assert rows["`pooled`"][5] == "bound"
    assert all("better" not in line for line in lines if "-" in line.split(" | ")[4])


SMALL: dict[str, Any] = {"rounds": 3, "clients": 2, "partitions": ("iid",)}


def test_a_share_of_chunks_has_an_interval_that_ends_at_100_percent(tmp_path: Path) -> None:
    for seed, dropped in enumerate((1.0, 0.99, 0.98, 1.0, 1.0)):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({"noise": {"shuffled": {"dropped": dropped}}}))
    (claim,) = claims.noise(tmp_path)
    assert claim.high == 1.0
    assert claim.verdict == "held"

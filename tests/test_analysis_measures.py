"""Which rows count, and every score of a federation, against plain loops over the rows."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import load
from analysis.measures.breakdown import class_scores, client_gains, model_scores
from analysis.measures.compare import compare
from analysis.measures.scores import client_changes, federation_scores
from analysis.page.captions import caption
from analysis.page.wording import text_tables
from analysis.results.values import client_values, frozen_teachers, local_values, round_means, start_rounds
from tests.test_analysis_synthetic import PARTITIONS, Rich

ALL = ("local", "kd", "dml", "fedavg", "pooled")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    rich = Rich(methods=ALL, rounds=4, clients=3, partitions=PARTITIONS[:2], seeds=(0, 1))
    return load(rich.write(tmp_path_factory.mktemp("rich")))


def one(table: pd.DataFrame, method: str, seed: int = 0) -> tuple[str, dict[tuple[Any, ...], float]]:
    """A federation's id and its rows as (round, client, split, metric) → value."""
    rows = table[(table["method"] == method) & (table["seed"] == seed) & (table["partition"] == "iid")]
    names = ["round", "client", "split", "metric"]
    return rows["federation"].iloc[0], dict(
        zip(rows[names].itertuples(index=False, name=None), rows["value"], strict=True)
    )


def of(values: "pd.Series[float]", name: str) -> "pd.Series[float]":
    """What a federation has of a series."""
    return values[values.index.get_level_values("federation") == name].droplevel("federation")


def test_a_global_model_is_what_its_federation_is_about(table: pd.DataFrame) -> None:
    scores = federation_scores(table)
    name, rows = one(table, "fedavg")
    assert scores.loc[name, "accuracy"] == pytest.approx(rows[4, -1, "test", "accuracy"])
    assert scores.loc[name, "start_accuracy"] == pytest.approx(rows[0, -1, "test", "accuracy"])
    own = [rows[4, client, "test", "accuracy"] for client in range(3)]
    assert scores.loc[name, "personal_accuracy"] == pytest.approx(np.mean(own))
    assert scores.loc[name, "worst_client"] == pytest.approx(min(own))
    # Shares gained and lost belong to the clients' models, and the global one has none.
    assert np.isnan(scores["gained"].loc[name])
    curve = of(round_means(table), name)
    assert curve.tolist() == pytest.approx([rows[number, -1, "test", "accuracy"] for number in range(5)])
    assert of(local_values(table, "accuracy", "test"), name).loc[[4]].tolist() == pytest.approx(own)
    kd = scores[scores["method"] == "kd"]
    assert kd["personal_accuracy"].isna().all()
    assert not [warning for warning in compare(table).warnings if "gained − lost" in warning]


def test_bits_per_byte_are_those_of_the_last_round_and_the_start(table: pd.DataFrame) -> None:
    assert federation_scores(table)["bits_per_byte"].isna().all()
    losses = table[(table["metric"] == "loss") & (table["split"] == "test")]
    text = pd.concat([table, losses.assign(metric="bits_per_byte", value=losses["value"] * 2)])
    found, name = federation_scores(text), one(table, "kd")[0]
    _, rows = one(table, "kd")
    for score, number in (("bits_per_byte", 4), ("start_bits_per_byte", 0)):
        expected = 2 * np.mean([rows[number, client, "test", "loss"] for client in range(3)])
        assert found.loc[name, score] == pytest.approx(expected)
    assert "bits per byte" in text_tables(compare(text), "quality")[0].headers


def test_pooled_is_its_one_client(table: pd.DataFrame) -> None:
    name, rows = one(table, "pooled")
    found = federation_scores(table).loc[name]
    assert found["accuracy"] == found["worst_client"] == rows[4, 0, "test", "accuracy"]
    assert found["client_range"] == 0


def test_before_the_server_holds_a_model_the_clients_count(table: pd.DataFrame) -> None:
    name, rows = one(table, "fedavg")
    late = table[~((table["client"] == -1) & (table["metric"] == "accuracy") & (table["round"] < 2))]
    curve = of(round_means(late), name)
    clients = [np.mean([rows[number, client, "test", "accuracy"] for client in range(3)]) for number in (0, 1)]
    assert curve.tolist() == pytest.approx([*clients, *(rows[number, -1, "test", "accuracy"] for number in (2, 3, 4))])
    # A server that is not judged at the end has no global model to be about.
    gone = table[~((table["client"] == -1) & (table["metric"] == "accuracy") & (table["round"] == 4))]
    assert set(of(client_values(gone, "accuracy", "test"), name).index.get_level_values("client")) == {0, 1, 2}


def test_every_score_against_a_plain_loop(table: pd.DataFrame) -> None:
    scores = federation_scores(table)
    name, rows = one(table, "kd")
    found = scores.loc[name]
    final = [rows[4, client, "test", "accuracy"] for client in range(3)]
    start = [rows[0, client, "test", "accuracy"] for client in range(3)]
    forgot = [
        rows[0, client, "local_test", "accuracy"] - rows[4, client, "local_test", "accuracy"] for client in range(3)
    ]
    expected = {
        "client_std": np.std(final),
        "client_range": max(final) - min(final),
        "best_client": max(final),
        "success_rate": np.mean([a > b for a, b in zip(final, start, strict=True)]),
        "ece": np.mean([rows[4, client, "test", "ece"] for client in range(3)]),
        "start_ece": np.mean([rows[0, client, "test", "ece"] for client in range(3)]),
        "forgetting": np.mean(forgot),
        "forgot": 2 / 3,  # client 0 never forgets
        "agreement": rows[4, 0, "transfer", "agreement"],
        "start_agreement": rows[1, 0, "transfer", "agreement"],
        "teacher_accuracy": 0.74,
        "teacher_loss": 0.6,
        "samples": 3 * 4 * 128,
        "seconds": 3 * 5 * 0.01,
        "wall": 5 * 0.1,
        "start_rounds": 0,
    }
    assert found[list(expected)].to_dict() == pytest.approx(expected)
    assert np.isnan(scores["teacher_accuracy"].loc[one(table, "local")[0]])


def test_what_was_not_measured_is_nan_and_shows_no_column(table: pd.DataFrame) -> None:
    plain = table[table["split"].isin(["test", ""]) & ~table["metric"].str.contains("ece|/")]
    plain = plain[plain["method"].isin(["local", "kd"])]
    found = federation_scores(plain)
    assert found[["ece", "forgetting", "forgot", "agreement", "teacher_loss", "personal_accuracy"]].isna().all().all()
    (quality,) = text_tables(compare(plain), "quality")
    assert quality.headers == ["partition", "method", "spread", "range"]
    (full,) = text_tables(compare(table), "quality")
    assert {"ece", "personal", "forgetting", "forgot", "agreement", "teacher accuracy"} <= set(full.headers)
    assert "expected calibration error" in caption(compare(table), "quality")


def test_classes_are_means_over_clients_and_seeds(table: pd.DataFrame) -> None:
    found = class_scores(table)
    assert found["class"].drop_duplicates().tolist() == ["0", "1", "2", "3"]
    cell = found[(found["method"] == "kd") & (found["class"] == "3") & (found["partition"] == "iid")].iloc[0]
    assert (cell["before"], cell["after"], cell["delta"]) == pytest.approx((0.81, 1.01, 0.2))
    assert cell["seeds"] == 2
    ten = table.copy()
    ten.loc[ten["metric"] == "accuracy/1", "metric"] = "accuracy/10"
    assert class_scores(ten)["class"].drop_duplicates().tolist() == ["0", "2", "3", "10"]
    assert class_scores(table[~table["metric"].str.contains("/")]).empty


def test_client_gains_are_of_every_client_and_seed(table: pd.DataFrame) -> None:
    found = client_gains(table)
    assert found.groupby(["partition", "method"]).size().loc[("iid", "kd")] == 6
    _, rows = one(table, "dml", seed=1)
    mine = found[(found["method"] == "dml") & (found["seed"] == 1) & (found["partition"] == "iid")].set_index("client")
    assert mine["delta"].loc[2] == pytest.approx(rows[4, 2, "test", "accuracy"] - rows[0, 2, "test", "accuracy"])


def test_clients_that_only_teach_have_no_change(table: pd.DataFrame) -> None:
    name, _ = one(table, "kd")
    taught = table[~((table["federation"] == name) & (table["client"] == 2) & (table["round"] > 0))]
    assert list(client_changes(taught).loc[name].index) == [0, 1]


def test_models_are_told_apart(table: pd.DataFrame) -> None:
    assert model_scores(table).empty
    mixed = table[table["method"].isin(["local", "kd"])].copy()
    mixed.insert(8, "model", np.where(mixed["client"] < 0, "", np.where(mixed["client"] == 1, "mlp", "cnn")))
    found = model_scores(mixed)
    assert len(found) == 2 * 2 * 2
    cell = found[(found["method"] == "kd") & (found["model"] == "cnn") & (found["partition"] == "iid")].iloc[0]
    each = []
    for seed in (0, 1):
        _, rows = one(table, "kd", seed)
        each.append(np.mean([rows[4, c, "test", "accuracy"] - rows[0, c, "test", "accuracy"] for c in (0, 2)]))
    assert cell["delta"] == pytest.approx(np.mean(each))
    assert (cell["clients"], cell["seeds"]) == (2, 2)
    # Two seeds have no interval.
    assert np.isnan(cell["delta_high"])


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """`kd` from three starts: pre-trained, and consolidated in one and in two rounds."""
    folder = tmp_path_factory.mktemp("started")
    for start, rounds in (("pretrained", 0), ("average", 1), ("kd", 2)):
        settings = {"start": start}
        methods = ("kd", "pooled") if start == "pretrained" else ("kd",)
        rich = Rich(
            methods=methods,
            rounds=3,
            clients=2,
            partitions=("iid",),
            seeds=(0, 1),
            settings=settings,
            consolidated=rounds,
        )
        rich.write(folder, study=False)
    return load(folder)


def test_rounds_of_a_consolidated_start_come_first_and_are_the_servers(started: pd.DataFrame) -> None:
    scores = federation_scores(started)
    found = scores[(scores["start"] == "kd") & (scores["seed"] == 1)].iloc[0]
    assert (found["start_rounds"], found["last_round"]) == (2, 5)
    # The server's model is judged in rounds 0 and 1, the clients' from round 2 on, where they take the start up.
    own = of(local_values(started, "accuracy", "test"), str(found.name))
    assert found["start_accuracy"] == pytest.approx(own.loc[[2]].mean())
    assert found["start_from"] == "clients' mean"
    curve = of(round_means(started), str(found.name))
    assert curve.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert curve.loc[1] == pytest.approx(0.41)
    assert start_rounds(started).loc[str(found.name)] == 2
    # What clients gained is counted from where they took the start up.
    changes = client_changes(started).loc[str(found.name)]
    assert changes["before"].tolist() == pytest.approx(own.loc[[2]].tolist())


def test_teachers_are_frozen_after_a_consolidated_start_too(started: pd.DataFrame) -> None:
    late = started[started["start"] == "kd"].copy()
    sent = late["metric"].isin(["bytes_up", "bytes_down"])
    late.loc[sent, "value"] = np.where(late.loc[sent, "round"] <= 3, 100.0, 0.0)
    assert frozen_teachers(late) == ["kd"]
    late.loc[sent, "value"] = np.where(late.loc[sent, "round"] <= 2, 100.0, 0.0)
    assert frozen_teachers(late) == []
    late.loc[sent, "value"] = 100.0
    assert frozen_teachers(late) == []


def test_what_a_global_model_gained_is_counted_from_where_it_began(started: pd.DataFrame) -> None:
    # A global model after a consolidated start of two rounds: judged in all, its gained and lost from round 2 on.
    mine = started[started["start"] == "kd"]
    curve = {0: 0.3, 1: 0.4, 2: 0.5, 3: 0.55, 4: 0.58, 5: 0.6}
    rows = mine.drop_duplicates(["federation", "round"]).assign(client=-1, split="test", metric="accuracy")
    rows["value"] = rows["round"].map(curve)
    late = rows[rows["round"] >= 2]
    shares = [late.assign(metric="gained", value=late["value"] - 0.5), late.assign(metric="lost", value=0.0)]
    own = mine[~((mine["client"] < 0) & (mine["metric"] == "accuracy"))]
    table = pd.concat([own, rows, *shares], ignore_index=True)
    table.attrs = started.attrs
    found = federation_scores(table).iloc[0]
    assert (found["start_accuracy"], found["start_from"]) == (pytest.approx(0.5), "consolidated model")
    assert found["delta"] == pytest.approx(0.1) == found["gained"]
    assert not [text for text in compare(table).warnings if "gained − lost" in text]

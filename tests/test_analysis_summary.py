"""The comparison table finds planted effects, and says no more than the data do."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import load, read_study
from analysis.measures.compare import compare
from analysis.measures.scores import federation_scores
from analysis.measures.summary import Summary
from analysis.page.captions import caption
from analysis.page.wording import markdown, text_tables
from analysis.results.units import around, count, percent, points, size, spread
from analysis.results.values import frozen_teachers
from analysis.statistics.censoring import Reach
from tests.test_analysis_synthetic import METHODS, PARTITIONS, Planted, Rich

T4 = 2.7764451051977987
FIVE = (0, 1, 2, 3, 4)
BOTH: dict[str, Any] = {"partitions": PARTITIONS[:1], "rounds": 4, "clients": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    planted = Planted(rounds=6, clients=4, partitions=PARTITIONS[:2], noise=0.002, seeds=FIVE)
    return planted.write(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return load(folder)


@pytest.fixture(scope="module")
def summary(folder: Path, table: pd.DataFrame) -> Summary:
    return compare(table, study=read_study(folder))


def row(summary: Summary, method: str, partition: str = "iid") -> Any:
    rows = summary.rows
    return rows[(rows["method"] == method) & (rows["partition"] == partition)].iloc[0]


def pick(table: pd.DataFrame, split: str, metric: str) -> "pd.Series[bool]":
    return (table["split"] == split) & (table["metric"] == metric)


def test_rows_follow_the_recipe(summary: Summary, table: pd.DataFrame) -> None:
    found = list(zip(summary.rows["partition"], summary.rows["method"], strict=True))
    assert found == [(partition, method) for partition in PARTITIONS[:2] for method in METHODS]
    alphabetical = compare(table).rows
    assert alphabetical["method"].tolist()[:5] == sorted(METHODS)


def test_final_accuracy_against_plain_numpy(summary: Summary, table: pd.DataFrame) -> None:
    rows = table[pick(table, "test", "accuracy") & (table["method"] == "kd") & (table["partition"] == "iid")]
    seeds = [rows[(rows["seed"] == seed) & (rows["round"] == 6)]["value"].to_numpy() for seed in FIVE]
    means = np.array([seed.mean() for seed in seeds])
    half = T4 * means.std(ddof=1) / 5**0.5
    found = row(summary, "kd")
    assert found["accuracy"] == pytest.approx(means.mean())
    assert found["accuracy_high"] - found["accuracy"] == pytest.approx(half)
    assert found["worst_client"] == pytest.approx(np.mean([seed.min() for seed in seeds]))


def test_a_planted_effect_is_found(summary: Summary) -> None:
    found = row(summary, "tuned_kd")
    assert found["verdict"] == "better"
    assert found["difference"] == pytest.approx(0.06 - 0.004, abs=0.01)
    assert found["difference_low"] > 0
    assert (found["pairs"], found["seeds"], found["success_rate"]) == (5, 5, 1.0)
    assert found["start_verdict"] == "better"
    assert found["start_family"] == 5


def test_no_effect_is_undecided(tmp_path: Path) -> None:
    planted = Planted(**BOTH, methods=("local", "kd"), gain={"local": 0.02, "kd": 0.02}, noise=0.01, seeds=FIVE)
    assert row(compare(load(planted.write(tmp_path))), "kd")["verdict"] == "undecided"


def test_gained_minus_lost_is_the_gain(summary: Summary, table: pd.DataFrame) -> None:
    rows = summary.rows
    np.testing.assert_allclose(rows["gained"] - rows["lost"], rows["delta"], atol=1e-9)
    assert not [text for text in summary.warnings if "gained − lost" in text]
    bent = table.copy()
    bent.loc[pick(bent, "test", "lost") & (bent["federation"] == "f0003"), "value"] += 0.01
    assert [text for text in compare(bent).warnings if "gained − lost is not Δ in f0003" in text]


def test_the_baseline_has_no_verdict_on_itself(summary: Summary, table: pd.DataFrame) -> None:
    assert row(summary, "local")["verdict"] == ""
    assert np.isnan(row(summary, "local")["difference"])
    without = compare(table[table["method"] != "local"])
    assert set(without.rows["verdict"]) == {""}
    assert row(compare(table, baseline="kd"), "local")["verdict"] == "worse"


def test_one_seed_has_no_interval_and_no_verdict(table: pd.DataFrame) -> None:
    found = compare(table[table["seed"] == 1])
    kd = row(found, "tuned_kd")
    assert np.isnan(kd["accuracy_low"])
    assert (kd["verdict"], kd["start_verdict"], kd["pairs"]) == ("", "", 1)
    cells = cell(found, "tuned_kd")
    assert cells["final"] == percent(kd["accuracy"])
    assert cells["verdict vs local"] == "–, 1 seed"


def test_two_seeds_have_a_range_that_is_called_so(table: pd.DataFrame) -> None:
    found = compare(table[table["seed"] < 2])
    kd, cells = row(found, "kd"), cell(found, "kd")
    assert np.isnan(kd["accuracy_low"])
    ends = percent(kd["accuracy_least"]), percent(kd["accuracy_most"])
    assert cells["final"] == f"{percent(kd['accuracy'])}, range {ends[0]} to {ends[1]}"
    assert "range" in cells["vs local"]
    assert "±" not in "".join(cells.values())


def test_fewer_than_five_seeds_have_intervals_and_no_verdict(table: pd.DataFrame) -> None:
    found = compare(table[table["seed"] < 4])
    cells = cell(found, "tuned_kd")
    assert row(found, "tuned_kd")["difference_low"] > 0
    assert cells["verdict vs start"] == cells["verdict vs local"] == "–, 4 seeds"
    assert not [name for name in cells if name.startswith("p ")]
    assert "Fewer than 5 seeds decide nothing" in caption(found)


def cell(summary: Summary, method: str) -> dict[str, str]:
    """What the table of the first block says of a method under iid."""
    table = text_tables(summary)[0]
    (line,) = (line for line in table.rows if line[:2] == ["iid", method])
    return dict(zip(table.headers, line, strict=True))


@pytest.fixture(scope="module")
def falling(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """kd loses, local loses more, dml most; dp_kd gains, and pooled is what could be reached."""
    gain = {"local": -0.12, "kd": -0.05, "dml": -0.2, "dp_kd": 0.02, "pooled": 0.1}
    planted = Planted(**BOTH, methods=tuple(gain), gain=gain, noise=0.002, seeds=FIVE)
    return compare(load(planted.write(tmp_path_factory.mktemp("falling"))))


def test_nothing_is_better_that_ends_below_its_start(falling: Summary) -> None:
    kd = row(falling, "kd")
    assert kd["difference_low"] > 0
    assert (kd["verdict"], kd["start_verdict"]) == ("loses less than local", "worse")
    assert row(falling, "dml")["verdict"] == "worse"
    assert (row(falling, "dp_kd")["verdict"], row(falling, "dp_kd")["start_verdict"]) == ("better", "better")
    assert row(falling, "local")["start_verdict"] == "worse"
    (table,) = text_tables(falling)
    for line in table.rows:
        cells = dict(zip(table.headers, line, strict=True))
        assert not (cells["Δ"].startswith("−") and "better" in line)


def test_what_ends_below_its_start_is_named_with_its_points(falling: Summary) -> None:
    (warning,) = (text for text in falling.warnings if text.startswith("Below the start"))
    named = ", ".join(f"{name} {points(row(falling, name)['delta'])}" for name in ("dml", "kd", "local"))
    assert warning.startswith(f"Below the start (digits, iid), points: {named}.")
    assert "−" in named
    assert "dp_kd" not in warning


def test_bounds_are_neither_ranked_nor_winners(falling: Summary) -> None:
    pooled = row(falling, "pooled")
    assert (pooled["verdict"], pooled["start_verdict"]) == ("bound", "bound")
    assert np.isnan(pooled["rank"])
    assert pooled["difference"] > 0.1
    assert sorted(falling.rows["rank"].dropna()) == [1, 2, 3, 4]
    assert row(falling, "kd")["family"] == 3


def test_the_start_stands_in_every_table(summary: Summary) -> None:
    kd = row(summary, "kd")
    assert cell(summary, "kd")["start (clients' mean)"] == percent(kd["start_accuracy"])
    assert kd["delta"] == pytest.approx(kd["accuracy"] - kd["start_accuracy"])


def test_the_start_says_whose_it_is_where_that_differs(tmp_path: Path) -> None:
    planted = Rich(**BOTH, methods=("local", "kd", "fedavg"), seeds=FIVE)
    found = compare(load(planted.write(tmp_path)))
    assert cell(found, "kd")["start"].endswith(" (clients' mean)")
    assert cell(found, "fedavg")["start"].endswith(" (global model)")


def test_unequal_steps_are_marked_by_what_was_measured(table: pd.DataFrame) -> None:
    third = table.copy()
    slow = (third["method"] == "dml") & (third["metric"] == "steps")
    third.loc[slow, "value"] = np.floor(third.loc[slow, "value"] / 3)
    found = compare(third)
    assert row(found, "dml")["steps_share"] == pytest.approx(0.25)
    for part in ("accuracy", "cost"):
        (text,) = text_tables(found, part)
        named = {line[1] for line in text.rows}
        assert "dml [0.25 × the steps]" in named
        assert {"kd", "local", "tuned_kd", "dp_kd"} < named
    assert "[" not in "".join(line[1] for line in text_tables(compare(table))[0].rows)


def test_validation_chooses_the_round_and_test_has_no_say(table: pd.DataFrame) -> None:
    scores = federation_scores(table)
    val = table[pick(table, "val", "accuracy")].groupby(["federation", "round"])["value"].mean().round(12)
    for federation, chosen in scores["chosen_round"].items():
        curve = val.loc[str(federation)]
        assert chosen == curve.index[curve.to_numpy() == curve.max()][0]
    assert scores["chosen_round"].nunique() > 1
    shuffled = table.copy()
    test = pick(shuffled, "test", "accuracy")
    rng = np.random.default_rng(0)
    shuffled.loc[test, "value"] = rng.permutation(shuffled.loc[test, "value"].to_numpy())
    again = federation_scores(shuffled)
    pd.testing.assert_series_equal(scores["chosen_round"], again["chosen_round"])
    assert not np.allclose(scores["chosen_accuracy"], again["chosen_accuracy"])


def test_ties_go_to_the_earliest_round(table: pd.DataFrame) -> None:
    level = table.copy()
    level.loc[pick(level, "val", "accuracy"), "value"] = 0.7
    scores = federation_scores(level)
    assert set(scores["chosen_round"]) == {0}
    np.testing.assert_allclose(scores["chosen_accuracy"], scores["start_accuracy"])


def test_without_validation_nothing_is_chosen(table: pd.DataFrame) -> None:
    found = compare(table[table["split"] != "val"]).rows
    assert found["chosen_accuracy"].isna().all()
    assert found["accuracy"].notna().all()


def test_server_rows_of_a_split_nobody_else_scores_stand_in(table: pd.DataFrame) -> None:
    only = table[~pick(table, "val", "accuracy") | (table["client"] == 1)].copy()
    only.loc[pick(only, "val", "accuracy"), "client"] = -1
    assert federation_scores(only)["chosen_round"].notna().all()


def test_several_methods_are_corrected_for_their_number(summary: Summary) -> None:
    found = row(summary, "tuned_kd")
    assert (found["family"], found["verdict"]) == (4, "better")
    assert found["adjusted_p"] <= 0.05
    assert found["p"] < found["adjusted_p"] <= 4 * found["p"] + 1e-15
    assert np.isnan(found["wilcoxon_p"])
    # Planted: 0.06, 0.035, 0.02, 0.02 and 0.004, with a noise of 0.002.
    assert [row(summary, method)["rank"] for method in ("tuned_kd", "dml", "local")] == [1, 2, 5]


def test_costs_are_sums_over_clients_and_rounds(summary: Summary) -> None:
    # 4 clients, 6 rounds: dml sends and receives 27 kB six times each, kd once, tuned_kd 1.2 kB more.
    expected = {"local": 0, "kd": 4 * 54_000, "tuned_kd": 4 * 55_200, "dml": 4 * 12 * 27_000, "dp_kd": 4 * 54_000}
    for method, sent in expected.items():
        assert row(summary, method)["bytes"] == sent
        assert row(summary, method)["steps"] == 4 * 6 * 4
        assert row(summary, method)["tuning_steps"] == (4 * 144 if method == "tuned_kd" else 0)


def test_a_start_is_booked_once_and_shown_apart(table: pd.DataFrame, summary: Summary) -> None:
    # 4 clients, 5 seeds, 2 partitions: ten starts, from each of which all methods begin.
    started = {(seed, place): 4 * (2.0 + seed + place / 8) + 6 / 16 for seed in range(5) for place in range(2)}
    assert summary.starts.number == 10
    assert summary.starts.seconds == pytest.approx(sum(started.values()))
    assert summary.starts.federations == table["federation"].nunique() == 10 * len(summary.rows["method"].unique())
    for method in summary.rows["method"]:
        assert row(summary, method)["pretrain_seconds"] == pytest.approx(4 * 4.0 + 6 / 16)
        assert row(summary, method)["seconds"] == pytest.approx(4 * 7 * 0.01)
    (cost,) = text_tables(summary, "cost")
    place = cost.headers.index("pre-training")
    assert {line[place] for line in cost.rows} == {"16.4 s", "16.9 s"}
    assert "here 10 starts, 166 s in all, are shared by 50 federations" in caption(summary, "cost")
    unknown = compare(table[table["metric"] != "pretrain_seconds"])
    assert "pre-training" not in text_tables(unknown, "cost")[0].headers
    assert "pre-training" not in caption(unknown, "cost")


def test_frozen_teachers_are_told_by_their_bytes(table: pd.DataFrame) -> None:
    assert set(frozen_teachers(table)) == {"kd", "tuned_kd", "dp_kd"}
    assert frozen_teachers(table[table["round"] <= 1]) == []


def test_targets_are_censored_not_dropped(table: pd.DataFrame, summary: Summary) -> None:
    local, tuned = row(summary, "local"), row(summary, "tuned_kd")
    assert (local["rounds_to_target"], local["reached"]) == (Reach(6, False), 0)
    assert str(local["rounds_to_target"]) == ">6"
    assert tuned["rounds_to_target"].reached
    assert row(compare(table, target=0.0), "local")["rounds_to_target"] == Reach(0, True)
    assert row(compare(table, target=1.0), "dml")["bytes_to_target"] == Reach(4 * 12 * 27_000, False)
    with pytest.raises(ValueError, match="between 0 and 1"):
        compare(table, target=85)


def test_the_default_target_lies_above_the_start(summary: Summary, falling: Summary) -> None:
    """Halfway to the best bound, so that "rounds to target" is not 0 for everybody."""
    best, local = row(summary, "tuned_kd"), row(summary, "local")
    assert best["target"] == pytest.approx((local["start_accuracy"] + best["accuracy"]) / 2)
    assert (summary.rows["target"] > summary.rows["start_accuracy"]).all()
    assert {reach.value for reach in summary.rows["rounds_to_target"]} != {0}
    # With a bound it is the bound's, and the best method may well not arrive.
    pooled = row(falling, "pooled")
    assert pooled["target"] == pytest.approx((row(falling, "local")["start_accuracy"] + pooled["accuracy"]) / 2)
    assert not row(falling, "dp_kd")["rounds_to_target"].reached


def test_where_nothing_ends_above_the_start_there_is_no_target(tmp_path: Path) -> None:
    planted = Planted(**BOTH, methods=("local", "kd"), gain={"local": -0.05, "kd": -0.02}, noise=0.001)
    found = compare(load(planted.write(tmp_path)))
    assert found.rows["target"].isna().all()
    (cost,) = text_tables(found, "cost")
    assert [line[-4:] for line in cost.rows] == [["–"] * 4] * 2


def test_a_start_that_is_not_converged_is_said(tmp_path: Path, summary: Summary) -> None:
    assert not [text for text in summary.warnings if "iid)" in text]
    planted = Planted(**BOTH, gain={"local": 0.05, "kd": 0.06})
    (warning,) = compare(load(planted.write(tmp_path))).warnings
    assert warning.startswith("Start not converged (digits, iid): local alone gains 5.")


def test_unfinished_federations_are_counted_and_left_out(tmp_path: Path) -> None:
    planted = Planted(**BOTH, methods=("local", "kd"), cut={"f0004": 2})
    folder = planted.write(tmp_path)
    found = compare(load(folder), study=read_study(folder))
    assert row(found, "kd")["seeds"] == 2
    assert found.warnings[0] == "1 of 6 federations are unfinished and left out."
    assert "Methods differ in their number of seeds" in found.warnings[1]
    for path in (folder / "journal").glob("f0005*"):
        path.unlink()
    assert compare(load(folder), study=read_study(folder)).warnings[0].startswith("2 of 6")


def test_nothing_finished_is_an_empty_summary(tmp_path: Path) -> None:
    planted = Planted(**BOTH, methods=("kd",), seeds=(0,), cut={"f0000": 1})
    found = compare(load(planted.write(tmp_path)))
    assert found.rows.empty
    assert found.blocks() == []
    assert text_tables(found) == []


def labelled_and_not(folder: Path) -> Summary:
    for labelled in ("", ", labelled=true"):
        settings = {"transfer": f"public(fraction=0.2{labelled})", "start": "pretrained"}
        gain = {"local": 0.05 if labelled else 0.002, "kd": 0.03}
        swept = ("method", "seed", "transfer", "start")
        Planted(**BOTH, methods=("local", "kd"), settings=settings, gain=gain, swept=swept, seeds=FIVE).write(folder)
    return compare(load(folder), study=read_study(folder))


def test_labelled_and_unlabelled_transfer_share_no_block(tmp_path: Path) -> None:
    found = labelled_and_not(tmp_path)
    titles = [title for title, _ in found.blocks()]
    assert sorted(titles) == ["digits · public(fraction=0.2)", "digits · public(fraction=0.2, labelled=true)"]
    for title, block in found.blocks():
        kd = block.rows[block.rows["method"] == "kd"].iloc[0]
        # Against local with the same labels, not against the other block's.
        assert kd["verdict"] == ("worse" if "labelled" in title else "better")
        middle = (block.rows["start_accuracy"].mean() + block.rows["accuracy"].max()) / 2
        assert kd["target"] == pytest.approx(middle, abs=1e-3)
        assert len(block.scores) == 10
    assert [table.title for table in text_tables(found)] == titles


def test_text_tables(summary: Summary) -> None:
    (accuracy,) = text_tables(summary)
    assert accuracy.title == "digits"
    assert accuracy.headers[:6] == ["partition", "method", "seeds", "start (clients' mean)", "final", "Δ"]
    assert accuracy.headers[6:] == ["verdict vs start", "p vs start", "vs local", "verdict vs local", "p vs local"]
    assert all(len(line) == len(accuracy.headers) for line in accuracy.rows)
    assert [line[9] for line in accuracy.rows[:3]] == ["–", "better", "better"]
    assert " ± " in accuracy.rows[0][4]
    (detail,) = text_tables(summary, "detail")
    assert detail.headers[2:] == ["at val's choice", "rank", "gained", "lost", "worst client", "success"]
    (cost,) = text_tables(summary, "cost")
    assert "tuning steps" in cost.headers
    assert cost.rows[0][-3:] == [">6", "–", "0/5"]


def test_untuned_studies_show_no_tuning_columns(table: pd.DataFrame) -> None:
    (cost,) = text_tables(compare(table[table["method"] != "tuned_kd"]), "cost")
    assert not [header for header in cost.headers if "tuning" in header]


def test_captions_say_interval_choice_and_target(table: pd.DataFrame) -> None:
    found = compare(table, target=0.9, level=0.9)
    assert "90 % Student-t interval over seeds" in caption(found)
    assert "the test set chooses nothing" in caption(found, "detail")
    assert "Target: 90.0 %" in caption(found, "cost")
    assert "halfway from the start to the final accuracy of pooled" in caption(compare(table), "cost")


def test_markdown_escapes_and_says_everything(tmp_path: Path) -> None:
    planted = Planted(**BOTH, methods=("local", "a|b<i>*c*`"), gain={"local": 0.05})
    text = markdown(compare(load(planted.write(tmp_path))))
    assert "> **Warning.** Start not converged" in text
    assert "a\\|b\\<i>\\*c\\*\\`" in text
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines if "seeds" in line or "better" in line}) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.8734), "87.3"),
        (percent(float("nan")), "–"),
        (percent(-0.0), "0.0"),
        (points(0.012), "+1.2"),
        (points(-0.012), "−1.2"),
        (points(-0.0001), "0.0"),
        (points(float("nan")), "–"),
        (spread(0.1, 0.124), " ± 1.2"),
        (spread(0.1, 0.1004), " ± 0.02"),
        (spread(float("nan"), float("nan")), ""),
        (around(0.5, 0.4, 0.6), " ± 10.0"),
        (around(0.5, 0.45, 0.6), " [45.0, 60.0]"),
        (around(0.01, -0.01, 0.02, points), " [−1.0, +2.0]"),
        (around(0.5, float("nan"), float("nan")), ""),
        (size(0), "0 B"),
        (size(1023), "1023 B"),
        (size(1536), "1.5 KiB"),
        (size(1024**2 - 1), "1024 KiB"),
        (size(5 * 1024**4), "5 TiB"),
        (size(float("nan")), "–"),
        (count(12300), "12,300"),
        (count(2.5), "2.5"),
    ],
)
def test_numbers_as_people_read_them(text: str, expected: str) -> None:
    assert text == expected

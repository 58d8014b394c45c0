"""What a target is, and how many rounds and bytes it takes, on a study that measures everything."""

import numpy as np
import pandas as pd
import pytest

from analysis.measures.scores import federation_scores
from analysis.measures.targets import (
    Targets,
    absolute_targets,
    arrival_summary,
    arrivals,
    reaches,
    reading_split,
    share_targets,
    target_table,
)
from analysis.statistics.censoring import Reach
from tests.test_analysis_measures import one, started, table

__all__ = ["started", "table"]


def test_targets_are_shares_of_pooled_on_the_same_partition_and_seed(table: pd.DataFrame) -> None:
    found = share_targets(table, 0.9, split="test")
    assert found.notes == ()
    name, _ = one(table, "kd", seed=1)
    _, rows = one(table, "pooled", seed=1)
    assert found.values[name] == pytest.approx(0.9 * rows[4, 0, "test", "accuracy"])
    on_val = share_targets(table, 0.9)
    assert on_val.split == "val"
    assert on_val.values[name] == pytest.approx(0.9 * rows[4, 0, "val", "accuracy"])
    with pytest.raises(ValueError, match=r"found 90; 0\.9 means 90 %"):
        share_targets(table, 90)
    with pytest.raises(ValueError, match="between 0 and 1, found 85"):
        absolute_targets(table, 85)
    assert set(absolute_targets(table, 0.5).values) == {0.5}


def test_curves_are_read_on_validation_only_where_it_is_common(table: pd.DataFrame) -> None:
    assert reading_split(table) == "test"
    common = table[(table["split"] != "val") | (table["client"] == 0)].copy()
    common.loc[common["split"] == "val", "client"] = -1
    assert reading_split(common) == "val"
    assert share_targets(common, 0.9).notes == ()
    partly = common[(common["split"] != "val") | (common["method"] != "kd")]
    assert reading_split(partly) == "test"


def test_without_pooled_the_best_method_stands_in_and_it_is_said(table: pd.DataFrame) -> None:
    lone = table[~((table["method"] == "pooled") & (table["partition"] == "iid"))]
    found = share_targets(lone, 0.9, split="test")
    (note,) = found.notes
    assert note.startswith("No pooled with test accuracy in digits, iid: ")
    assert note.endswith("shares of the best method's mean final accuracy.")
    finals = federation_scores(lone).query("partition == 'iid'").groupby("method")["accuracy"].mean()
    name, _ = one(table, "kd")
    assert found.values[name] == pytest.approx(0.9 * finals.max())
    other = lone[(lone["partition"] != "iid") & (lone["method"] == "kd")]["federation"].iloc[0]
    assert found.values[other] == pytest.approx(share_targets(table, 0.9, split="test").values[other])


def test_federations_without_a_target_have_no_time_to_it(table: pd.DataFrame) -> None:
    name, _ = one(table, "kd")
    found = arrivals(table, Targets(pd.Series({name: 0.1}), "test"))
    assert list(found.index) == [name]
    assert found["rounds_to_target"].iloc[0] == Reach(0, True)


def test_arrivals_are_summed_up_over_one_horizon(table: pd.DataFrame) -> None:
    summed = arrival_summary(arrivals(table, absolute_targets(table, 0.9)), by=["partition", "method"])
    assert set(summed["rounds_horizon"]) == {4}
    rows = summed[summed["partition"] == "iid"].set_index("method")
    assert rows["rounds_to_target"].loc["local"] == Reach(4, False)
    assert rows["rounds_mean"].loc["local"] == 4
    assert rows["arrived"].loc["pooled"] == 2
    assert rows["rounds_mean"].loc["pooled"] == 0
    # local sends nothing and never arrives: its mean of bytes is not known, and the others have one all the same.
    assert np.isnan(rows["bytes_mean"].loc["local"])
    assert rows["bytes_horizon"].loc["kd"] > 0


def test_a_reference_may_have_another_start(started: pd.DataFrame) -> None:
    found = share_targets(started, 0.95)
    assert len(found.notes) == 1
    assert "Validation is local" in found.notes[0]
    assert (
        found.values.groupby(started.drop_duplicates("federation").set_index("federation")["seed"]).nunique().max() == 1
    )
    summed = arrival_summary(arrivals(started, found), by=["method", "start"])
    assert set(summed["start"]) == {"pretrained", "average", "kd"}


def test_all_starts_aim_at_the_pretrained_reference(started: pd.DataFrame) -> None:
    name, _ = one(started, "pooled")
    weak = started[started["federation"] == name].assign(federation="weak", start="random")
    weak["value"] = weak["value"].where(weak["metric"] != "accuracy", weak["value"] / 2)
    found = share_targets(pd.concat([started, weak]), 0.95)
    assert found.values.drop("weak").equals(share_targets(started, 0.95).values)
    assert found.values["weak"] == found.values[name]


def test_reaches_count_the_bytes_of_the_start(started: pd.DataFrame) -> None:
    targets = pd.Series(0.6, index=started["federation"].unique())
    found = reaches(started, targets)
    scores = federation_scores(started)
    late = scores[(scores["start"] == "kd")].index
    assert {reach.value for reach in found.loc[late, "rounds_to_target"]} == {2}
    early = scores[(scores["start"] == "pretrained") & (scores["method"] == "kd")].index
    assert {reach.value for reach in found.loc[early, "rounds_to_target"]} == {0}
    assert found.loc[late[0], "bytes_to_target"].value > found.loc[early[0], "bytes_to_target"].value


def test_nothing_arrives_before_its_start_is_complete(started: pd.DataFrame) -> None:
    # The server scores the model that it is about to hand on: good, but nobody's yet.
    early = started.copy()
    at_start = (early["start"] == "kd") & (early["round"] == 0) & (early["metric"] == "accuracy")
    early.loc[at_start, "value"] = 1.0
    found = reaches(early, pd.Series(0.3, index=early["federation"].unique()))
    scores = federation_scores(early)
    assert {reach.value for reach in found.loc[scores[scores["start"] == "kd"].index, "rounds_to_target"]} == {2}
    assert {reach.value for reach in found.loc[scores[scores["start"] == "average"].index, "rounds_to_target"]} == {1}


def test_the_target_table_compares_methods_from_each_start(started: pd.DataFrame, table: pd.DataFrame) -> None:
    found = target_table(started, "val")
    assert set(found["arm"]) == {"kd from pretrained", "kd from average", "kd from kd"}
    assert found.groupby("share")["rounds_horizon"].nunique().eq(1).all()
    assert sorted(set(found["share"])) == [0.8, 0.9, 0.95]
    assert found.groupby("arm")["target"].apply(list).map(sorted).tolist() == [sorted(set(found["target"]))] * 3
    plain = target_table(table, "test")
    assert set(plain["arm"]) == {"local", "kd", "dml", "fedavg"}
    assert target_table(table[table["method"] != "pooled"], "test").empty

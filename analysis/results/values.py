"""Long rows condensed into one number for each federation, round and client, or federation and round.

Which rows count is decided here and nowhere else: the server's where it holds the model that a federation is
about, the clients' otherwise.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.results.absent import carried
from analysis.results.evaluated import main_split
from analysis.results.journal import MODEL, ROW
from analysis.results.metrics import SENT, member, members
from analysis.results.metrics import metric as declared

SERVER = -1


def settings_of(table: pd.DataFrame) -> pd.DataFrame:
    """The settings of each federation: index `federation`, columns dataset, partition, method, seed, …"""
    columns = [name for name in table.columns if name not in {*ROW, MODEL}]
    return table[columns].drop_duplicates("federation").set_index("federation")


def last_rounds(table: pd.DataFrame) -> "pd.Series[int]":
    """The last round that each federation has a row of."""
    return table.groupby("federation")["round"].max()


def has_global_model(table: pd.DataFrame, split: str | None = None) -> pd.Index:
    """The federations whose server (client −1) has an accuracy on this split, or the main one, at their last round."""
    return _global_from(table, split or main_split(table)).index


def _global_from(table: pd.DataFrame, split: str) -> "pd.Series[int]":
    """The first round with an accuracy of the server, for the federations that have a global model."""
    rows = table[(table["client"] == SERVER) & (table["metric"] == "accuracy") & (table["split"] == split)]
    seen = rows.groupby("federation")["round"].agg(["min", "max"])
    return seen.loc[seen["max"] == last_rounds(table).reindex(seen.index), "min"]


def client_values(table: pd.DataFrame, metric: str, split: str) -> "pd.Series[float]":
    """One metric, indexed by (federation, round, client).

    Where the server has rows of (accuracy, split) at a federation's last round, that global model is what the
    federation is about: from the first such round on only the server's rows count, for every metric of the split,
    and the clients' own rows are personalised models, which `local_values` gives. Elsewhere rows of the server
    (client −1) count only in rounds in which no client has any: a common validation set that only the server scores
    on, the model on its way through a consolidated start. Clients that only teach have rows at the start and never
    again: they are left out, so that every round is a mean over the same.
    """
    return _indexed(_counted(table, [metric], split)).droplevel("metric")


def local_values(table: pd.DataFrame, metric: str, split: str) -> "pd.Series[float]":
    """One metric of the models that clients hold, indexed by (federation, round, client): never the server's,
    whether or not there is a global model. Clients that only teach are left out."""
    rows = table[(table["metric"] == metric) & (table["split"] == split) & (table["client"] >= 0)]
    return _indexed(rows[_learns(rows)]).droplevel("metric")


def class_values(table: pd.DataFrame, split: str | None = None) -> "pd.Series[float]":
    """Accuracy of every class, indexed by (metric, federation, round, client); the metric is the class. The same
    rows count as in `client_values`."""
    names = members(table["metric"].unique(), "accuracy")
    rows = _counted(table, names, split or main_split(table))
    return _indexed(rows.assign(metric=rows["metric"].astype("str").map({name: member(name) for name in names})))


def round_means(table: pd.DataFrame, metric: str = "accuracy", split: str | None = None) -> "pd.Series[float]":
    """One metric's mean over clients, indexed by (federation, round); the global model's value where there is one
    (see `client_values`). A client that took no part in a round counts with the evaluation that it had before."""
    values = client_values(table, metric, split or main_split(table))
    each = values.groupby(level=["federation", "round"])
    means, sizes = each.mean(), each.size()
    if declared(metric).holds:
        uneven = sizes.groupby(level="federation").nunique()
        for name in uneven.index[uneven > 1]:
            mine = values.xs(name, level="federation")
            wide = carried(mine[mine.index.get_level_values("client") >= 0])
            more = wide.notna().sum(axis=1) > sizes.loc[name].reindex(wide.index)
            filled = wide[more].mean(axis=1)
            means.loc[pd.MultiIndex.from_product([[name], filled.index])] = filled.to_numpy()
    return means


def _counted(table: pd.DataFrame, metrics: Sequence[str], split: str) -> pd.DataFrame:
    rows = table[table["metric"].isin(metrics) & (table["split"] == split)]
    rows = rows[_learns(rows)]
    by_client = rows["client"] >= 0
    evaluated = by_client.groupby([rows["federation"], rows["round"]]).transform("any")
    # Federations without a global model have no first round of it, and compare as False.
    ruled = rows["round"] >= rows["federation"].map(_global_from(table, split)).astype("float64")
    return rows[np.where(ruled, ~by_client, by_client | ~evaluated)]


def _learns(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each row's client is measured as far as its federation goes; the server always is."""
    last = rows.groupby(["federation", "client"])["round"].transform("max")
    return (last > 0) | (rows["client"] < 0) | (rows.groupby("federation")["round"].transform("max") == 0)


def _indexed(rows: pd.DataFrame) -> "pd.Series[float]":
    return rows.set_index(["metric", "federation", "round", "client"])["value"].astype("float64")


def start_rounds(table: pd.DataFrame) -> "pd.Series[int]":
    """How many of each federation's rounds belong to its consolidated start (recipe key `start`), 0 without one.
    They come first, are numbered like all others and are charged like them."""
    rows = table[(table["metric"] == "start_rounds") & (table["client"] == SERVER) & (table["round"] == 0)]
    names = pd.Index(table["federation"].unique(), name="federation")
    return rows.set_index("federation")["value"].reindex(names, fill_value=0.0).astype("int64")


def cumulative_bytes(table: pd.DataFrame) -> "pd.Series[float]":
    """Bytes up and down of all clients since the start, tuning included; indexed by (federation, round).

    Rounds without byte rows cost nothing.
    """
    sent = table[table["metric"].isin(SENT) & (table["client"] >= 0)]
    each = sent.groupby(["federation", "round"])["value"].sum()
    rounds = pd.MultiIndex.from_frame(table[["federation", "round"]].drop_duplicates()).sort_values()
    return each.reindex(rounds, fill_value=0.0).groupby(level="federation").cumsum()


def frozen_teachers(table: pd.DataFrame) -> list[str]:
    """Methods whose knowledge travels once: they send something by the first of their own rounds and nothing after
    it, and the rounds of a consolidated start are not theirs. Their rounds are local epochs with what they were
    given."""
    total = cumulative_bytes(table)
    names = total.index.get_level_values("federation")
    method = settings_of(table)["method"].reindex(names).to_numpy()
    first = start_rounds(table).reindex(names).to_numpy()
    number = total.index.get_level_values("round").to_numpy() - first
    # What a consolidated start sent, up to its last round, says nothing about the method.
    owed = total[(number == 0) & (first > 0)].droplevel("round").reindex(names, fill_value=0.0).to_numpy()
    sent = total - owed
    begun = (number >= 0) & (number <= 1)
    early = sent[begun].groupby(method[begun]).max()
    final = sent.groupby(method).max()
    later = set(method[number >= 2])
    return [str(name) for name in final.index if name in later and 0 < final[name] == early.get(name, np.nan)]

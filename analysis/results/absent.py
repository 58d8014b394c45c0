"""Evaluations of clients that took no part in a round: their models, and so their evaluations, are those of before.

With `participation` below 1 a journal has rows of the clients that took part, so that it grows with these and not with
all clients. A table has such rows too, and in the last round, as in the first, those of everybody.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.results.journal import MODEL, ROW
from analysis.results.metrics import metric

ABSENT = "rounds_absent"
"""Metric: rounds since a client took part."""


def with_ends(rows: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of a journal, and in its last evaluated round the last evaluation of each learner that was absent."""
    if float(settings.get("participation", 1.0)) == 1.0 or rows.empty:
        return rows
    lasting = _lasting(rows)
    if students := settings.get("students"):
        lasting = lasting[lasting["client"].isin(students)]
    if lasting.empty:
        return rows
    end = lasting["round"].max()
    seen = lasting.groupby("client")["round"].transform("max")
    owed = lasting[(lasting["round"] == seen) & (seen < end)]
    if owed.empty:
        return rows
    ages = _ages(rows)
    clients = owed.drop_duplicates("client")
    index = pd.MultiIndex.from_frame(clients[["round", "client"]])
    age = end - clients["round"].to_numpy() + ages.reindex(index, fill_value=0.0).to_numpy()
    absent = clients.assign(split="", metric=ABSENT, value=age)
    whole: pd.DataFrame = pd.concat([rows, *(each.assign(round=end) for each in (owed, absent))])
    return whole.astype(rows.dtypes.to_dict())


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """A table, as `load` gives it, with rows of every client in every evaluated round.

    A client that was absent keeps the evaluation of the round in which it took part last; `rounds_absent` says for how
    many rounds. The rows grow with clients times rounds.
    """
    parts = [table]
    for _, rows in table.groupby("federation", sort=False):
        new = _between(rows)
        if len(new):
            columns = [column for column in table.columns if column not in {*ROW, MODEL}]
            new = new.assign(**{column: rows[column].iloc[0] for column in columns})
            if MODEL in table:
                new[MODEL] = new["client"].map(rows.drop_duplicates("client").set_index("client")[MODEL])
            parts.append(new[list(table.columns)].astype(table.dtypes.to_dict()))
    if len(parts) == 1:
        return table
    order = {name: number for number, name in enumerate(table["federation"].unique())}
    whole = pd.concat(parts)
    whole = whole.assign(_order=whole["federation"].map(order)).sort_values(
        ["_order", "round", "client", "split", "metric"], kind="stable", ignore_index=True
    )
    whole = whole.drop(columns="_order")
    whole.attrs = dict(table.attrs)
    return whole


def carried(values: "pd.Series[float]") -> pd.DataFrame:
    """(rounds, clients): each client's value, and between its first and its last one that of the round before.

    values: of one federation, indexed by (round, client). The result has a column a client.
    """
    wide = values.unstack("client").sort_index()
    return wide.where(wide.notna(), wide.ffill().where(wide.bfill().notna()))


def _between(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a federation that are missing between a client's first evaluation and its last."""
    lasting = _lasting(rows)
    lasting = lasting[~lasting["metric"].astype("str").str.contains("/", regex=False)]
    wide = lasting.pivot(index="round", columns=["client", "split", "metric"], values="value").sort_index()
    missing: Any = wide.ffill().where(wide.isna() & wide.bfill().notna())
    new: pd.DataFrame = missing.stack([0, 1, 2], future_stack=True).dropna().rename("value").reset_index()
    if new.empty:
        return new
    # The round in which a client took part last is known where it has an evaluation.
    evaluated = lasting[["round", "client"]].drop_duplicates().set_index(["round", "client"]).index
    numbers = pd.Series(evaluated.get_level_values("round"), index=evaluated, dtype="float64")
    took_part: Any = carried(numbers - _ages(rows).reindex(evaluated, fill_value=0.0)).stack()
    places = new[["round", "client"]].drop_duplicates()
    last = took_part.reindex(pd.MultiIndex.from_frame(places)).to_numpy()
    return pd.concat([new, places.assign(split="", metric=ABSENT, value=places["round"] - last)])


def _lasting(rows: pd.DataFrame) -> pd.DataFrame:
    """Evaluations of clients: they hold until the model is trained again."""
    holds = [name for name in rows["metric"].unique() if metric(str(name)).holds]
    return rows.loc[rows["metric"].isin(holds) & (rows["client"] >= 0), ROW]


def _ages(rows: pd.DataFrame) -> "pd.Series[float]":
    """Rounds since a client took part, where the rows say so; indexed by (round, client)."""
    return rows[rows["metric"] == ABSENT].set_index(["round", "client"])["value"]

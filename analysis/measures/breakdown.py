"""Changes of accuracy by class, by client and by model."""

import pandas as pd

from analysis.measures.scores import client_changes
from analysis.results.journal import MODEL
from analysis.results.table import setting_columns
from analysis.results.values import class_values, last_rounds, settings_of
from analysis.statistics.intervals import CHANGE, interval


def class_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of each class: one row for each (settings …, partition, method, class), with `seeds`, `before`,
    `after` and `delta`, means over clients, then over seeds; accuracies in [0, 1].
    Before is round 0, or where a global model came out of a consolidated start.

    Classes are in numeric order where they are numbers. Empty where no class was measured.
    """
    values = class_values(table).groupby(level=["metric", "federation", "round"]).mean().reset_index("round")
    last = last_rounds(table).reindex(values.index.get_level_values("federation")).to_numpy()
    first = values.groupby(level=["metric", "federation"])["round"].transform("min")
    before, after = (values.loc[values["round"] == number, "value"] for number in (first, last))
    both = pd.concat([before.rename("before"), after.rename("after")], axis=1, join="inner")
    both = both.rename_axis(["class", "federation"]).reset_index("class")
    keys = [*setting_columns(table), "partition", "method"]
    joined = both.join(settings_of(table)[[*keys, "seed"]])
    grouped = joined.groupby([*keys, "class"], sort=False)
    rows = grouped.agg(seeds=("seed", "nunique"), before=("before", "mean"), after=("after", "mean"))
    rows = rows.assign(delta=rows["after"] - rows["before"]).reset_index()
    numbers = pd.to_numeric(rows["class"], errors="coerce")
    order = rows["class"] if numbers.isna().any() else numbers
    return rows.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def client_gains(table: pd.DataFrame) -> pd.DataFrame:
    """The gain of every client's own model in every seed: columns of the settings, partition, method, seed, client,
    `before`, `after` and `delta`."""
    keys = [*setting_columns(table), "partition", "method", "seed"]
    rows = client_changes(table).reset_index("client").join(settings_of(table)[keys])
    return rows[[*keys, "client", "before", "after", "delta"]].reset_index(drop=True)


def model_scores(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """What each architecture of a heterogeneous federation came to: one row for each (settings …, partition,
    method, model), with `seeds`, `clients` (of this model, in one federation, mean), `before`, `after` and `delta`,
    each a mean over that model's clients, then over seeds, and `delta_low`, `delta_high` over seeds.

    Always of the clients' own models. Empty where the table has no column `model`, or where it names but one.
    """
    keys = [*setting_columns(table), "partition", "method", "model"]
    names = [*keys, "seeds", "clients", "before", "after", "delta", "delta_low", "delta_high"]
    if MODEL not in table.columns:
        return pd.DataFrame(columns=names)
    held = table.loc[table["client"] >= 0, ["federation", "client", MODEL]].drop_duplicates()
    changes = client_changes(table).join(held.set_index(["federation", "client"])[MODEL])
    if changes[MODEL].nunique() < 2:
        return pd.DataFrame(columns=names)
    each = changes.groupby(["federation", MODEL])[["before", "after", "delta"]].mean()
    each["clients"] = changes.groupby(["federation", MODEL]).size()
    joined = each.reset_index(MODEL).join(settings_of(table)[[*keys[:-1], "seed"]])
    rows = []
    for values, cell in joined.groupby(keys, sort=False):
        gain = interval(cell["delta"], level, CHANGE)
        means = {name: cell[name].mean() for name in ("clients", "before", "after")}
        named = {"delta": gain.mean, "delta_low": gain.low, "delta_high": gain.high}
        rows.append({**dict(zip(keys, values, strict=True)), "seeds": len(cell), **means, **named})
    return pd.DataFrame(rows, columns=names)

"""Shares of the transfer set that were distilled, revised or left out, and the noise of the labels."""

import re

import pandas as pd

_NOISE = re.compile(r"label_noise\([^)]*\brate=([0-9.eE+-]+)")


SHARES = ("right", "wrong", "revised", "left_wrong", "left_right")
"""What the samples of a transfer set are divided into."""


def taught_shares(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each partition and method that revises or selects: the shares `right`, `wrong`, `revised`,
    `left_right` and `left_wrong` of all samples of the transfer set, which add up to 1.

    Means over clients and rounds, then over seeds. "Wrong" is the teacher's arg max before any revision. Empty where
    nothing was revised or selected, or the labels were not known.
    """
    named = ["teacher_wrong", "selected", "selected_wrong", "revised"]
    rows = table[table["metric"].isin(named) & (table["client"] >= 0)]
    keys = ["partition", "method"]
    if not (rows["metric"] == "teacher_wrong").any():
        return pd.DataFrame(columns=[*keys, *SHARES])
    each = rows.groupby([*keys, "seed", "metric"], sort=False, observed=True)["value"].mean().unstack("metric")
    mean = each.groupby(level=keys, sort=False).mean().reindex(columns=named).dropna(subset="teacher_wrong")
    selected = mean["selected"].fillna(1.0)
    wrong = mean["selected_wrong"].fillna(mean["teacher_wrong"])
    is_revised = mean["revised"].notna()
    frame = pd.DataFrame(
        {
            "right": selected - wrong,
            "wrong": wrong.where(~is_revised, 0.0),
            "revised": wrong.where(is_revised, 0.0),
            "left_wrong": mean["teacher_wrong"] - wrong,
            "left_right": 1 - selected - (mean["teacher_wrong"] - wrong),
        }
    )
    return frame.reset_index()


def noise_levels(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column `noise`, the rate of wrong labels that their partition names, 0 where it names none.

    Only partitions that differ in nothing but that rate are kept: those of the first, and so none but it where others
    differ otherwise.
    """
    named = rows["partition"].astype("str")
    rate = named.map(lambda name: float(match[1]) if (match := _NOISE.search(name)) else 0.0)
    rest = named.map(lambda name: re.sub(r"\+?label_noise\([^)]*\)", "", name))
    known: pd.DataFrame = rows.assign(noise=rate)[rest == rest.iloc[0]]
    return known.sort_values("noise", kind="stable")

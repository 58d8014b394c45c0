"""The cost of pre-training. Federations that begin from the same models share it, so it is counted once."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Starts:
    """The pre-trained starts of some federations. A start is what all clients of a federation begin with."""

    number: int
    """different starts"""
    seconds: float
    """of computing, each start counted once"""
    federations: int
    """how many begin from one of them"""


def pretrained_starts(table: pd.DataFrame) -> Starts:
    """The different starts in a table of long rows; none where nothing was pre-trained, or its time is not there.

    The seconds of a training are kept with what it gave, to the last digit. So federations with the same seconds of
    every client have the same start.
    """
    rows = table[(table["metric"] == "pretrain_seconds") & (table["client"] >= 0) & (table["value"] > 0)]
    by_federation = rows.sort_values("client").groupby("federation")[["client", "value"]]
    starts = [tuple(client_seconds.itertuples(index=False, name=None)) for _, client_seconds in by_federation]
    return Starts(len(set(starts)), sum(seconds for start in set(starts) for _, seconds in start), len(starts))

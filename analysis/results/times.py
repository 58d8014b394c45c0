"""The profile of a run: seconds of each round by part."""

from pathlib import Path

import pandas as pd

FILE = "profile.csv"


def read_times(directory: str | Path) -> pd.DataFrame:
    """`profile.csv` of a results folder; empty where the study was not run with `--profile`.

    One row a round, with the columns dataset, partition, method, models, clients, seed, round, seconds and one for each
    part. The row without a round is the start-up of the study.
    """
    path = Path(directory) / FILE
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()

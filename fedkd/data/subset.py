"""Fewer samples of a data set, for quick studies."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.data.dataset import Dataset

SEED = 2025


def limited(dataset: Dataset, limit: int) -> Dataset:
    """`limit` samples of a data set, or all where it is 0: training and test ones in the proportion that they have.

    Both parts are stratified by class and drawn with a fixed seed: the subset belongs to the data set, not to a study,
    and a smaller one is not part of a larger one. The samples stay where they are; only the border names fewer.
    Raises UserError where there are not so many samples, or a class would have none for training.
    """
    one, kind = ("chunk", "domain") if dataset.vocabulary else ("image", "class")
    there = len(dataset.train) + len(dataset.test)
    if not limit:
        return dataset
    if limit > there:
        raise UserError(f"{dataset.name}: limit={limit}, but there are {there} {one}s; lower it or leave it out")
    held = min(max(round(limit * len(dataset.test) / there), 1), limit - 1)
    rng = np.random.default_rng(SEED)
    train, test = (
        _stratified(dataset, part, count, rng) for part, count in ((dataset.train, limit - held), (dataset.test, held))
    )
    missing = set(range(len(dataset.classes))) - set(dataset.labels[train].tolist())
    if missing:
        name = dataset.classes[min(missing)]
        raise UserError(f"{dataset.name}: limit={limit} leaves no training {one} of {kind} {name!r}; raise it")
    fingerprint = hashlib.sha256(f"{dataset.fingerprint} {SEED} {limit}".encode()).hexdigest()
    return replace(dataset, train=train, test=test, fingerprint=fingerprint)


def _stratified(dataset: Dataset, part: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """(count,) of the indices in `part`, every class with its share, by largest remainder; ascending."""
    labels = dataset.labels[part].numpy()
    sizes = np.bincount(labels, minlength=len(dataset.classes))
    exact = sizes * (count / sizes.sum())
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:most] for label, most in enumerate(quota)]
    return part[torch.from_numpy(np.sort(np.concatenate(chosen)))]

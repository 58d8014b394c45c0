"""The transfer set: held out of the training data before the clients get theirs, or taken from another data set."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Interval
from pydantic import ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError, nearest
from fedkd.base.files import file_cache
from fedkd.base.problems import first_problem
from fedkd.base.spec import parse
from fedkd.data import Dataset, load
from fedkd.tensors.samples import Data
from partitions.contract import Indices, stream
from partitions.holdout import hold_out


@dataclass(frozen=True, config=STRICT)
class Public:
    """A transfer set that is known to all."""

    fraction: Annotated[float, Interval(gt=0, le=1)] = 0.2
    """share of the training data, or of those in `classes`, that is held out before they are dealt"""
    labelled: bool = False
    """give its labels to every method, local included"""
    source: str = ""
    """another data set to take it from; empty: the federation's own"""
    classes: tuple[int | str, ...] = ()
    """take samples of these classes only, by label or by name; empty: all"""
    size: Annotated[int, Ge(0)] = 0
    """number of samples instead of a fraction; 0: as `fraction` says"""
    use: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """share of what is held out that is used: a sweep over it leaves the clients' own data as they are"""


PRIVATE = "private"
"""No transfer set: teachers' models travel, and each student distils on its own samples."""


def transfer_set(text: str) -> Public | None:
    """The transfer set that a recipe's `transfer` names; None where it is "private".

    Raises:
        UserError: it is neither "private" nor `public(fraction=…, …)`.
    """
    spec = parse(text)
    form = 'it should be "public(fraction=0.2)", "public(fraction=0.2, labelled=true)" or "private"'
    if text.strip() == PRIVATE:
        return None
    if spec.name != "public" or spec.file or spec.argument:
        raise UserError(f"transfer = {text!r} is unknown; {form}")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in spec.arguments.items()
    }
    try:
        public = Public(**values)
    except (ValidationError, TypeError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error
        raise UserError(f"transfer = {text!r}: {problem}; {form}") from error
    if public.fraction == 1 and not public.source and not public.classes:
        raise UserError(f"transfer = {text!r}: fraction=1.0 would leave the clients nothing; {form}")
    return public


@dataclass(frozen=True, config={"arbitrary_types_allowed": True})
class Held:
    """Positions in training arrays of the samples held out for transfer, and of the rest for the clients."""

    transfer: Indices
    """(t,) the transfer set, in the training array of the data set that it comes from"""
    rest: Indices
    """(r,) the samples for the clients, in the federation's own training array"""
    unused: Indices
    """(u,) held out but not used, in the federation's own training array"""


def hold_transfer(public: Public | None, dataset: Dataset, seed: int) -> Held:
    """Choose the transfer set: stratified by class, and seeded.

    Raises:
        UserError: a class does not exist, or there are too few samples.
    """
    if public is None:
        return Held(np.empty(0, np.int64), np.arange(len(dataset.train)), np.empty(0, np.int64))
    origin = load(public.source) if public.source else dataset
    labels = origin.labels[origin.train].numpy()
    wanted = np.isin(labels, _labels(public, origin)) if public.classes else np.ones(len(labels), bool)
    eligible = np.flatnonzero(wanted)
    if public.size > len(eligible) or (public.size == len(labels) and not public.source):
        raise UserError(
            f"transfer: size={public.size}, but {origin.name} has {len(eligible)} training samples to choose from"
        )
    fraction = public.size / len(eligible) if public.size else public.fraction
    held, _ = hold_out(eligible, fraction, stream(seed, "transfer"), labels[eligible])
    used = hold_out(held, public.use, stream(seed, "transfer/use"), labels[held])[0] if public.use < 1 else held
    if not len(used):
        raise UserError(f"transfer: {origin.name} has {len(eligible)} training samples to choose from; none was held")
    rows = len(dataset.train)
    if public.source:
        return Held(used, np.arange(rows), np.empty(0, np.int64))
    return Held(used, np.setdiff1d(np.arange(rows), held), np.setdiff1d(held, used))


@file_cache(maxsize=2)
def transfer_data(dataset: str, transfer: str, seed: int) -> tuple[Data, bool] | None:
    """The transfer set with its labels, and whether these are the federation's classes. Loaded once in a process.

    None if there is no transfer set. Images of another data set get the size and channels of the federation's data
    set. Text of another data set must have the same tokens, and chunks of the same length.
    """
    local, public = load(dataset), transfer_set(transfer)
    if public is None:
        return None
    origin = load(public.source) if public.source else local
    index = origin.train[torch.from_numpy(hold_transfer(public, local, seed).transfer)]
    x, y = origin.pairs(index)
    return Data(x if local.vocabulary else fitted(x, local.shape), y), origin.outputs == local.outputs


def fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) from (n, channels, height, width) in [0, 1].

    Grey is repeated, RGB is weighed as in ITU-R BT.601 (other channels are averaged), and another size is reached by
    bilinear interpolation.
    """
    channels, height, width = shape
    if x.shape[1] != channels:
        weights = torch.tensor([0.299, 0.587, 0.114]) if x.shape[1] == 3 else torch.full((x.shape[1],), 1 / x.shape[1])
        x = (x * weights[:, None, None]).sum(1, keepdim=True).expand(-1, channels, -1, -1).contiguous()
    if x.shape[2:] != (height, width):
        x = torch.nn.functional.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return x.clamp(0, 1)


def check_labels(transfer: str, dataset: Dataset) -> None:
    """Raise UserError if samples of another data set do not fit, or its labels are used but its classes differ."""
    public = transfer_set(transfer)
    if not public or not public.source:
        return
    origin = load(public.source)
    alike = origin.shape == dataset.shape and origin.vocabulary == dataset.vocabulary
    if (origin.vocabulary or dataset.vocabulary) and not alike:
        raise UserError(
            f"transfer = {transfer!r}: {public.source} has {_described(origin)}, but {dataset.name} has "
            f"{_described(dataset)}; models of the one cannot predict the other: take text in the same tokens, bytes "
            "for example, and of the same length"
        )
    if public.labelled and origin.outputs != dataset.outputs:
        raise UserError(
            f"transfer = {transfer!r}: {public.source} has other classes than {dataset.name}, so its labels would "
            "teach something else; use labelled=false"
        )


def _described(dataset: Dataset) -> str:
    if not dataset.vocabulary:
        return "images"
    return f"chunks of {dataset.shape[0]} out of {len(dataset.vocabulary)} tokens"


def _labels(public: Public, origin: Dataset) -> list[int]:
    labels = []
    for wanted in public.classes:
        if isinstance(wanted, int) and 0 <= wanted < len(origin.classes):
            labels.append(wanted)
        elif wanted in origin.classes:
            labels.append(origin.classes.index(str(wanted)))
        else:
            last = len(origin.classes) - 1
            known = nearest(wanted, origin.classes) if isinstance(wanted, str) else f"labels are 0 to {last}"
            raise UserError(f"transfer: {origin.name} has no class {wanted!r}; {known}")
    return labels


def labelled(transfer: str) -> bool:
    """Whether the distilled samples have labels: those of the transfer set, or without one a student's own samples."""
    public = transfer_set(transfer)
    return public is None or public.labelled

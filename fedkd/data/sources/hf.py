"""Image data sets of the Hugging Face hub."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.data.border import seeded_test
from fedkd.data.decoding import decode
from fedkd.data.framing import Framed
from fedkd.data.hub import local_folder, splits
from fedkd.data.source import Prepared, Progress, class_labels
from fedkd.data.stamps import folder_stamp

LONGEST = 100
"""Most characters of a text in a column. Columns with longer texts are left out: every row takes as much memory."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HF(Framed):
    """an image data set of the Hugging Face hub, or a folder: what save_to_disk wrote, parquet files, or images.

    It is loaded through flwr-datasets. Further columns of whole numbers, truth values or short text become
    columns, so that it can be split by writer, site or user; those with gaps or in one split only are left out.
    A folder is looked for as NAME and as $FEDKD_DATA/hf/NAME. A data set of the hub is prepared once and then
    taken as it was: name another `revision` to have a newer one.
    Lhoest et al., "Datasets: a community library for natural language processing", 2021.
    """

    usage = 'hf:NAME(image="image", label="label")'

    argument: str
    """name on the hub, OWNER/NAME, or a folder"""
    image: str = "image"
    """column of the images"""
    label: str = "label"
    """column of the labels: classes, whole numbers or text"""
    subset: str = ""
    """which of its configurations, where it has several"""
    train: str = "train"
    """split for training"""
    test: str = "test"
    """split for testing; "": a seeded sixth of every class of the training split"""
    revision: str = ""
    """branch, tag or commit on the hub"""

    def stamp(self) -> object:
        """The parameters, and the state of the folder."""
        folder = local_folder(self.argument)
        parameters = [self.image, self.label, self.subset, self.train, self.test, self.revision]
        return [parameters, folder_stamp(str(folder)) if folder else self.argument, *self.framed()]

    def prepare(self, progress: Progress) -> Prepared:
        """Load both splits and decode their images."""
        where = f"hf:{self.argument}"
        progress(f"loading {where}", 0, 1)
        names = [self.train, self.test] if self.test else [self.train]
        with splits(self.argument, self.subset, self.revision, names) as parts:
            progress(f"loading {where}", 1, 1)
            tables = [part.with_format("arrow")[:] for part in parts]
            for key, column in (("image", self.image), ("label", self.label)):
                for name, part in zip(names, parts, strict=True):
                    if column not in part.features:
                        has = ", ".join(part.features)
                        raise UserError(f"{where} has no column {column!r} ({key}=…) in split {name}; it has {has}")
            labels, classes = self._labels(tables, parts[0].features[self.label], where)
            images = self._images(tables, parts[0].features[self.image], where, progress)
            further = [name for name in parts[0].features if name not in (self.image, self.label)]
            columns = {name: values for name in further if (values := _column(tables, name)) is not None}
        sizes = [len(table) for table in tables]
        test = np.arange(sum(sizes)) >= sizes[0] if self.test else seeded_test(labels, 1 / 6, where)
        return Prepared(images, 255, labels, classes, test, columns)

    def _images(self, tables: Sequence[Any], feature: Any, where: str, progress: Progress) -> NDArray[np.uint8]:
        if type(feature).__name__ != "Image":
            raise UserError(f"{where}: the column {self.image!r} is {feature}; image=… names a column of images")
        read = _Encoded([table.column(self.image) for table in tables])
        split_tables = zip((self.train, self.test), tables, strict=False)
        names = [f"{split}[{i}]" for split, table in split_tables for i in range(len(table))]
        return decode(names, read, where, progress, self.framing)

    def _labels(self, tables: Sequence[Any], feature: Any, where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        described = f"{where}: the column {self.label!r}"
        values = _column(tables, self.label)
        if values is None:
            raise UserError(
                f"{described} is {feature}, or has gaps; label=… names a column of classes, numbers or text"
            )
        if values.dtype.kind == "U":
            texts, labels = np.unique(values, return_inverse=True)
            return class_labels(labels.astype(np.int64), described), tuple(map(str, texts))
        labels = class_labels(values.astype(np.int64), described)
        classes = tuple(getattr(feature, "names", None) or map(str, range(int(labels.max()) + 1)))
        if len(classes) != labels.max() + 1:
            raise UserError(f"{described} names {len(classes)} classes, but no image has label {labels.max() + 1}")
        return labels, classes


class _Encoded:
    """The encoded images of all splits, by their index in the concatenation of the splits."""

    def __init__(self, columns: Sequence[Any]) -> None:
        chunks = [chunk for column in columns for chunk in column.chunks if len(chunk)]
        self._bytes = [chunk.field("bytes") for chunk in chunks]
        self._paths = [chunk.field("path") for chunk in chunks]
        self._starts = [0, *itertools.accumulate(map(len, chunks))]

    def __call__(self, i: int) -> bytes:
        chunk = bisect.bisect_right(self._starts, i) - 1
        offset = i - self._starts[chunk]
        content: bytes | None = self._bytes[chunk][offset].as_py()
        path = self._paths[chunk][offset].as_py()
        if content is None and path is None:
            raise ValueError("there is no image")
        return Path(path).read_bytes() if content is None else content


def _column(tables: Sequence[Any], name: str) -> NDArray[Any] | None:
    """(n,) whole numbers, truth values or text of all splits; None for anything else and where some are missing."""
    import pyarrow as pa

    if not all(name in table.column_names for table in tables):
        return None
    parts = [table.column(name) for table in tables]
    kinds = {str(part.type) for part in parts}
    if len(kinds) > 1 or any(part.null_count for part in parts):
        return None
    kind = parts[0].type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return np.concatenate([part.to_numpy() for part in parts])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = [value for part in parts for value in part.to_pylist()]
        return np.array(values) if max(map(len, values), default=0) <= LONGEST else None
    return None

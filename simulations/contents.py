"""Hashes of all files that the numbers of a federation depend on, besides its settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedkd.base.files import content_hash, file_cache, located, python_files
from fedkd.base.spec import own_code, specs_in
from fedkd.data import load
from fedkd.models import ARCHITECTURES
from fedkd.settings.federation import Federation
from simulations.splits import partition_files
from simulations.transfer import transfer_set

LENGTH = 16
"""Hexadecimal digits of a hash that are stored: enough to distinguish files, and short enough to read."""


def contents(federation: Federation) -> dict[str, str]:
    """Hash of the content of everything that a federation reads, by the name that the recipe gives it.

    Data sets with labels and columns, that of the transfer set included; checkpoints, folders of models and manifests;
    Python files of the user's own with what they import from beside them, and files that these are given by name.
    What fedkd brings itself stands under `fedkd.numerics`.

    Raises:
        UserError: a file cannot be read.
    """
    hashes = {source: load(source).fingerprint for source in data_sets(federation)}
    hashes |= partition_files(federation.partition)
    for text in _specs(federation):
        hashes |= own_code(text)
    for file in _files(federation):
        hashes[str(file)] = content_hash(located(file))
    return {name: hashes[name][:LENGTH] for name in sorted(hashes)}


def data_sets(federation: Federation) -> list[str]:
    """The sources that a federation reads: its own, and that of the transfer set."""
    public = transfer_set(federation.transfer)
    return [federation.dataset, *([public.source] if public and public.source else [])]


def files(federation: Federation) -> Iterator[Path]:
    """Every file, besides data sets, that a federation reads, as it lies on this machine."""
    for text in (federation.partition, *_specs(federation)):
        for spec in specs_in(text):
            if spec.file:
                yield from python_files(located(spec.file))
    for manifest in partition_files(federation.partition):
        yield located(manifest)
    for file in _files(federation):
        path = located(file)
        yield from (each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _specs(federation: Federation) -> list[str]:
    """The specs that may name files of the user's own, but for the partition."""
    tables = (federation.pretrain.schedule, federation.train.schedule)
    specs = (federation.method, federation.start, federation.channel, *tables, *federation.client_models)
    return list(dict.fromkeys(specs))


def _files(federation: Federation) -> Iterator[Path]:
    for client, model in enumerate(federation.client_models):
        yield from _architecture_files(model, client)
    texts = (federation.method, federation.start, federation.channel, federation.partition, *federation.client_models)
    for text in texts:
        for spec in specs_in(text):
            if spec.file:
                # A user's code may read files that it is given by name, so these are part of the content.
                given = (value for value in spec.arguments.values() if isinstance(value, str))
                yield from (Path(value) for value in given if value and located(value).is_file())
            elif text not in federation.client_models and spec.name in ARCHITECTURES.names:
                yield from _architecture_files(str(spec), 0)


@file_cache(maxsize=1024)
def _architecture_files(model: str, client: int) -> tuple[Path, ...]:
    return ARCHITECTURES.build(model).files(client)

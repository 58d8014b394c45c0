"""Data sets of the Hugging Face hub, or of a folder, through flwr-datasets."""

from __future__ import annotations

import contextlib
import os
import pkgutil
import re
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedkd.base.errors import UserError
from fedkd.base.files import located
from fedkd.data.cache import cache_root
from fedkd.data.published import mirror

TIMEOUT = 10.0
"""Seconds without an answer after which the hub is taken for out of reach."""
REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def local_folder(name: str) -> Path | None:
    """The folder `name`, or $FEDKD_DATA/hf/`name`; None where neither exists: a data set of the hub."""
    below = mirror()
    folders = [located(name)] + ([below / "hf" / name] if below else [])
    return next((folder.absolute() for folder in folders if folder.is_dir()), None)


@contextlib.contextmanager
def splits(name: str, subset: str, revision: str, wanted: Sequence[str]) -> Iterator[list[Any]]:
    """The `wanted` splits of a data set, in the order of their files; they can be read while the context is open.

    No code of a data set is run: scripts are refused by the library, and the names of its own builders, one of
    which unpickles what lies in the working directory, are refused here.

    Raises:
        UserError: it is not there, the hub cannot be reached, a split is missing, or the files cannot be read.
    """
    folder = local_folder(name)
    if folder and (saved := _saved(folder)) is not None:
        for name in wanted:
            if name not in saved:
                raise _no_split(f"hf:{folder}", name, ", ".join(map(repr, saved)))
        yield [saved[name] for name in wanted]
        return
    # As in a simulation: no telemetry unless the user asks for it.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    import datasets
    from flwr_datasets import FederatedDataset

    builders = {module.name for module in pkgutil.iter_modules(datasets.packaged_modules.__path__)}
    if folder is None and (not REPOSITORY.fullmatch(name) or name in builders):
        raise UserError(f"hf:{name} is neither a folder nor the name of a data set, which is OWNER/NAME")
    with contextlib.ExitStack() as stack:
        settings: dict[str, Any] = {}
        problem = None
        if folder is None:
            settings["revision"] = revision or None
            if problem := _unreachable(name):
                stack.enter_context(_offline())
        else:
            # What the library makes of a folder is read once; ours is the cache.
            settings["cache_dir"] = stack.enter_context(_scratch())
        if not sys.stderr.isatty():
            stack.enter_context(_silent())
        dataset = FederatedDataset(
            dataset=str(folder or name), subset=subset or None, partitioners={}, shuffle=False, **settings
        )
        try:
            loaded = [dataset.load_split(split) for split in wanted]
        # The library and the hub's client raise whatever their own libraries do.
        except Exception as error:
            raise _explained(f"hf:{name}", error, problem) from error
        yield loaded


def _saved(folder: Path) -> dict[str, Any] | None:
    """The splits that Dataset.save_to_disk or DatasetDict.save_to_disk wrote; None where the folder is another one."""
    several = (folder / "dataset_dict.json").is_file()
    if not several and not (folder / "state.json").is_file():
        return None
    import datasets

    try:
        loaded: Any = datasets.load_from_disk(str(folder))
    # The library raises whatever its own libraries do.
    except Exception as error:
        raise _explained(f"hf:{folder}", error, None) from error
    return dict(loaded) if several else {str(loaded.split or "train"): loaded}


def _no_split(where: str, name: str, known: str) -> UserError:
    return UserError(
        f'{where} has no split {name!r}; it has {known}: give train=… and test=…, where test="" takes a seeded sixth '
        f"of the training split"
    )


def _explained(where: str, error: Exception, problem: str | None) -> UserError:
    """A UserError of one line, with advice, for an error of the library."""
    message = str(error).strip().split("\n")[0]
    if missing := re.search(r"The given split: '(.*)' is not present in the dataset's splits: '\[(.*)\]'", message):
        return _no_split(where, missing[1], missing[2])
    if problem:
        return UserError(
            f"{where} is not on this machine, and the hub cannot be reached ({problem}). Put its files, parquet or "
            f"images in class folders, into a folder and write hf:FOLDER, or set FEDKD_DATA and put them into "
            f"$FEDKD_DATA/{where.replace(':', '/', 1)}"
        )
    if type(error).__name__ == "DatasetNotFoundError":
        return UserError(f"{where}: the hub has no such public data set; its name is OWNER/NAME")
    return UserError(f"{where} cannot be loaded ({type(error).__name__}: {message})")


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder in the cache that is removed again."""
    parent = cache_root() / "downloads"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=parent)
    except OSError as error:
        raise UserError(
            f"{parent}: cannot be written ({error.strerror}); set FEDKD_CACHE to a folder that can"
        ) from error
    with folder as path:
        yield path


def _unreachable(name: str) -> str | None:
    """Why the hub cannot be reached; None where it can. The library would try for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        address = f"{constants.ENDPOINT}/api/datasets/{name}"
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        return f"{constants.ENDPOINT}: {getattr(reason, 'strerror', None) or reason}"
    return None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """The libraries look into their caches only: without this they try again and again."""
    import datasets
    from huggingface_hub import constants

    modules: tuple[Any, ...] = (datasets.config, constants)
    before = [(module, module.HF_HUB_OFFLINE) for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the library's progress bars, which fill a log."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()

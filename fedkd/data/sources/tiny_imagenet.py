"""A small part of ImageNet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.data.archive import archive_files
from fedkd.data.decoding import decode
from fedkd.data.framing import Framing
from fedkd.data.published import Piece, Published, Remote
from fedkd.data.source import Prepared, Progress

FOLDER = "tiny-imagenet-200"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
ANNOTATIONS = "val/val_annotations.txt"
WORDS = "words.txt"


@dataclass(frozen=True, config=STRICT)
class TinyImageNet(Published):
    """Tiny ImageNet: 110,000 photographs in 200 classes, 64×64 RGB, its validation part for testing; downloaded.

    The folder of 10,000 images without labels is left out. Grey images, of which there are some, are read as RGB.
    Le & Yang, "Tiny ImageNet visual recognition challenge", 2015.
    """

    usage = "tiny_imagenet"

    def pieces(self) -> tuple[Piece, ...]:
        return ((FOLDER, f"{FOLDER}.zip"),)

    def remotes(self) -> tuple[Remote, ...]:
        address = f"http://cs231n.stanford.edu/{FOLDER}.zip"
        return (Remote(f"{FOLDER}.zip", (address,), MD5),)

    def read(self, paths: Sequence[Path], progress: Progress) -> Prepared:
        (root,) = paths
        if root.is_dir():
            names = sorted(path.relative_to(root).as_posix() for path in _files(root))
            return _arranged(names, lambda name: (root / name).read_bytes(), str(root), progress)
        files, _ = archive_files(str(root), lambda name: _is_wanted(str(name).partition("/")[2]), progress)
        packed = {name.partition("/")[2]: content for name, content in files.items()}
        return _arranged(sorted(packed), packed.__getitem__, str(root), progress)


def _is_wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name in (ANNOTATIONS, WORDS) or (
        PurePosixPath(name).suffix == ".JPEG"
        and len(parts) in (3, 4)
        and parts[-2] == "images"
        and parts[0] == ("train" if len(parts) == 4 else "val")
    )


def _files(root: Path) -> list[Path]:
    images = [*root.glob("train/*/images/[!.]*.JPEG"), *root.glob("val/images/[!.]*.JPEG")]
    return images + [root / name for name in (ANNOTATIONS, WORDS) if (root / name).is_file()]


def _arranged(names: Sequence[str], content: Callable[[str], bytes], where: str, progress: Progress) -> Prepared:
    """The data set of the wanted files: the classes are the sorted folders of train/."""
    images = [name for name in names if name.endswith(".JPEG")]
    wnids = sorted({name.split("/")[1] for name in images if name.startswith("train/")})
    if len(wnids) < 2:
        raise UserError(f"{where} holds {len(wnids)} folders train/CLASS/images with .JPEG files; 200 are expected")
    if ANNOTATIONS not in names:
        raise UserError(f"{where} lacks {ANNOTATIONS}, which says what the images of val/images show")
    shown = _pairs(content(ANNOTATIONS), f"{where}: {ANNOTATIONS}")
    position = {wnid: label for label, wnid in enumerate(wnids)}
    labels = []
    for name in images:
        _, folder, *_, file = name.split("/")
        wnid = folder if name.startswith("train/") else shown.get(file)
        if wnid not in position:
            annotation = f"{wnid!r}, of which train/ has no image" if wnid else "nothing"
            raise UserError(f"{where}: {ANNOTATIONS} says {annotation} about {name}")
        labels.append(position[wnid])
    test = np.array([name.startswith("val/") for name in images])
    if not test.any():
        raise UserError(f"{where} holds no image in val/images, which are those for testing")
    words = _pairs(content(WORDS), f"{where}: {WORDS}") if WORDS in names else {}
    pixels = decode(images, lambda i: content(images[i]), where, progress, Framing(mode="RGB", offered=False))
    return Prepared(pixels, 255, np.array(labels, np.int64), _class_names(wnids, words), test)


def _pairs(content: bytes, where: str) -> dict[str, str]:
    """First → second column of lines of columns between tabs."""
    try:
        lines = [line.split("\t") for line in content.decode().splitlines() if line]
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not text ({error}); get it again") from error
    for number, line in enumerate(lines, 1):
        if len(line) < 2:
            raise UserError(f"{where}, line {number} has one column, {line[0]!r}; two are needed, with a tab between")
    return {line[0]: line[1] for line in lines}


def _class_names(wnids: Sequence[str], words: dict[str, str]) -> tuple[str, ...]:
    """The first word for each class; with its number where two classes share it."""
    first = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    shared = Counter(first)
    return tuple(f"{name} ({wnid})" if shared[name] > 1 else name for name, wnid in zip(first, wnids, strict=True))

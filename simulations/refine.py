"""Offline difference sampling of a corpus (Gu et al., arXiv 2410.17215): the best chunks become a new text.

A teacher and a reference score the chunks. A manifest lists the kept chunks and their byte ranges in the corpus, so
that they can be read later without a model or a tokeniser.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from analysis.drawing.histogram import group_names, score_histogram
from analysis.drawing.picture import Panel, Picture, Sheet, draw_sheet
from analysis.drawing.style import looks
from analysis.results.files import replacing
from fedkd.base.disk import write_whole
from fedkd.base.errors import UserError, nearest
from fedkd.base.spec import parse
from fedkd.base.streams import stream
from fedkd.data import Dataset, load
from fedkd.data.sources import LIMIT
from fedkd.data.tokens import decode
from fedkd.difference_sampling import difference
from fedkd.difference_sampling.refinement import Progress, losses, trained
from fedkd.difference_sampling.samplers import ROLES, Score, combined
from fedkd.models import build_model
from fedkd.protocol.client import best_device
from fedkd.settings.training import Optimisation
from fedkd.tensors.ranking import highest
from fedkd.tensors.samples import Data
from partitions.contract import stream as partition_stream
from partitions.holdout import hold_out


@dataclass(frozen=True)
class Refining:
    """The settings of one refinement."""

    corpus: str
    """source string of text"""
    teacher: str = "gpt(layers=4, width=128)"
    reference: str = "gpt(layers=2, width=64, heads=2)"
    keep: float = 0.5
    """α, share of the scored chunks that is kept"""
    score: str = "difference"
    """what is kept: difference, reference, bottom, random or all"""
    noise: float = 0.0
    """share of the chunks that are made noise first"""
    held: float = 0.2
    """share of the chunks that the two models learn from, and that are not scored"""
    epochs: tuple[int, int] = (20, 5)
    """of teacher and reference; 0: the model is good as it is"""
    lr: float = 1e-3
    batch_size: int = 16
    seed: int = 0

    def check(self) -> None:
        """Raise UserError, which names the option, if a value is impossible."""
        if not 0 < self.keep <= 1:
            raise UserError(f"--keep {self.keep}: α is a share above 0 and at most 1, for example 0.5")
        if self.score not in ROLES:
            raise UserError(f"--score {self.score!r} is unknown: {nearest(self.score, ROLES)}")
        if not self.lr > 0:
            raise UserError(f"--lr {self.lr}: a learning rate is above 0, for example 0.001")
        for name, value in (("noise", self.noise), ("held", self.held)):
            if not 0 <= value < 1:
                raise UserError(f"--{name} {value}: it is a share from 0 to below 1")
        if self.trains and not self.held:
            raise UserError(
                "--held 0 leaves teacher and reference nothing to learn from; raise it, or set their epochs to 0"
            )
        if len(self.roles) == 2 and (self.teacher, self.epochs[0]) == (self.reference, self.epochs[1]):
            raise UserError("--teacher and --reference are the same, so that no chunk differs; change one of them")

    @property
    def roles(self) -> dict[str, tuple[str, int]]:
        """(spec, epochs) of each model that the score needs."""
        both = {"teacher": (self.teacher, self.epochs[0]), "reference": (self.reference, self.epochs[1])}
        return {role: both[role] for role in ROLES[cast("Score", self.score)]}

    @property
    def trains(self) -> bool:
        """Whether any of these models is trained on chunks of the corpus."""
        return any(epochs for _, epochs in self.roles.values())


@dataclass(frozen=True)
class Refined:
    """The result of one refinement."""

    manifest: dict[str, Any]
    table: pd.DataFrame
    """one row for each scored chunk: chunk, domain, score, kept, noise"""
    text: bytes
    """the kept chunks, in order"""

    def save(self, folder: Path) -> list[Picture]:
        """Write `manifest.json`, `scores.parquet`, `kept.txt` and the figures."""
        write_whole(folder / "kept.txt", self.text)
        write_whole(folder / "manifest.json", json.dumps(self.manifest, indent=1, ensure_ascii=False).encode())
        with replacing(folder / "scores.parquet") as temporary:
            self.table.to_parquet(temporary, index=False)
        (folder / "figures").mkdir(exist_ok=True)
        source = f"{self.manifest['score']}, {self.manifest['corpus']}"
        columns = ["domain", *(["noise"] if (self.table["noise"] != "").any() else [])]
        styles = looks([name for column in columns for name in group_names(self.table[column])])
        panels: list[Panel] = [
            (f"by {column}", partial(score_histogram, self.table, by=column, styles=styles)) for column in columns
        ]
        caption = "Scores of all chunks, in nats a token; what lies to the right of the dashed line is kept."
        return [draw_sheet(Sheet(f"Scores: {source}", caption, panels, width=4.6), folder / "figures" / "scores")]

    def words(self) -> list[str]:
        """A summary of the kept chunks in a few lines."""
        made = self.manifest
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in made["kept_by_domain"].items())
        lines = [
            f"kept {made['kept']} of {made['scored']} chunks, {len(self.text):,} bytes; from {made['cut']:.4f} nats on",
            f"share kept by domain: {shares}; n-gram diversity {made['ngram_diversity']:.3f}",
        ]
        noise = [f"{kind} {100 * each['dropped']:.0f} % of {each['chunks']}" for kind, each in made["noise"].items()]
        return [*lines, *([f"noise dropped: {', '.join(noise)}"] if noise else [])]


def refine(asked: Refining, progress: Progress) -> Refined:
    """Train or load the models, score every chunk that they have not seen, and keep the best.

    Raises:
        UserError: the corpus is not text, a model cannot take its chunks or its vocabulary, or a value is impossible.
    """
    asked.check()
    clean = load(asked.corpus, progress)
    if not clean.vocabulary:
        raise UserError(f"{asked.corpus} holds images; refine takes text, such as python_text or text:FOLDER")
    dataset = load(_noisy(asked, "both", asked.noise), progress) if asked.noise else clean
    device = best_device()
    for spec, _ in asked.roles.values():  # a wrong model is an error before any training
        build_model(spec, dataset.shape, len(dataset.vocabulary), asked.seed, "check")
    learning, scored = _held(dataset, asked)
    # Real corpora have boilerplate everywhere, so the models train on it too; but not on garbage.
    usual = load(_noisy(asked, "boilerplate", asked.noise / 2), progress) if asked.noise else clean
    public, corpus = (
        Data(*source.pairs(torch.from_numpy(rows))).to(device)
        for source, rows in ((usual, learning), (dataset, scored))
    )
    optimisation = Optimisation("adam", asked.lr, batch_size=asked.batch_size)
    loss_by_role = {}
    for role, (spec, epochs) in asked.roles.items():
        model = trained(
            spec, epochs, public, dataset.shape, len(dataset.vocabulary),
            seed=asked.seed, settings=optimisation, progress=progress,
        )  # fmt: skip
        loss_by_role[role] = losses(model, spec, corpus, progress).cpu()
    scores = combined(cast("Score", asked.score), loss_by_role, len(scored), stream(asked.seed, "refine"))
    if not scores.isfinite().all():
        raise UserError("some scores are not finite: the training of teacher or reference diverged; lower --lr")
    selected = highest(scores, 1.0 if asked.score == "all" else asked.keep).numpy()
    return _described(asked, clean, dataset, scored, scores.numpy(), selected, len(learning))


def _noisy(asked: Refining, kind: str, share: float) -> str:
    """The corpus with noise in it, as a source string."""
    spec = parse(asked.corpus)
    limit = spec.arguments.pop(LIMIT, 0)
    return f"noisy_text(of={str(spec)!r}, share={share}, kind={kind!r}, seed={asked.seed}, limit={limit})"


def _held(dataset: Dataset, asked: Refining) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(chunks that the models learn from, chunks that are scored), as ascending rows of the data set's samples."""
    rows = dataset.train.numpy()
    if not asked.trains:
        return rows[:0], rows
    labels = dataset.labels[dataset.train].numpy()
    held, rest = hold_out(np.arange(len(rows)), asked.held, partition_stream(asked.seed, "refine"), labels)
    if not len(held) or not len(rest):
        raise UserError(f"{asked.corpus}: --held {asked.held} of {len(rows)} chunks leaves nothing on one side")
    return rows[held], rows[rest]


def _described(
    asked: Refining, clean: Dataset, dataset: Dataset, scored: NDArray[np.int64], scores: NDArray[np.float32],
    selected: NDArray[np.int64], learnt: int,
) -> Refined:  # fmt: skip
    noise = dataset.columns.get("noise", np.full(len(dataset.samples), ""))[scored]
    table = pd.DataFrame(
        {
            "chunk": scored,
            "domain": np.array(dataset.classes)[dataset.labels[scored].numpy()],
            "score": scores,
            "kept": np.isin(np.arange(len(scored)), selected),
            "noise": noise,
        }
    )
    text = joined(dataset, scored[selected])
    ranges = byte_ranges(asked.corpus, clean)[scored[selected]]
    domains = dataset.labels[scored[selected]].tolist()
    manifest = {
        "corpus": asked.corpus,
        "fingerprint": clean.fingerprint,
        "length": dataset.shape[0],
        "vocabulary": len(dataset.vocabulary),
        "models": {role: {"spec": spec, "epochs": epochs} for role, (spec, epochs) in asked.roles.items()},
        "score": asked.score,
        "keep": asked.keep,
        "seed": asked.seed,
        "learnt_from": learnt,
        "scored": len(scored),
        "kept": len(selected),
        "kept_by_domain": table.groupby("domain")["kept"].mean().round(4).to_dict(),
        "scores": {name: float(value) for name, value in table["score"].describe().items() if name != "count"},
        "cut": float(scores[selected].min()),
        "ngram_diversity": difference.diversity(dataset.pairs(torch.from_numpy(scored[selected]))[0]),
        "noise": {kind: _shares(rows) for kind, rows in table[table["noise"] != ""].groupby("noise")},
        "domains": list(dataset.classes),
        "chunks": scored[selected].tolist(),
        "ranges": [[domain, *ends] for domain, ends in zip(domains, ranges.tolist(), strict=True)],
        "text_sha256": hashlib.sha256(text).hexdigest(),
    }
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return Refined(manifest, table, text)


def _shares(rows: pd.DataFrame) -> dict[str, float]:
    """Number of chunks with one kind of noise, and the shares of them that were kept and dropped."""
    share = float(rows["kept"].mean())
    return {"chunks": len(rows), "kept": share, "dropped": 1 - share}


def byte_ranges(corpus: str, dataset: Dataset) -> NDArray[np.int64]:
    """(rows, 2) first byte and end of each chunk of a corpus, in the training text of its domain.

    That text is the training parts of the domain's documents, joined in the order of their names; for a single file it
    is the beginning of the file. A chunk ends where the next begins: its last target is the first token of the next.
    """
    spec = parse(corpus)
    whole = load(str(replace(spec, arguments={k: v for k, v in spec.arguments.items() if k != LIMIT})))
    sizes = torch.tensor([len(token) for token in whole.vocabulary])[whole.samples[:, :-1].long()].sum(1).numpy()
    ranges = np.zeros((len(sizes), 2), np.int64)
    for domain in range(len(dataset.classes)):
        rows = whole.train[whole.labels[whole.train] == domain].numpy()
        ends = sizes[rows].cumsum()
        ranges[rows] = np.stack([ends - sizes[rows], ends], 1)
    return ranges


def joined(dataset: Dataset, rows: NDArray[np.int64]) -> bytes:
    """The text of chunks in order, in UTF-8: neighbours are joined, and a new line replaces chunks that are left out.

    Incomplete characters at the ends of a run of chunks are removed.
    """
    chunks, labels = dataset.samples.numpy(), dataset.labels.numpy()
    breaks = [at for at, (a, b) in enumerate(pairwise(rows), 1) if b != a + 1 or labels[a] != labels[b]]
    runs = np.split(rows, breaks)
    texts = [decode(chunks[run, :-1].flatten().astype(np.int64), dataset.vocabulary) for run in runs]
    return b"\n".join(text.decode("utf-8", errors="ignore").encode() for text in texts) + b"\n"

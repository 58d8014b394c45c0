"""`fedkd refine`: what is kept, where its bytes are, noise, figures, and input that cannot be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from numpy.typing import NDArray
from rich.console import Console

from analysis.drawing.histogram import score_histogram
from analysis.figures.loss_keep import loss_against_keep
from analysis.figures.loss_steps import loss_against_steps
from analysis.measures.refinement import keep_levels, steps_curves
from fedkd.base.errors import UserError
from fedkd.data import Dataset, load
from fedkd.data.tokens import decode
from fedkd.difference_sampling.difference import sample_losses
from fedkd.difference_sampling.refinement import trained
from fedkd.models import build_model
from fedkd.models.checkpoint import save_checkpoint
from fedkd.node.node import SERVER, Node
from fedkd.settings.training import Optimisation, Training
from fedkd.tensors.ranking import highest
from fedkd.tensors.samples import Data
from fedkd.training.batch import Fit
from fedkd.training.fit import fit
from simulations.refine import Refined, Refining, byte_ranges, joined, refine
from simulations.stages import PATIENCE, StageProgress
from tests.conftest import Call
from tests.small import own_cache

__all__ = ["own_cache"]

TEACHER, REFERENCE = "gpt(layers=1, width=16, heads=2)", "gpt(layers=1, width=8, heads=2)"
LENGTH = 16


def lines(name: str, number: int) -> str:
    """Text of which no line is there twice, with characters of more than one byte."""
    return "".join(f"{name} né {i} → {i * i}\n" for i in range(number))


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """Two domains, one of two files."""
    for path, text in {
        "laws/a.txt": lines("law", 90),
        "laws/b.txt": lines("rule", 60),
        "tales/c.txt": lines("tale", 120),
    }.items():
        (tmp_path / "corpus" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / path).write_text(text, encoding="utf-8")
    return f"text:{tmp_path / 'corpus'}(length={LENGTH})"


def asked(corpus: str, **settings: Any) -> Refining:
    """Small models, quickly trained."""
    plain: dict[str, Any] = {"teacher": TEACHER, "reference": REFERENCE, "epochs": (2, 1), "lr": 0.01}
    return Refining(corpus, **(plain | settings))


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


def refined(corpus: str, **settings: Any) -> Refined:
    """The corpus, refined."""
    return refine(asked(corpus, **settings), silent)


class TestKept:
    def test_they_are_the_top_of_an_independent_computation(self, corpus: str) -> None:
        found, dataset = refined(corpus, keep=0.3), load(corpus)
        rows = torch.tensor(found.table["chunk"].to_numpy())
        public = Data(*dataset.pairs(torch.tensor(sorted(set(dataset.train.tolist()) - set(rows.tolist())))))
        each = {}
        for spec, epochs in ((TEACHER, 2), (REFERENCE, 1)):
            model = build_model(spec, (LENGTH,), 256, 0, "init/public")
            node = Node(SERVER, 1, 0, Training("adam", 0.01, batch_size=16), 256, public, models={"student": model})
            steps = -(-len(public) // 16)
            for epoch in range(epochs):
                fit(
                    node,
                    Fit(
                        lambda b: torch.nn.functional.cross_entropy(b.labelled, b.labels),
                        steps=steps,
                        first=epoch * steps,
                    ),
                )
            each[spec] = sample_losses(model, Data(*dataset.pairs(rows)))
        scores = each[REFERENCE] - each[TEACHER]
        assert np.allclose(found.table["score"], scores, atol=1e-5)
        assert found.manifest["chunks"] == rows[highest(scores, 0.3)].tolist()
        assert found.table["kept"].sum() == len(found.manifest["chunks"]) == int(0.3 * len(rows))

    def test_nothing_that_the_models_have_learnt_from_is_scored_and_no_test_chunk(self, corpus: str) -> None:
        found, dataset = refined(corpus, held=0.4), load(corpus)
        assert set(found.table["chunk"]) <= set(dataset.train.tolist())
        assert len(found.table) + found.manifest["learnt_from"] == len(dataset.train)
        assert found.manifest["learnt_from"] == pytest.approx(0.4 * len(dataset.train), abs=2)

    def test_the_same_again_is_the_same_and_another_seed_is_not(self, corpus: str) -> None:
        assert refined(corpus).manifest == refined(corpus).manifest
        assert refined(corpus).manifest["chunks"] != refined(corpus, seed=1).manifest["chunks"]

    def test_loaded_models_score_everything(self, corpus: str, tmp_path: Path) -> None:
        for name, spec in (("good", TEACHER), ("poor", REFERENCE)):
            save_checkpoint(
                tmp_path / f"{name}.safetensors", spec, build_model(spec, (LENGTH,), 256, 0, name), (LENGTH,), 256
            )
        models = {
            role: f"checkpoint:{tmp_path}/{name}.safetensors"
            for role, name in (("teacher", "good"), ("reference", "poor"))
        }
        found = refined(corpus, epochs=(0, 0), **models)
        assert sorted(found.table["chunk"]) == load(corpus).train.tolist()
        assert found.manifest["learnt_from"] == 0


class TestBytes:
    def test_ranges_are_where_the_chunks_are_in_the_files(self, corpus: str, tmp_path: Path) -> None:
        dataset, ranges = load(corpus), byte_ranges(corpus, load(corpus))
        text = (tmp_path / "corpus" / "tales" / "c.txt").read_bytes()
        for row in dataset.train.tolist():
            if dataset.classes[int(dataset.labels[row])] == "tales":
                start, end = ranges[row]
                assert text[start:end] == decode(dataset.samples[row, :-1].long().numpy(), dataset.vocabulary)

    @pytest.mark.parametrize("vocabulary", [256, 300])
    def test_they_tile_the_text_whatever_a_token_is(self, corpus: str, vocabulary: int) -> None:
        source = corpus.replace(")", f", vocabulary={vocabulary})")
        dataset, ranges = load(source), byte_ranges(source, load(source))
        for domain in range(2):
            own = ranges[dataset.train[dataset.labels[dataset.train] == domain].numpy()]
            assert own[0, 0] == 0
            assert (own[1:, 0] == own[:-1, 1]).all()
        limited = source.replace(")", ", limit=40)")
        assert (byte_ranges(limited, load(limited)) == ranges).all()

    def test_the_kept_text_is_those_bytes(self, corpus: str) -> None:
        found = refined(corpus)
        assert hashlib.sha256(found.text).hexdigest() == found.manifest["text_sha256"]
        sizes = [end - start for _, start, end in found.manifest["ranges"]]
        assert len(found.text) <= sum(sizes) + len(sizes)
        assert len(found.text) > 0.9 * sum(sizes)
        found.text.decode("utf-8")

    def test_neighbours_are_joined_and_gaps_are_lines(self, corpus: str) -> None:
        dataset = load(corpus)
        rows = dataset.train[:6].numpy()
        whole = decode(dataset.samples[torch.tensor(rows), :-1].flatten().long().numpy(), dataset.vocabulary)
        assert joined(dataset, rows) == whole.decode(errors="ignore").encode() + b"\n"
        parts = joined(dataset, rows[[0, 1, 4, 5]])
        assert parts.startswith(whole[: 2 * LENGTH].decode(errors="ignore").encode() + b"\n")

    def test_a_student_with_another_tokeniser_learns_from_it(self, corpus: str, tmp_path: Path) -> None:
        refined(corpus).save(tmp_path / "out")
        student = load(f"text:{tmp_path / 'out' / 'kept.txt'}(vocabulary=280, length=12)")
        public = Data(*student.pairs(student.train))
        adam = Optimisation("adam", 0.01, batch_size=16)
        before, after = (
            float(
                sample_losses(
                    trained("gru(width=16)", epochs, public, (12,), 280, seed=0, settings=adam), public
                ).mean()
            )
            for epochs in (0, 4)
        )
        assert after < before - 1


class TestNoise:
    def test_it_is_a_share_of_the_training_chunks(self, corpus: str) -> None:
        clean, noisy = load(corpus), load(f"noisy_text(of={corpus!r}, share=0.4)")
        changed = (clean.samples != noisy.samples).any(1)
        assert not changed[clean.test].any()
        noise = noisy.columns["noise"]
        assert ((noise == "shuffled") | (noise == "boilerplate")).sum() == round(0.4 * len(clean.train))
        assert abs((noise == "shuffled").sum() - (noise == "boilerplate").sum()) <= 1
        assert not changed[noise == ""].any()
        assert torch.equal(*(each.samples[noise == "shuffled"].sort(1).values for each in (clean, noisy)))
        boilerplate = noisy.samples[noise == "boilerplate"]
        assert (boilerplate == boilerplate[0]).all()

    def test_even_and_odd_chunks_are_two_texts(self, corpus: str) -> None:
        whole, even, odd = (
            load(corpus),
            *(load(f"noisy_text(of={corpus!r}, share=0.0, chunks={c!r})") for c in ("even", "odd")),
        )
        assert len(even.train) + len(odd.train) == len(whole.train)
        together = torch.cat([even.samples[even.train], odd.samples[odd.train]])
        assert sorted(together.tolist()) == sorted(whole.samples[whole.train].tolist())
        for part in (even, odd):
            assert torch.equal(part.samples[part.test], whole.samples[whole.test])

    def test_boilerplate_is_the_same_for_all_who_hold_parts_of_the_text(self, corpus: str) -> None:
        parts = [load(f"noisy_text(of={corpus!r}, kind='boilerplate', chunks={c!r})") for c in ("even", "odd")]
        met = [part.samples[part.columns["noise"] == "boilerplate"][0] for part in parts]
        assert torch.equal(*met)
        other = load(f"noisy_text(of={corpus!r}, kind='boilerplate', seed=1)")
        assert not torch.equal(met[0], other.samples[other.columns["noise"] == "boilerplate"][0])

    def test_what_became_of_it_is_told(self, corpus: str) -> None:
        found = refined(corpus, noise=0.3, score="random", keep=0.25)
        for kind, rows in found.table[found.table["noise"] != ""].groupby("noise"):
            told = found.manifest["noise"][kind]
            assert told["chunks"] == len(rows)
            assert told["kept"] == pytest.approx(rows["kept"].mean())
            assert told["kept"] + told["dropped"] == pytest.approx(1)
        assert set(found.manifest["noise"]) == {"shuffled", "boilerplate"}

    @pytest.mark.parametrize(
        ("spec", "said"),
        [("noisy_text(of='digits')", "images"), ("noisy_text(of='python_text(limit=9)')", "limit")],
    )
    def test_what_cannot_be_spoilt_is_told(self, spec: str, said: str) -> None:
        with pytest.raises(UserError, match=said):
            load(spec)


SMALL = ["--teacher", TEACHER, "--reference", REFERENCE, "--teacher-epochs", 2, "--reference-epochs", 1]


class TestCommand:
    def test_it_writes_what_it_promises(self, call: Call, corpus: str, tmp_path: Path) -> None:
        ended = call("refine", corpus, "--out", "out", "--keep", 0.3, "--noise", 0.2, *SMALL)
        assert (ended.code, ended.err) == (0, "")
        folder = tmp_path / "out"
        manifest, table = json.loads((folder / "manifest.json").read_text()), pd.read_parquet(folder / "scores.parquet")
        assert list(table.columns) == ["chunk", "domain", "score", "kept", "noise"]
        assert table.loc[table["kept"], "chunk"].tolist() == manifest["chunks"]
        assert len(manifest["ranges"]) == len(manifest["chunks"]) == manifest["kept"]
        assert hashlib.sha256((folder / "kept.txt").read_bytes()).hexdigest() == manifest["text_sha256"]
        assert {file.name for file in (folder / "figures").iterdir()} == {"scores.svg", "scores.png"}
        assert "noise dropped" in ended.out
        checked = {key: value for key, value in manifest.items() if key != "sha256"}
        assert hashlib.sha256(json.dumps(checked, sort_keys=True).encode()).hexdigest() == manifest["sha256"]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["digits"], "holds images"),
            (["text:nowhere.txt"], "nowhere.txt"),
            (["CORPUS", "--keep", 0], "--keep 0.0"),
            (["CORPUS", "--keep", 1.2], "--keep 1.2"),
            (["CORPUS", "--noise", 1], "--noise 1.0"),
            (["CORPUS", "--held", 0], "--held 0"),
            (["CORPUS", "--lr", 0], "--lr 0.0"),
            (["CORPUS", "--score", "best"], "'best' is unknown"),
            (["CORPUS", "--teacher", REFERENCE, "--teacher-epochs", 1], "the same"),
            (["CORPUS", "--teacher", "mlp"], "takes images"),
            (["CORPUS", "--teacher", "gpt(context=8)"], "context=8"),
            (["CORPUS", "--reference", "checkpoint:other.safetensors"], "280"),
        ],
    )
    def test_bad_input_is_one_message(self, call: Call, corpus: str, arguments: list[Any], said: str) -> None:
        other = build_model(REFERENCE, (LENGTH,), 280, 0, "other")
        save_checkpoint(Path("other.safetensors"), REFERENCE, other, (LENGTH,), 280)
        given = [corpus if each == "CORPUS" else each for each in arguments]
        ended = call("refine", given[0], "--out", "out", *SMALL, *given[1:])
        assert ended.code == 2
        assert said in ended.err
        assert ended.err.count("\n") == 1
        assert not Path("out").exists()

    @pytest.mark.parametrize(("content", "said"), [(b"", "empty"), (b"\0\1", "not text"), (b"\xff\xfe", "not text")])
    def test_a_corpus_that_is_no_text_is_told(self, call: Call, content: bytes, said: str) -> None:
        Path("corpus.txt").write_bytes(content)
        ended = call("refine", "text:corpus.txt", "--out", "out")
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert said in ended.err


def test_progress_tells_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr("simulations.stages.time.monotonic", lambda: now)
    progress = StageProgress(Console(width=120))
    for done in range(5):
        progress("training gpt", done, 5)
        now += 0.75 * PATIENCE
    told = capsys.readouterr().out.splitlines()
    assert told == ["training gpt: 2 of 5, about 4 s left", "training gpt: 4 of 5, about 2 s left"]


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def results(losses: dict[str, list[float]]) -> pd.DataFrame:
    """Three seeds of two clients, each 0.1 above the last; ten steps a round, the start has none."""
    rows = []
    for method, values in losses.items():
        for seed in (0, 1, 2):
            for number, value in enumerate(values):
                for client in (0, 1):
                    common = {"federation": f"{method} {seed}", "dataset": "d", "partition": "iid", "method": method,
                              "seed": seed, "round": number, "client": client}  # fmt: skip
                    rows.append(common | {"split": "test", "metric": "bits_per_byte", "value": value + 0.1 * seed})
                    rows.append(common | {"split": "", "metric": "steps", "value": 10.0 * (number > 0)})
    return pd.DataFrame(rows)


def lines_of(ax: Axes) -> dict[str, NDArray[np.float64]]:
    """(points, 2) of every line with bars, by its label."""
    drawn = [each for each in ax.containers if isinstance(each, ErrorbarContainer)]
    return {str(each.get_label()): np.asarray(each.lines[0].get_xydata()) for each in drawn}


class TestFigures:
    def test_curves_count_steps_and_average_over_seeds(self, ax: Axes) -> None:
        curves = steps_curves(results({"local": [8, 4, 3], "miniplm": [8, 3, 2]}))
        mine = curves[curves["method"] == "miniplm"]
        assert mine["steps"].tolist() == [0, 10, 20]
        assert mine["mean"].tolist() == pytest.approx([8.1, 3.1, 2.1])
        assert (mine["low"] < mine["mean"]).all()
        assert loss_against_steps(curves, ax) is ax
        assert set(lines_of(ax)) == {"local", "miniplm"}
        assert lines_of(ax)["miniplm"] == pytest.approx(np.array([[10, 3.1], [20, 2.1]]))

    def test_levels_are_found_in_the_spec_and_lone_ones_are_left_out(self, ax: Axes) -> None:
        specs = {"miniplm(keep=0.5, score='random')": [8, 3.0], "miniplm(score='random', keep=0.25)": [8, 3.5],
                 "miniplm(keep=0.5)": [8, 2.0], "local": [8, 4.0]}  # fmt: skip
        levels = keep_levels(steps_curves(results(specs)))
        assert levels["method"].unique().tolist() == ["miniplm(score='random')"]
        assert levels["keep"].tolist() == [0.25, 0.5]
        assert levels["mean"].tolist() == pytest.approx([3.6, 3.1])
        assert loss_against_keep(levels, ax) is ax
        assert lines_of(ax)["miniplm(score='random')"][:, 0].tolist() == [0.25, 0.5]

    def test_histograms_hold_every_chunk_and_say_what_was_kept(self, ax: Axes) -> None:
        rows = pd.DataFrame(
            {"score": np.linspace(-1, 1, 200), "kept": np.arange(200) >= 120, "noise": ["", "shuffled"] * 100}
        )
        assert score_histogram(rows, ax, by="noise") is ax
        steps = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
        assert sum(step.get_data()[0].sum() for step in steps) == 200
        assert [step.get_label() for step in steps] == ["clean (40 % kept)", "shuffled (40 % kept)"]
        assert np.asarray(ax.lines[0].get_xdata())[0] == pytest.approx(rows["score"][120])


def test_the_dataset_is_text(corpus: str) -> None:
    assert isinstance(load(corpus), Dataset)
    assert load(corpus).classes == ("laws", "tales")

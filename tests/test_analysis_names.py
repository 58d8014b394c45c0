"""Names that a recipe gives to its arms: all that a reader sees has them, and no number knows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import analysis.figures
from analysis import load, read_study
from analysis.figure import Block
from analysis.figures import draw_figures
from analysis.measures.compare import compare
from analysis.measures.summary import Summary
from analysis.page.captions import caption
from analysis.page.short import in_short
from analysis.page.wording import PARTS, markdown, text_tables
from analysis.report import make_report
from analysis.results.names import Names, base_name
from tests.test_analysis_synthetic import Planted

WARM = "kd(temperature=2.0)"
NAMES = {"method": {WARM: "warm", "local": "alone"}, "partition": {"dirichlet(alpha=0.1)": "skewed"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a study with names."""
    planted = Planted(
        methods=("local", WARM, "dml"),
        partitions=("iid", "dirichlet(alpha=0.1)"),
        seeds=range(5),
        rounds=2,
        clients=2,
        gain={"local": 0.02, WARM: 0.05, "dml": -0.05},
    )
    folder = planted.write(tmp_path_factory.mktemp("named"))
    study = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**study, "names": NAMES}))
    return folder


@pytest.fixture(scope="module")
def summary(folder: Path) -> Summary:
    """The comparison, with names."""
    return compare(load(folder), study=read_study(folder))


def test_names_change_no_number(folder: Path, summary: Summary) -> None:
    study = {key: value for key, value in read_study(folder).items() if key != "names"}
    plain = compare(load(folder), study=study).rows
    # Only the words of a verdict name the baseline.
    same = [name for name in plain.columns if name != "verdict"]
    pd.testing.assert_frame_equal(summary.rows[same], plain[same])


def test_tables_warnings_and_sentences_show_names(summary: Summary) -> None:
    text = markdown(summary) + "".join(map(str, in_short(summary))) + caption(summary)
    for spec in (WARM, "dirichlet", "local"):
        assert spec not in text, spec
    for name in ("warm", "alone", "skewed", "vs alone", "Below the start (digits, skewed)"):
        assert name in text
    for part in PARTS:
        for table in text_tables(summary, part):
            assert {row[1].split(" [")[0] for row in table.rows} == {"alone", "warm", "dml"}


def test_a_verdict_against_a_named_baseline_calls_it_by_its_name(summary: Summary) -> None:
    rows = summary.rows.set_index(["partition", "method"])
    assert rows.loc[("iid", "dml"), "start_verdict"] == "worse"
    assert not rows["verdict"].str.contains("local").any()


def test_legends_axes_and_panels_show_names(folder: Path, summary: Summary, tmp_path: Path) -> None:
    (_, block), *_ = summary.blocks()
    pictures = draw_figures(Block(load(folder), block, "digits", ["local", WARM, "dml"]), tmp_path)
    texts = {picture.svg.stem: picture.svg.read_text(encoding="utf-8") for picture in pictures}
    for name in ("accuracy-rounds", "accuracy-bytes", "gain", "knowledge", "ranks"):
        assert "<!-- warm" in texts[name]
        assert "<!-- alone" in texts[name]
        assert "temperature" not in texts[name]
    assert "<!-- skewed -->" in texts["gain"]


def test_the_report_keeps_the_spec_behind_the_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(analysis.figures, "__path__", [str(tmp_path)])
    page = make_report(folder).read_text(encoding="utf-8")
    assert f"<dt>warm</dt><dd>method = {WARM}</dd>" in page
    rows = pd.read_csv(folder / "summary.csv")
    assert dict(zip(rows["method"], rows["method_name"], strict=True)) == {"local": "alone", WARM: "warm", "dml": "dml"}
    assert set(rows["partition_name"]) == {"iid", "skewed"}


@pytest.mark.parametrize("study", [{}, {"names": None}, {"names": []}, {"names": {"method": "kd"}}])
def test_a_study_without_names_shows_its_values(study: dict[str, Any]) -> None:
    names = Names.of_study(study)
    assert names.of("method", WARM) == WARM
    assert names.of("rounds", 3) == "3"


def test_the_name_of_a_spec_is_what_stands_before_its_parameters() -> None:
    assert [base_name(spec) for spec in (WARM, "kd", "mine.py:mine(a=1)")] == ["kd", "kd", "mine.py:mine"]

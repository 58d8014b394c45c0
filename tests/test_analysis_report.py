"""The report: complete, self-contained, and the same for the same results."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import ResultsError, read_study
from analysis.drawing.picture import draw_sheet
from analysis.figure import Block
from analysis.figures.partitions import Partitions
from analysis.measures.starts import Starts
from analysis.measures.summary import Summary
from analysis.page.html import breakable
from analysis.report import make_report
from tests.test_analysis_synthetic import Planted

EVIL = "<script>alert('x')</script>&\"kd\"_$x^2$"
FIGURES = ["accuracy-bytes", "accuracy-rounds", "gain", "knowledge", "partitions", "tuning"]
SMALL: dict[str, Any] = {"rounds": 3, "clients": 2}


class Page(HTMLParser):
    """Tags, addresses and visible text of a page; raises where tags do not match."""

    void = ("meta", "img", "br", "link", "input", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    planted = Planted(**SMALL, methods=("local", "tuned_kd", "dml", EVIL), partitions=("iid", f"skew({EVIL})"))
    planted.write(folder)
    assert make_report(folder) == folder / "report.html"
    return folder


def test_everything_is_written_and_nothing_else(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "figures",
        "journal",
        "report.html",
        "rounds.parquet",
        "study.json",
        "summary.csv",
    ]
    expected = [f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == expected
    for path in (folder / "figures").iterdir():
        assert path.read_bytes()[:8] == (b"\x89PNG\r\n\x1a\n" if path.suffix == ".png" else b"<?xml ve")
        assert path.stat().st_size > 5000


def test_the_page_fetches_and_runs_nothing(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert len(page.addresses) == len(FIGURES)
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert not re.search(r"url\(|@import", text)


def test_the_page_escapes_what_files_say(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert "<script" not in text
    page = Page(text)
    assert EVIL in page.text
    assert f"skew({EVIL})" in page.text


def test_the_page_says_what_a_reader_must_know(folder: Path) -> None:
    text = Page((folder / "report.html").read_text()).text
    for saying in (
        "fedkd report: digits",
        "3 seeds",
        "24 of 24 federations finished",
        "95 % Student-t interval over seeds",
        "Validation is local",
        "paired difference on the same seeds",
        "corrected by Holm over all methods",
        "Frozen teachers",
        "Kaplan-Meier",
        "0123abc",
        "2.9.1",
        "seeds0, 1, 2",
        "label entropy",
        read_study(folder)["partitions"][0]["sha256"],
    ):
        assert saying in text, saying


def test_no_table_is_wider_than_a_page_and_what_scrolls_shows_it(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    # A sheet of A4 across, or 1400 pixels, holds fourteen columns of numbers beside the method.
    for table in re.findall(r"<thead>(.*?)</thead>", text, re.DOTALL):
        assert table.count("<th") <= 15
    style = text.split("<style>")[1].split("</style>")[0]
    assert "overflow-x: auto" in style
    assert "no-repeat local" in style, "a shadow at the edge is the hint that there is more"
    printed = style.split("@media print")[1]
    assert "overflow: visible" in printed
    assert "A4 landscape" in style


def test_a_spec_breaks_behind_its_signs_only() -> None:
    text = breakable("long_name.py:cool(w=[0.1, 0.5], x='<i>')")
    assert text.replace("<wbr>", "") == "long_name.py:cool(w=[0.1, 0.5], x=&#x27;&lt;i&gt;&#x27;)"
    assert "long_<wbr>name.<wbr>py:<wbr>cool(<wbr>w=[<wbr>0.1, 0.5]" in text


def test_many_classes_and_clients_are_a_map_that_can_be_read(tmp_path: Path) -> None:
    summary = Summary(pd.DataFrame(), pd.DataFrame(), (), "local", 0.95, None, Starts(0, 0.0, 0))
    rng = np.random.default_rng(0)
    for classes, clients in ((100, 50), (10, 50), (10, 10)):
        counts = rng.dirichlet(np.full(clients, 0.3), classes).T * 100
        entry = {"dataset": "many", "partition": "skew", "seed": 0, "counts": counts.astype(int).tolist()}
        entry["classes"] = [f"class {place}" for place in range(classes)]
        (sheet,) = Partitions().sheets(Block(pd.DataFrame(), summary, splits=[entry]))
        drawn = draw_sheet(sheet, tmp_path / "partitions")
        text = drawn.svg.read_text()
        # Ten classes are bars with a legend; more are a map with a scale.
        assert ("<!-- class 3 -->" in text) == (classes == 10)
        # Inches that a client and a class have.
        assert drawn.inches / clients > 0.1


def test_summary_csv_reads_back(folder: Path) -> None:
    rows = pd.read_csv(folder / "summary.csv")
    assert len(rows) == 8
    assert {"accuracy", "delta_low", "verdict", "rounds_to_target"} <= set(rows.columns)
    assert rows["rounds_to_target"].astype(str).str.contains(">3").any()


def test_the_same_results_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    before = files(folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder / "journal", copy / "journal")
    shutil.copy(folder / "study.json", copy)
    make_report(copy)
    after = files(copy)
    assert [name for name in before if before[name] != after.get(name)] == []
    assert set(before) == set(after)


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({"methods": ("kd",), "partitions": ("iid",), "seeds": (0,)}, 4),
        ({"methods": ("local",), "partitions": ("iid",), "seeds": (7,), "rounds": 1, "clients": 1}, 4),
        ({"methods": ("tuned_kd(grid='small')",), "partitions": ("iid",), "seeds": (0,)}, 5),
        ({"methods": ("kd", "dml"), "partitions": ("iid",), "seeds": (0, 1), "cut": {"f0001": 1}}, 4),
        ({"methods": ("kd", "dml"), "partitions": ("iid",), "seeds": (0,), "cut": {"f0000": 1, "f0001": 0}}, 2),
    ],
)
def test_small_studies_without_study_json_report_too(tmp_path: Path, changes: dict[str, Any], drawn: int) -> None:
    Planted(**{**SMALL, **changes}).write(tmp_path, study=False)
    page = Page(make_report(tmp_path).read_text())
    assert len(page.addresses) == drawn
    assert "There is no study.json" in page.text
    if "cut" in changes:
        assert f"{len(changes['cut'])} of" in page.text
        assert "unfinished and left out" in page.text


def test_a_study_without_partitions_or_with_broken_ones_reports_too(tmp_path: Path) -> None:
    Planted(**SMALL, methods=("kd",), partitions=("iid",), seeds=(0,)).write(tmp_path)
    study = read_study(tmp_path)
    for partitions in ([], None, [{"dataset": "digits", "partition": "iid", "seed": 0}]):
        (tmp_path / "study.json").write_text(json.dumps({**study, "partitions": partitions}))
        assert "Who holds what" not in make_report(tmp_path).read_text()


def test_labelled_and_unlabelled_never_share_a_panel(tmp_path: Path) -> None:
    for labelled in ("", ", labelled=true"):
        settings = {"transfer": f"public(fraction=0.2{labelled})"}
        planted = Planted(**SMALL, methods=("local", "kd"), partitions=("iid",), settings=settings)
        planted.write(tmp_path, study=False)
    make_report(tmp_path)
    names = [path.name for path in (tmp_path / "figures").glob("accuracy-rounds*.svg")]
    assert len(names) == 2
    assert sum("labelled" in name for name in names) == 1


def test_blocks_without_a_finished_federation_keep_their_own_curves(tmp_path: Path) -> None:
    for models, cut in (("cnn", {}), ("mlp", {"f0002": 1, "f0003": 2})):
        planted = Planted(
            **SMALL, methods=("kd",), partitions=("iid",), seeds=(0, 1), settings={"models": models}, cut=cut
        )
        planted.write(tmp_path, study=False)
    page = Page(make_report(tmp_path).read_text())
    assert "No federation of this block has finished" in page.text
    assert len(list((tmp_path / "figures").glob("accuracy-rounds*.svg"))) == 2
    assert len(list((tmp_path / "figures").glob("gain*.svg"))) == 1


def test_common_validation_is_named_in_every_caption(tmp_path: Path) -> None:
    Planted(**SMALL, methods=("local", "kd"), partitions=("iid",), settings={"val": "common"}).write(tmp_path)
    text = make_report(tmp_path).read_text()
    captions = re.findall(r"<figcaption>.*?</figcaption>", text)
    assert len(captions) == 5
    assert all("common, uniform validation set" in caption for caption in captions[1:])


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="nothing has been run"):
        make_report(tmp_path)
    Planted(**SMALL, methods=("kd",), partitions=("iid",), seeds=(0,)).write(tmp_path)
    path = tmp_path / "journal" / "f0000.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    with pytest.raises(ResultsError, match="no federation has finished a round yet"):
        make_report(tmp_path)


def test_the_target_and_the_baseline_can_be_asked_for(tmp_path: Path) -> None:
    Planted(**SMALL, methods=("kd", "dml"), partitions=("iid",)).write(tmp_path)
    text = Page(make_report(tmp_path, target=0.5, baseline="kd").read_text()).text
    assert "vs kd" in text
    assert "Target: 50.0 %" in text

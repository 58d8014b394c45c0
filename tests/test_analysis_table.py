"""A results folder becomes one tidy table, whatever a killed process left behind."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from analysis import ResultsError, finished, load, read_study, rebuild
from analysis.results.table import up_to_date
from tests.test_analysis_synthetic import Planted

CONTRACT = ["federation", "dataset", "partition", "method", "seed", "round", "client", "split", "metric", "value"]
SMALL: dict[str, Any] = {"methods": ("local", "kd"), "partitions": ("iid",), "seeds": (0, 1), "rounds": 2, "clients": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Planted(**SMALL).write(tmp_path / "results")


def journal(folder: Path, name: str = "f0000") -> Path:
    return folder / "journal" / f"{name}.jsonl"


def test_columns_and_kinds_are_the_contract(folder: Path) -> None:
    table = load(folder)
    assert list(table.columns) == CONTRACT
    assert [str(kind.kind) for kind in table[["seed", "round", "client", "value"]].dtypes] == ["i", "i", "i", "f"]
    assert table.attrs["rounds"] == {f"f000{place}": 2 for place in range(4)}
    row = table[
        (table["client"] == 1) & (table["metric"] == "loss") & (table["split"] == "val") & (table["round"] == 2)
    ]
    assert len(row) == 4


def test_parquet_holds_what_the_journals_hold(folder: Path) -> None:
    from_journals = load(folder)
    assert rebuild(folder) == folder / "rounds.parquet"
    assert up_to_date(folder)
    from_parquet = load(folder)
    assert_frame_equal(from_journals, from_parquet)
    assert from_parquet.attrs == from_journals.attrs


def test_rebuilding_gives_the_same_bytes_wherever_the_folder_is(folder: Path, tmp_path: Path) -> None:
    first = rebuild(folder).read_bytes()
    again = rebuild(folder).read_bytes()
    elsewhere = rebuild(Path(shutil.copytree(folder, tmp_path / "copy"))).read_bytes()
    assert first == again == elsewhere
    assert not list(folder.glob(".*"))


def test_rows_are_sorted_whatever_order_they_were_written_in(folder: Path) -> None:
    before = load(folder)
    lines = [json.loads(line) for line in journal(folder).read_text().splitlines()]
    for line in lines[1:]:
        line["rows"].reverse()
    journal(folder).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert_frame_equal(before, load(folder))


@pytest.mark.parametrize("age", [+60, -60])
def test_a_journal_that_went_on_makes_the_parquet_stale(folder: Path, age: int) -> None:
    lines = journal(folder).read_text().splitlines(keepends=True)
    journal(folder).write_text("".join(lines[:-1]))
    parquet = rebuild(folder)
    assert load(folder).query("federation == 'f0000'")["round"].max() == 1
    journal(folder).write_text("".join(lines))
    # Even where a copy gave the longer journal an older time.
    time = parquet.stat().st_mtime + age
    os.utime(journal(folder), (time, time))
    assert not up_to_date(folder)
    assert load(folder).query("federation == 'f0000'")["round"].max() == 2


def test_a_newer_journal_alone_makes_the_parquet_stale(folder: Path) -> None:
    time = rebuild(folder).stat().st_mtime + 60
    os.utime(journal(folder), (time, time))
    assert not up_to_date(folder)


def test_a_parquet_without_journals_is_enough(folder: Path) -> None:
    table = load(folder)
    rebuild(folder)
    shutil.rmtree(folder / "journal")
    assert_frame_equal(table, load(folder))


@pytest.mark.parametrize("torn", [b'{"round": 3, "rows": [[0, "te', b"\0\0\0\0", b'{"round": 3, "rows": [[0, "\xc3'])
def test_a_torn_last_line_is_ignored(folder: Path, torn: bytes) -> None:
    before = load(folder)
    with journal(folder).open("ab") as file:
        file.write(torn)
    assert_frame_equal(before, load(folder))


@pytest.mark.parametrize("start", [b"", b'{"federation": "f00'])
def test_a_journal_killed_before_its_header_holds_nothing(folder: Path, start: bytes) -> None:
    before = load(folder)
    journal(folder, "f0009").write_bytes(start)
    assert_frame_equal(before, load(folder))


def test_a_header_alone_counts_as_unfinished(folder: Path) -> None:
    lines = journal(folder).read_text().splitlines(keepends=True)
    journal(folder).write_text(lines[0])
    table = load(folder)
    assert "f0000" not in set(table["federation"])
    assert table.attrs["rounds"]["f0000"] == 2


def test_only_headers_give_an_empty_table_with_its_columns(tmp_path: Path) -> None:
    folder = Planted(**{**SMALL, "seeds": (0,)}).write(tmp_path)
    for path in (folder / "journal").iterdir():
        path.write_text(path.read_text().splitlines(keepends=True)[0])
    rebuild(folder)
    assert load(folder).empty
    assert list(load(folder).columns) == CONTRACT


def test_finished_leaves_out_what_was_interrupted(tmp_path: Path) -> None:
    table = load(Planted(**SMALL, cut={"f0001": 1}).write(tmp_path))
    assert set(table["federation"]) - set(finished(table)["federation"]) == {"f0001"}
    table.attrs = {}
    assert set(table["federation"]) - set(finished(table)["federation"]) == {"f0001"}


def test_shorter_studies_in_one_folder_are_finished_too(tmp_path: Path) -> None:
    for rounds in (1, 2):
        Planted(**{**SMALL, "rounds": rounds}).write(tmp_path, study=False)
    table = load(tmp_path)
    table.attrs = {}
    assert finished(table)["federation"].nunique() == 8


def replace_line(path: Path, number: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[number] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (2, '{"round": 1, "ro', "line 3: should be round 1"),
        (2, "", "line 3: should be round 1"),
        (2, '{"round": 2, "rows": []}', "line 3: should be round 1"),
        (2, '{"round": 1}', "line 3: should be round 1"),
        (2, '{"round": 1, "rows": [[0, "test", "accuracy"]]}', "every row should be"),
        (2, '{"round": 1, "rows": [[0, "test", "accuracy", "0.5"]]}', "every row should be"),
        (2, '{"round": 1, "rows": [[true, "test", "accuracy", 0.5]]}', "every row should be"),
        (2, '{"round": 1, "rows": 7}', "every row should be"),
        (2, '{"round": 1, "rows": [[0, "test", "loss", 1], [0, "test", "loss", 2]]}', "two values"),
        (0, "some text", "is not a journal"),
        (0, '{"federation": "f0000", "rounds": 2}', "is not a journal"),
        (0, '{"federation": "f0000", "rounds": 2, "settings": {"dataset": "digits"}}', "lack partition, method, seed"),
        (0, '{"federation": "f0001", "rounds": 2, "settings": {}}', "two journals of federation f0001"),
    ],
)
def test_anything_else_that_is_broken_is_an_error(folder: Path, number: int, text: str, message: str) -> None:
    replace_line(journal(folder), number, text)
    with pytest.raises(ResultsError, match=message):
        load(folder)


def test_a_lone_line_of_text_is_no_journal(folder: Path) -> None:
    journal(folder, "f0009").write_text("hello\n")
    with pytest.raises(ResultsError, match=r"f0009\.jsonl is not a journal.*'hello'"):
        load(folder)


def test_missing_and_broken_folders_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ResultsError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ResultsError, match="nothing has been run into this folder"):
        load(tmp_path)
    (folder / "study.json").write_text("{")
    with pytest.raises(ResultsError, match=r"study\.json is not JSON"):
        load(folder)
    (folder / "study.json").write_text("[]")
    with pytest.raises(ResultsError, match="should hold a JSON object, found list"):
        read_study(folder)


def test_an_unreadable_parquet_says_what_to_do(folder: Path) -> None:
    (folder / "rounds.parquet").write_bytes(b"PAR1 this is not one")
    with pytest.raises(ResultsError, match=r"rounds\.parquet cannot be read.*delete it"):
        load(folder)
    rebuild(folder)
    assert len(load(folder))


def test_a_foreign_parquet_says_what_it_lacks(folder: Path) -> None:
    shutil.rmtree(folder / "journal")
    pd.DataFrame({"round": [1]}).to_parquet(folder / "rounds.parquet")
    with pytest.raises(ResultsError, match="lacks the columns federation, dataset"):
        load(folder)


def test_other_swept_keys_are_columns_with_their_kind(tmp_path: Path) -> None:
    for lr, epochs in ((0.05, "converged"), (0.1, 3)):
        settings = {"train.lr": lr, "pretrain.epochs": epochs}
        Planted(**SMALL, settings=settings, swept=("method", "seed", "train.lr", "pretrain.epochs")).write(tmp_path)
    assert list(load(tmp_path).columns) == [*CONTRACT, "pretrain.epochs", "train.lr"]
    (tmp_path / "study.json").unlink()
    table = load(tmp_path)
    assert list(table.columns) == [*CONTRACT, "pretrain.epochs", "train.lr"]
    assert set(table["train.lr"]) == {0.05, 0.1}
    assert set(table["pretrain.epochs"]) == {"converged", "3"}
    rebuild(tmp_path)
    assert_frame_equal(table, load(tmp_path))


def test_a_listed_study_has_the_columns_it_sweeps(tmp_path: Path) -> None:
    folder = Planted(**SMALL, settings={"models": "mlp"}, swept=("method", "seed", "models")).write(tmp_path)
    assert list(load(folder).columns) == [*CONTRACT, "models"]
    study = read_study(folder)
    (folder / "study.json").write_text(json.dumps({**study, "swept": ["widths"]}))
    with pytest.raises(ResultsError, match="sweeps widths"):
        load(folder)


def test_transfer_sets_with_and_without_labels_are_told_apart_unasked(tmp_path: Path) -> None:
    Planted(**SMALL).write(tmp_path)
    labelled = Planted(**SMALL, settings={"transfer": "public(fraction=0.2, labelled=true)"})
    labelled.write(tmp_path)
    (tmp_path / "study.json").unlink()
    assert load(tmp_path)["transfer"].nunique() == 2


def test_how_a_federation_was_run_is_no_setting_of_its_results(tmp_path: Path) -> None:
    Planted(**SMALL, settings={"engine": "ray"}).write(tmp_path, study=False)
    Planted(**{**SMALL, "seeds": (2,)}, settings={"engine": "inline"}).write(tmp_path, study=False)
    assert list(load(tmp_path).columns) == CONTRACT


def test_two_federations_with_equal_settings_are_refused(tmp_path: Path) -> None:
    for engine in ("ray", "inline"):
        Planted(**SMALL, settings={"engine": engine}).write(tmp_path, study=False)
    with pytest.raises(ResultsError, match="federations f0002, f0006 have the same settings"):
        load(tmp_path)

"""Two files of the user's, in two folders, whose helpers have one name: each gets its own."""

from __future__ import annotations

from pathlib import Path

from fedkd.base.own_code import load_file
from tests.conftest import written


def folder(path: Path, answer: int) -> Path:
    (path / "parts").mkdir(parents=True)
    written(path / "namesake_helper.py", f"ANSWER = {answer}\n")
    written(path / "parts" / "__init__.py", "")
    written(path / "parts" / "inner.py", f"ANSWER = {answer + 1}\n")
    text = "from namesake_helper import ANSWER\nfrom parts.inner import ANSWER as INNER\n"
    return written(path / "network.py", text)


def test_each_file_gets_what_lies_beside_it(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", 1), folder(tmp_path / "other", 10)
    first, second = load_file(str(one), "model"), load_file(str(other), "model")
    assert (first.ANSWER, first.INNER) == (1, 2)
    assert (second.ANSWER, second.INNER) == (10, 11)
    written(one, one.read_text() + "AGAIN = ANSWER\n")
    again = load_file(str(one), "model")
    assert (again.ANSWER, again.INNER, again.AGAIN) == (1, 2, 1)

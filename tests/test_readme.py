"""The README's examples are run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
FEDKD = Path(sys.executable).parent / "fedkd"
QUICK = ["--engine", "inline", "--set", "rounds=1", "--set", "clients=3", "--set", "pretrain.epochs=2"]


def example(file: str) -> str:
    """The code block of the README whose first line names `file`."""
    for block in re.findall(r"```(?:python|toml)\n(.*?)```", README, re.DOTALL):
        if block.startswith(f"# {file}\n"):
            return str(block)
    pytest.fail(f"the README shows no {file}")


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(FEDKD), *arguments], cwd=folder, env=os.environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_method_and_the_partition_shown_are_complete_and_run(tmp_path: Path) -> None:
    for file in ("confident.py", "halves.py", "study.toml"):
        text = example(file)
        assert len(text.splitlines()) < 30
        (tmp_path / file).write_text(text, encoding="utf-8")
    printed = run(tmp_path, "run", "study.toml", "--out", "results", *QUICK)
    assert "confident.py:confident(threshold=0.9)" in printed.replace("\n", "")
    assert "halves.py:halves()" in printed or "halves.py:halves" in printed


def test_the_strategy_example_is_under_ten_lines_and_whole() -> None:
    text = example("server_app.py")
    body = [line for line in text.splitlines()[1:] if line.strip()]
    names: dict[str, object] = {}
    exec(compile(text, "server_app.py", "exec"), names)
    assert len([line for line in body if not line.startswith(("import", "from"))]) < 10
    assert "app" in names


def test_every_command_shown_exists() -> None:
    shown = set(re.findall(r"\bfedkd (run|report|list|partition)\b", README))
    assert shown == {"run", "report", "list", "partition"}
    for command in shown:
        assert run(Path.cwd(), command, "--help")

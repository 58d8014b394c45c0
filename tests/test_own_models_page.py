"""The page on own models: every block and every command of it is run as it stands there."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

import analysis
from tests.conftest import ROOT, Call

PAGE = (ROOT / "docs" / "own_models.md").read_text(encoding="utf-8")


@pytest.mark.timeout(300)
def test_from_files_to_figure(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in re.findall(r"```(?:python|toml)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / block.split("\n")[0].removeprefix("# ")).write_text(block, encoding="utf-8")
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    printed = ""
    for line in re.findall(r"```\n(python .*?)```", PAGE, re.DOTALL)[0].splitlines():
        program, *arguments = shlex.split(line)
        if program == "python":
            subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=os.environ, check=True, timeout=200)
        else:
            assert program == "fedkd"
            ended = call(*arguments, "--engine", "inline")
            assert ended.code == 0, ended.said
            printed += ended.out
    assert "all clients bring weights: not pre-trained" in printed
    assert (tmp_path / "results/study/report.html").is_file()
    assert (tmp_path / "results/study/figures/accuracy-rounds.png").read_bytes().startswith(b"\x89PNG")
    table = analysis.load(tmp_path / "results/study")
    starts = table[(table["round"] == 0) & (table["split"] == "test") & (table["metric"] == "accuracy")]
    for client, wanted in enumerate(plain_accuracies(tmp_path, monkeypatch)):
        found = starts[starts["client"] == client]["value"]
        assert found.to_list() == pytest.approx([wanted] * 6, abs=1e-9), "each client starts as its network was saved"


def plain_accuracies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Test accuracy of each saved network, by PyTorch and torchvision alone."""
    monkeypatch.syspath_prepend(str(folder))
    nets = runpy.run_path(str(folder / "my_nets.py"))["NETS"]
    looks = Compose([Resize(32), CenterCrop(32), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    images, labels = next(iter(DataLoader(ImageFolder(str(folder / "shapes/test"), looks), batch_size=10_000)))
    accuracies = []
    for name, make in nets.items():
        model = make(num_classes=3, image_size=32) if name == "patches" else make(num_classes=3)
        model.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
        with torch.inference_mode():
            accuracies.append(float((model.eval()(images).argmax(1) == labels).double().mean()))
    return accuracies

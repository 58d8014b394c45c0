"""Other samples and networks against the reference: text, and networks with statistics of batches."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.reference.averaging import ensemble, fedavg
from tests.reference.compare import LABELLED, Reference, assert_agree
from tests.reference.distillation import kd
from tests.reference.mutual import dml
from tests.reference.partitioning import dp_kd
from tests.reference.tuning import tuned_kd

PRIVATE = {"transfer": "private"}
TEXT = "".join(f"Line {n} of {n * n % 97}: {'the quick brown fox jumps'[: n % 25]}.\n" for n in range(90))


@pytest.mark.parametrize(
    ("method", "reference", "changes"),
    [
        ("kd(temperature=2.0)", partial(kd, temperature=2.0), {}),
        (
            "kd(select='teacher_correct', revise='labels', wire='float32')",
            partial(kd, select="teacher_correct", eta=0.8, wire="float32"),
            {"transfer": LABELLED},
        ),
        ("dml", dml, PRIVATE),
        ("dp_kd(mask='supervised', wire='float32')", partial(dp_kd, mask="supervised", wire="float32"), PRIVATE),
        ("fedavg", fedavg, {}),
        (
            "tuned_kd(temperatures=[2.0], weights=[0.8], rounds=1)",
            partial(tuned_kd, temperatures=[2.0], weights=[0.8], rounds=1),
            PRIVATE,
        ),
    ],
)
def test_text_agrees(tmp_path: Path, method: str, reference: Reference, changes: dict[str, Any]) -> None:
    file = tmp_path / "lines.txt"
    file.write_text(TEXT)
    text = {"dataset": f"text:{file}(length=8)", "partition": "iid", "models": "gru(width=6)"}
    assert_agree(method, reference, **text, **changes)


NORMED = """
from pydantic.dataclasses import dataclass
from torch import nn

from fedkd.models.architecture import Architecture, Model
from fedkd import STRICT


@dataclass(frozen=True, config=STRICT)
class Normed(Architecture):
    \"\"\"One hidden layer with statistics of batches.\"\"\"

    def build(self, shape, classes):
        return Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU()), 12, classes)
"""


@pytest.mark.parametrize(
    ("method", "reference", "changes"),
    [
        ("fedavg", fedavg, {}),
        ("ensemble", ensemble, PRIVATE),
        ("kd(wire='float32')", partial(kd, wire="float32"), {}),
        ("dp_kd(form='soup')", partial(dp_kd, form="soup"), PRIVATE),
    ],
)
def test_statistics_of_batches_agree(
    tmp_path: Path, method: str, reference: Reference, changes: dict[str, Any]
) -> None:
    # Private and transfer samples go through the network together; running statistics travel, and are averaged.
    file = tmp_path / "normed.py"
    file.write_text(NORMED)
    assert_agree(method, reference, models=f"{file}:Normed", **changes)

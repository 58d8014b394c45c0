"""reffakd, and an autoencoder among the teachers of kd, against the reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.reference.compare import LABELLED, assert_agree
from tests.reference.distillation import KD
from tests.reference.resembling import Classes, kd_with_classes, reffakd

# Four classes in all: most pairs are seen by nobody.
FEW = {"partition": "pathological(classes=2)", "clients": 2}


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"alpha": 0.6, "temperature": 2.0, "samples": 10}, {}),
        ({"alpha": 0.6, "boost": 0.05, "tau": 0.3, "samples": 0}, {"transfer": LABELLED}),
        ({"alpha": 0.4, "encoder": "local", "samples": 6}, FEW | {"transfer": "private"}),
        ({"alpha": 0.4, "samples": 3}, FEW),
        ({"alpha": 0.4, "samples": 5}, {"clients": 4, "students": [0, 2], "teachers": [1, 2]}),
    ],
    ids=str,
)
def test_reffakd_agrees(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    inside = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    reference = partial(reffakd, epochs=1, **settings)
    assert_agree(f"reffakd(epochs=1, {inside})", reference, **changes)


@pytest.mark.parametrize("teachers", ["others+autoencoder", "autoencoder"])
def test_an_autoencoder_among_the_teachers_agrees(teachers: str) -> None:
    reference = partial(
        kd_with_classes,
        peers=teachers != "autoencoder",
        classes=Classes(epochs=1, samples=4),
        of=KD(merge_by="probabilities", temperature=2.0, eta=0.6),
    )
    spec = teachers.replace("autoencoder", "autoencoder(epochs=1, samples=4)")
    method = f"kd(teachers='{spec}', merge_by='probabilities', temperature=2.0, revise='labels(eta=0.6)')"
    assert_agree(method, reference, transfer=LABELLED)

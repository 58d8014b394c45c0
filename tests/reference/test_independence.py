"""The reference shares nothing with fedkd but data, splits and the modules of networks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.test_rooms import imports, package

HERE = Path(__file__).parent
SHARED = {"fedkd.data.load", "fedkd.models.ARCHITECTURES", "partitions.split.Split"}
REFERENCE = sorted(file.name for file in HERE.glob("*.py") if not file.name.startswith("test_"))


@pytest.mark.parametrize("file", [name for name in REFERENCE if name != "compare.py"])
def test_the_reference_imports_nothing_that_it_re_states(file: str) -> None:
    for name in imports(f"tests/reference/{file}"):
        plain = package(name) in {"torch", "numpy"} | sys.stdlib_module_names
        ours = name.startswith("tests.reference.") and not name.startswith("tests.reference.compare")
        assert plain or ours or name in SHARED, name

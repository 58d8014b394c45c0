"""Everything that a machine with plain PyTorch lacks to run `benchmarks/gpu.py`, as wheels in one folder under 60 MiB.

    make gpu-bundle            # python -m benchmarks.bundle gpu-bundle

Carry a checkout and this folder to the machine, which needs no network: Python 3.12 on x86-64 Linux with torch and
torchvision. There, `python -m benchmarks.gpu --bundle gpu-bundle` unpacks the wheels into a folder of its own and runs;
nothing is installed. Ray's wheel is packed anew without Java and without its libraries for other purposes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LIMIT = 60 * 2**20
"""bytes of the whole folder"""
PYTHON = "3.12"
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
NEEDED = ("pydantic", "safetensors", "flwr[simulation]", "annotated-types", "typer", "rich", "tokenizers")
"""what the benchmark imports of fedkd's dependencies: no tables, figures, statistics or data sets"""
PRESENT = {
    "torch", "torchvision", "numpy", "pillow", "sympy", "networkx", "jinja2", "fsspec", "setuptools", "mpmath",
    "markupsafe", "triton", "pip",
}  # fmt: skip
"""what comes with plain PyTorch"""
UNUSED = {"uv", "uvloop", "httptools", "watchfiles", "websockets", "pyarrow", "pandas", "huggingface-hub"}
"""what faster servers or tables would want, and nothing here imports"""
RAY_WITHOUT = tuple(
    f"ray/{part}/"
    for part in ("jars", "rllib", "serve", "llm", "tune", "data", "train", "air", "dashboard/client", "cpp")
)
TARGET = {
    "python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "sys_platform": "linux", "platform_system": "Linux",
    "platform_machine": "x86_64", "os_name": "posix", "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}  # fmt: skip


def gather(folder: Path) -> None:
    """Fill the folder with the wheels of all that is needed, and what these need."""
    wanted: dict[str, set[str]] = {}
    todo = [Requirement(text) for text in NEEDED]
    while todo:
        fresh = [each for each in todo if not _known(each, wanted)]
        for each in fresh:
            wanted.setdefault(canonicalize_name(each.name), set()).update(each.extras)
        there = _there(folder)
        missing = {name: str(each.specifier) for each in fresh if (name := canonicalize_name(each.name)) not in there}
        if missing:
            _download([f"{name}{versions}" for name, versions in missing.items()], folder)
        todo = [each for parent in fresh for each in requirements(_wheel(folder, parent.name), parent.extras)]


def requirements(wheel: Path, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """What a wheel needs on the target machine that is not there."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1]
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    for line in lines:
        requirement = Requirement(line)
        applies = requirement.marker is None or any(
            requirement.marker.evaluate({**TARGET, "extra": extra}) for extra in ("", *extras)
        )
        if applies and canonicalize_name(requirement.name) not in PRESENT | UNUSED:
            yield requirement


def slim(wheel: Path) -> None:
    """Pack Ray's wheel anew without the parts that are named above, and by LZMA, a quarter smaller."""
    partial = wheel.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(partial, "w") as new:
        for entry in old.infolist():
            if entry.filename.startswith(RAY_WITHOUT):
                continue
            content = old.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if not line.startswith(RAY_WITHOUT)).encode()
            kept = zipfile.ZipInfo(entry.filename, entry.date_time)
            kept.external_attr, kept.compress_type = entry.external_attr, zipfile.ZIP_LZMA
            new.writestr(kept, content)
    partial.replace(wheel)


def _known(requirement: Requirement, wanted: dict[str, set[str]]) -> bool:
    name = canonicalize_name(requirement.name)
    return name in wanted and set(requirement.extras) <= wanted[name]


def _there(folder: Path) -> set[str]:
    return {canonicalize_name(wheel.name.split("-")[0]) for wheel in folder.glob("*.whl")}


def _wheel(folder: Path, name: str) -> Path:
    (wheel,) = [
        each for each in folder.glob("*.whl") if canonicalize_name(each.name.split("-")[0]) == canonicalize_name(name)
    ]
    return wheel


def _download(names: list[str], folder: Path) -> None:
    """Wheels of exactly these packages, in the versions that the tests run with."""
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, *platforms, "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*command, "--dest", str(folder), *names], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("gpu-bundle"))
    folder: Path = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    gather(folder)
    slim(_wheel(folder, "ray"))
    wheels = sorted(folder.glob("*.whl"), key=lambda wheel: -wheel.stat().st_size)
    size = sum(wheel.stat().st_size for wheel in wheels)
    for wheel in wheels[:8]:
        print(f"{wheel.stat().st_size / 2**20:6.1f} MiB  {wheel.name}")
    print(f"{size / 2**20:6.1f} MiB  {len(wheels)} wheels in {folder}; at most {LIMIT / 2**20:.0f} MiB")
    if size > LIMIT:
        raise SystemExit("the bundle is too large")


if __name__ == "__main__":
    main()

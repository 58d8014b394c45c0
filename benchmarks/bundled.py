"""Running from a bundle of wheels: they are unpacked into a folder of their own, and nothing is installed.

Only what comes with Python is imported here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def unpack(bundle: Path, folder: Path) -> None:
    """Unpack all wheels into a folder from which Python can import; programs stay executable."""
    wheels = sorted(bundle.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"{bundle}: no wheels; make it with `make gpu-bundle` where there is a network")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                path = Path(archive.extract(entry, folder))
                if (mode := entry.external_attr >> 16) and path.is_file():
                    path.chmod(mode | 0o600)


def enter(bundle: Path) -> None:
    """Start this process again with the bundle's packages; returns at once where that has been done."""
    if os.environ.get("FEDKD_BUNDLE") == str(bundle.absolute()):
        return
    folder = Path(tempfile.mkdtemp(prefix="fedkd-bundle-"))
    unpack(bundle, folder)
    path = os.pathsep.join(part for part in (str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, "PYTHONPATH": path, "FEDKD_BUNDLE": str(bundle.absolute())}
    try:
        raise SystemExit(
            subprocess.run([sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:]], env=environment).returncode
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)

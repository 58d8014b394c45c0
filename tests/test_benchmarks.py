"""The benchmarks measure what they say: models of cost are recovered, bundles are whole, small runs end well."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bundle, bundled, gpu
from benchmarks.__main__ import SCRIPTS
from benchmarks.before_after import JOB, NOW, PARTS, draw
from benchmarks.cost import SMALL, TERMS, Size, fitted, predicted
from benchmarks.long import large_federation, slope
from simulations.recipe import check, read


def test_cost_model_recovers_known_coefficients() -> None:
    """Also where a term costs nothing, and it predicts sizes that it has not seen."""
    known = np.array([0.05, 0.0002, 0.004, 0.0, 0.0003])
    coefficients = fitted(SMALL, [predicted(known, size) for size in SMALL])
    assert coefficients == pytest.approx(known, abs=1e-9)
    unseen = Size(10_000, 500, 100, participation=0.01)
    assert predicted(coefficients, unseen) == pytest.approx(predicted(known, unseen))


def test_cost_model_bears_noise_and_has_no_negative_cost() -> None:
    known, draw = np.array([0.05, 0.0, 0.004, 0.002, 0.0003]), np.random.default_rng(0)
    seconds = [predicted(known, size) * draw.lognormal(0, 0.03) for size in SMALL]
    coefficients = fitted(SMALL, seconds)
    assert (coefficients >= 0).all()
    assert predicted(coefficients, Size(1000)) == pytest.approx(predicted(known, Size(1000)), rel=0.2)
    assert len(coefficients) == len(TERMS)


@pytest.mark.parametrize("size", [Size(5), Size(20, 400, 30), Size(100, participation=0.1)])
def test_federations_of_the_cost_model_have_their_size(size: Size) -> None:
    federation = size.federation(2)
    check(federation)
    assert federation.clients == size.clients
    assert size.participants == round(size.clients * size.participation)


def test_large_federation_is_valid() -> None:
    check(large_federation(100))


def test_slope_is_growth_in_a_hundred_rounds() -> None:
    assert slope([10, 20, 30], [1.0, 2.0, 3.0]) == pytest.approx(10)


def _wheel(folder: Path, name: str, requires: str, files: dict[str, str]) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\n{requires}\n\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "".join(f"{file},,\n" for file in files))
        for file, content in files.items():
            entry = zipfile.ZipInfo(file)
            entry.external_attr = (0o755 if "bin/" in file else 0o644) << 16
            archive.writestr(entry, content)
    return path


def test_requirements_are_those_of_the_target_machine(tmp_path: Path) -> None:
    requires = (
        'Requires-Dist: here\nRequires-Dist: torch\nRequires-Dist: old; python_version < "3.12"\n'
        'Requires-Dist: win; sys_platform == "win32"\nRequires-Dist: more>=2; extra == "simulation"'
    )
    wheel = _wheel(tmp_path, "some", requires, {})
    assert [each.name for each in bundle.requirements(wheel)] == ["here"]
    assert [str(each).split(";")[0] for each in bundle.requirements(wheel, ["simulation"])] == ["here", "more>=2"]


def test_slim_wheel_unpacks_to_what_was_kept(tmp_path: Path) -> None:
    files = {"ray/__init__.py": "x = 1", "ray/bin/raylet": "program", "ray/jars/ray.jar": "java", "ray/rllib/a.py": ""}
    wheel = _wheel(tmp_path, "ray", "", files)
    bundle.slim(wheel)
    bundled.unpack(tmp_path, tmp_path / "out")
    there = {
        str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out" / "ray").rglob("*") if file.is_file()
    }
    assert there == {"ray/__init__.py", "ray/bin/raylet"}
    assert (tmp_path / "out" / "ray" / "bin" / "raylet").stat().st_mode & 0o111
    assert (tmp_path / "out" / "ray" / "__init__.py").read_text() == "x = 1"
    record = (tmp_path / "out" / "ray-1.0.dist-info" / "RECORD").read_text()
    assert "jars" not in record
    assert "raylet" in record


def test_empty_bundle_says_how_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make gpu-bundle"):
        bundled.unpack(tmp_path, tmp_path / "out")


def test_gpu_benchmark_runs_small_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["gpu", "--device", "cpu", "--quick", "--parts", "agreement", "sharing", "augmentation"]
    monkeypatch.setattr(sys, "argv", command)
    assert gpu.main() == 0
    said = capsys.readouterr().out
    assert "DIFFERS" not in said
    assert said.count("agrees") == 3
    assert "clients that share a GPU, on Ray | not run: no GPU" in said


def test_gpu_benchmark_says_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main() == 2
    assert "not run: torch sees no CUDA device" in capsys.readouterr().err


def test_scripts_of_make_bench_have_names_of_their_own() -> None:
    assert len({script.name for script in SCRIPTS}) == len(SCRIPTS)
    assert all(script.what for script in SCRIPTS)


def test_figure_of_before_and_after_shows_every_bar(tmp_path: Path) -> None:
    rows = {name: dict.fromkeys(PARTS, seconds) for name, seconds in (("before", 10.0), ("now", 2.0))}
    draw(rows, tmp_path)
    said = (tmp_path / "round_time.svg").read_text(encoding="utf-8")
    for text in ("before", "now", "30.0 s", "6.0 s", *PARTS):
        assert text in said
    assert (tmp_path / "round_time.png").stat().st_size > 1000


def test_job_before_and_now_is_a_recipe(tmp_path: Path) -> None:
    """The present one has all images in training, and tests on the clients' own parts alone."""
    (tmp_path / "job.toml").write_text(JOB.format(data="mnist.npz", **NOW), encoding="utf-8")
    (federation,) = read(str(tmp_path / "job.toml")).federations
    assert (federation.val, federation.evaluate.on, federation.models) == (
        "none",
        ("local_test",),
        "fedavg_cnn(padding=0)",
    )

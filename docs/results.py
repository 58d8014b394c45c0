"""docs/results.md: what the studies of `simulations/recipes/` say about the claims, from their results folders.

FEDKD_DATA=… fedkd run tuning --report && …    one study a recipe; results go to results/<recipe>
python -m docs.results [--results results]     tables, figures and verdicts of what is there
"""

from __future__ import annotations

import argparse
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from analysis.measures.compare import compare
from analysis.measures.targets import reading_split, target_table
from analysis.page.wording import steps_mark
from analysis.results.units import points
from analysis.statistics.claims import Claim
from docs.claims import CLAIMS, POINTS, noise
from docs.study import Study
from simulations.recipe import SHIPPED

HERE = Path(__file__).parent
FIGURES = ("starts", "noise", "loss-", "gain")
"""What is shown of a report: the first of these that it drew."""
INTRODUCTION = """# Results

What the shipped studies say about the claims of the field, as measured. The value is the mean over seeds of the paired
difference, the interval is at 95 % (Student's t), and a claim is held where the interval lies wholly on the claimed
side, not held where it lies wholly on the other, else undecided. Fewer than five seeds decide nothing. Intervals
are over seeds, one claim at a time, with no correction for their number. Every number is on the test set. No method
chose by it; only where claim 2 says so is a cell chosen by the test accuracy of other seeds, which share the test
images.

Under the claims stand all methods, each against its start and against `local`: better or worse by the paired t-test,
corrected by Holm over all methods of a partition; "loses less than local" is better than `local` and below its own
start. Δ, gained and lost count from the start that the column names: the mean of the clients' own models, or the model
that the server makes of them. A method that took another number of optimiser steps than `local` is marked.

The studies are small, so that each ends within half an hour on two cores: subsets of a few thousand images, small
networks, a few clients. They say what holds there, and no more. Made by `python -m docs.results` from the results
folders of `fedkd run RECIPE --report`.

"""
CHANGES = """What changed since the numbers of version 1. Partitions are rounded so that no client is favoured (the last
client of a Dirichlet partition had some of nearly every class), and all splits are drawn anew. Ties in tuning go by the
loss. Influence is of the exact curvature of a last layer that is trained to the end. `start = "average"` costs `fedavg`
no round. Intervals at ten seeds are Student's t. Of the 71 verdicts on MNIST 13 changed, and of the 71 on CIFAR-10 17,
all to or from undecided; of those on text none.

On MNIST, tuned kd falls further behind untuned kd under skew (Dirichlet(0.1): -9.8 instead of -8.7 points), and is now
behind tuned dml under Dirichlet(0.5) too. Client 0 of claim 5 is undecided. Two more consolidated starts are behind the
plain average under uniform data, which is one round faster now. Choosing by confidence is no longer ahead of choosing
by influence. The other eight are of differences near the border of their interval.

On CIFAR-10, where every network is weak, tuned kd is now behind untuned kd under Dirichlet(0.1) too (-1.2 instead of an
undecided -0.2 points), but ahead of tuned training alone. The best client under uniform data, and the sequential
consolidation under Dirichlet(0.1), now need more rounds than the plain average. Six were undecided and are held (among
them dml for client 0, and choosing by influence before choosing at random under Dirichlet(0.1)), five were and are not
held, and six have become undecided (among them label revision at a noise of 0.2).

"""
"""What changed since results that were published before."""
REFINED = """`fedkd refine "python_text(limit=2400)" --teacher "gpt(layers=2)" --noise 0.3 --seed 0 --out
results/refine/seed-0`, and so on for five seeds. Half of the noise are shuffled characters, half one boilerplate text.
The teacher knows the boilerplate better than the small reference does, so difference sampling takes it for worth
learning.

"""
Judged = dict[str, Sequence[Claim]]
"""Claims by data set."""


def section(name: str, studies: dict[str, Study], judged: Judged, folder: Path) -> str:
    """One recipe as text: on each data set the claims with their verdicts, then every method."""
    lines = [f"## {_title(name)}", ""]
    for dataset, study in studies.items():
        seeds = study.scores["seed"].nunique()
        lines += [f"### `{dataset}`", "", f"Recipe `{name}`; {seeds} seeds, {len(study.scores)} federations.", ""]
        lines += [*_verdicts(judged[dataset], CLAIMS[name][1]), "", *_methods(study), "", *_targets(study)]
    for figure in _kept_figures(name, folder):
        lines += [f"![Recipe {name}: {figure.stem}](figures/claims/{figure.name})", ""]
    return "\n".join(lines)


def overview(judged: dict[str, Judged]) -> Iterator[str]:
    """How the claims came off, a line for each recipe and data set."""
    yield "| claim | data | held | undecided | not held |"
    yield "|---|---|--:|--:|--:|"
    for name, by_dataset in judged.items():
        for dataset, claims in by_dataset.items():
            counted = Counter(claim.verdict for claim in claims)
            cells = (counted[verdict] for verdict in ("held", "undecided", "not held"))
            yield f"| {_title(name)} | `{dataset}` | {' | '.join(map(str, cells))} |"


def _data(name: str) -> list[str]:
    """The data sets of a shipped recipe."""
    data = tomllib.loads((SHIPPED / f"{name}.toml").read_text(encoding="utf-8"))["dataset"]
    return [data] if isinstance(data, str) else list(data)


def _title(name: str) -> str:
    return (CLAIMS[name][0].__doc__ or "").strip().removesuffix(".")


def _verdicts(claims: Sequence[Claim], unit: float) -> Iterator[str]:
    yield "| claim | value | 95 % interval | seeds | verdict |"
    yield "|---|--:|---|--:|---|"
    for claim in claims:
        scale = 1.0 if " / " in claim.text else unit
        low, high = (_number(scale * bound) for bound in (claim.low, claim.high))
        why = f" ({claim.reason})" if claim.reason else ""
        text = claim.text.replace("|", "\\|")
        yield f"| {text} | {_number(scale * claim.value)} | {low} to {high} | {claim.n} | **{claim.verdict}**{why} |"


def _methods(study: Study) -> Iterator[str]:
    """Mean of every method over the seeds, in percent, points and bytes, with its verdicts."""
    summary = compare(study.table, study={"recipe": study.recipe})
    rows = summary.rows
    keys = ["partition", *(["start"] if "start" in rows else []), "method"]
    origins = set(rows["start_from"])
    of = f" ({origins.pop()})" if len(origins) == 1 else ""
    further = ["bits_per_byte", "bytes"] if rows["bits_per_byte"].notna().any() else ["bytes"]
    heads = [f"at the start{of}", "final", "Δ", "vs start", f"vs {summary.baseline}", "gained", "lost"]
    heads += [name.replace("_", " ") for name in further]
    yield f"| {' | '.join([*keys, *heads])} |"
    yield "|---" * len(keys) + "|--:" * 3 + "|---" * 2 + "|--:" * (len(heads) - 5) + "|"
    for row in rows.to_dict("records"):
        named = [f"`{row[key]}`" for key in keys]
        named[-1] += steps_mark(row["method"], row["steps_share"])
        start = _number(100 * row["start_accuracy"]) + ("" if of else f" ({row['start_from']})")
        gap = "" if np.isnan(row["difference"]) else f"{points(row['difference'])}, "
        cells = [start, *(_number(100 * row[each]) for each in ("accuracy", "delta"))]
        cells += [row["start_verdict"] or "–", f"{gap}{row['verdict']}".removesuffix(", ") or "–"]
        cells += [_number(100 * row[each]) for each in ("gained", "lost")]
        cells += [f"{row[each]:,.0f}" if each == "bytes" else f"{row[each]:.3f}" for each in further]
        yield f"| {' | '.join([*named, *cells])} |"


def _targets(study: Study) -> Iterator[str]:
    """Rounds and bytes to shares of `pooled`, where there is one."""
    table = target_table(study.table, reading_split(study.table))
    if table.empty:
        return
    yield "Rounds and bytes on the way to a share of `pooled`. Means go to a horizon that all arms share, and"
    yield "runs that never arrive count as on their way until then."
    yield ""
    yield "| partition | method and start | share | arrived | median rounds | mean rounds | mean bytes |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for row in table.sort_values(["partition", "share"], kind="stable").to_dict("records"):
        cells = (f"{100 * row['share']:.0f} %", f"{row['arrived']} of {row['seeds']}", str(row["rounds_to_target"]))
        means = (_number(row["rounds_mean"]), "–" if np.isnan(row["bytes_mean"]) else f"{row['bytes_mean']:,.0f}")
        yield f"| `{row['partition']}` | `{row['arm']}` | {' | '.join((*cells, *means))} |"
    yield ""


def _kept_figures(name: str, folder: Path) -> Iterator[Path]:
    """Copies of the report's figures that say most, beside this page."""
    for wanted in FIGURES:
        found = sorted((folder / "figures").glob(f"{wanted}*.png"))
        for figure in found:
            rest = figure.stem.removeprefix(wanted).lstrip("-")
            kept = HERE / "figures" / "claims" / f"{'-'.join(filter(None, (name, rest)))}.png"
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(figure, kept)
            yield kept
        if found:
            return


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def main() -> None:
    """Write the page from the studies that are there."""
    parser = argparse.ArgumentParser(description="docs/results.md from the results of the shipped recipes")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results folders")
    results = parser.parse_args().results
    studies = {name: found for name in CLAIMS if (found := Study.read(results / name))}
    there = list(studies)
    text = INTRODUCTION + CHANGES
    waiting: dict[str, list[str]] = {}
    for name in CLAIMS:
        for data in _data(name):
            if data not in studies.get(name, {}):
                waiting.setdefault(data, []).append(name)
    if waiting:
        text += "Not run with the numbers of today yet, and so left out:\n\n"
        text += "".join(f"- on `{data}`: {', '.join(names)}\n" for data, names in waiting.items()) + "\n"
    shutil.rmtree(HERE / "figures" / "claims", ignore_errors=True)
    judged = {name: {data: CLAIMS[name][0](study) for data, study in studies[name].items()} for name in there}
    text += "\n".join([*overview(judged), "", ""])
    text += "\n".join(section(name, studies[name], judged[name], results / name) for name in there)
    if refined := noise(results / "refine"):
        text += "\n### Injected noise\n\n" + REFINED + "\n".join(_verdicts(refined, POINTS)) + "\n"
    (HERE / "results.md").write_text(text, encoding="utf-8")
    print(f"{HERE / 'results.md'}: {len(there)} of {len(CLAIMS)} studies")


if __name__ == "__main__":
    main()

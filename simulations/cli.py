"""The command line. Heavy imports wait until something has been printed."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Simulate federated and distributed knowledge distillation between pre-trained models, on Flower and Ray.",
)
out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 132)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

WRONG_INPUT = 2
STOPPED = 130
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""Errors of a disk that is full or may not be written."""


def main() -> None:
    """Entry point: exit code 0 done, 2 the user's input is wrong, 1 anything else."""
    try:
        with _one_message():
            app()
    except KeyboardInterrupt:
        sys.exit(STOPPED)


@contextmanager
def _one_message() -> Iterator[None]:
    """Turn errors that the user can mend into one message and exit code 2."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ in ("StudyError", "FederationError"):
            err.print(f"[red]failed:[/] {escape(str(error))}")
            sys.exit(1)
        if not (message := _of_the_user(error)):
            raise
        err.print(f"[red]error:[/] {escape(message)}")
        sys.exit(WRONG_INPUT)


def _of_the_user(error: Exception) -> str:
    """The message of an error that the user can mend, "" of any other."""
    if any(kind.__name__ in ("UserError", "PartitionError", "ResultsError") for kind in type(error).__mro__):
        # By name, because importing the rooms for their error classes would take seconds.
        return str(error)
    if isinstance(error, OSError) and error.errno in _DISK and error.filename:
        return f"{error.filename}: {error.strerror}; free some space or choose another folder"
    own_code = sys.modules.get("fedkd.base.own_code")
    return own_code.reason(error) if own_code and own_code.is_own(error) else ""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(f"fedkd {version('fedkd')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Simulate federated and distributed knowledge distillation between pre-trained models, on Flower and Ray."""


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a recipe that ships with fedkd.")],
    results: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results; default results/<recipe>.", show_default=False)
    ] = None,
    engine: Annotated[str, typer.Option(help="ray, or inline: one process, for debugging.")] = "ray",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key; may be repeated."),
    ] = None,
    lanes: Annotated[
        int | None, typer.Option(min=1, help="Federations in flight; default: twice the workers.", show_default=False)
    ] = None,
    figures: Annotated[bool, typer.Option("--report", help="Make the report too, as fedkd report does.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write where the time of each round went, as table and figure.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Flower's and Ray's own logs.")] = False,
) -> None:
    """Run every federation of a recipe; finished ones are skipped, interrupted ones resume."""
    folder = results or Path("results") / Path(recipe).stem
    out.print(f"fedkd: [bold]{escape(recipe)}[/] → {escape(str(folder))} (engine {escape(engine)})")
    from fedkd.base.errors import UserError, nearest
    from simulations.progress import Bar
    from simulations.recipe import read
    from simulations.shipped import check_data
    from simulations.starting import announced
    from simulations.study import Interrupted, Study

    if engine not in ("ray", "inline"):
        raise UserError(f"--engine {engine!r} is unknown: {nearest(engine, ('ray', 'inline'))}")
    study = Study(read(recipe, overrides or ()), folder)
    check_data(study.recipe)
    swept = ", ".join(study.recipe.swept) or "nothing"
    out.print(f"{len(study.recipe.federations)} federations, sweeping {escape(swept)}")
    for line in announced(study.recipe.federations):
        out.print(escape(line))
    _stop_on_interrupt(study.stop)
    try:
        with Bar(out) as bar:
            study.run(engine, lanes, verbose, bar)
    except Interrupted:
        err.print("stopped; complete rounds are kept, and the same command goes on from there")
        sys.exit(STOPPED)
    _print_comparison(folder)
    from simulations.printed import where_time_went  # imports matplotlib, which nothing before it needs

    where_time_went(out, study.profile, folder if profile else None)
    if figures or (profile and study.profile.rounds):
        _make_report(folder)
    else:
        out.print(f"figures and report.html: fedkd report {escape(str(folder))}")


@app.command()
def report(
    results: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder of fedkd run.")],
    target: Annotated[
        float | None, typer.Option(help="Accuracy for rounds-to-target, in [0, 1]; default: halfway to the best bound.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Everything in the folder, not only the recipe that was run last.")
    ] = False,
) -> None:
    """Statistics, figures (svg and png) and the self-contained report.html of a results folder."""
    out.print(f"fedkd: reporting on {escape(str(results))}")
    from fedkd.base.errors import UserError

    if target is not None and not 0 <= target <= 1:
        raise UserError(f"--target {target}: it is an accuracy between 0 and 1")
    _make_report(results, target, everything)
    _print_comparison(results, target, everything)


@app.command("list")
def list_(
    what: Annotated[
        str | None,
        typer.Argument(help="methods, partitions, datasets, models, keys, recipes, …, or one name; default: all."),
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Everything, as the tables of the docs.")] = False,
) -> None:
    """What there is: names, one-line descriptions, and parameters with types and defaults."""
    from simulations.listing import ALSO, CATALOGUES, markdown, shown

    if as_markdown:
        out.print(markdown(), markup=False, end="")
        return
    for kind in (*CATALOGUES, *ALSO) if what is None else [what]:
        for line in shown(kind):
            out.print(line)


@app.command()
def partition(
    spec: Annotated[str, typer.Argument(help='For example "dirichlet(alpha=0.1)".')],
    dataset: Annotated[str, typer.Option(help="Data source.")] = "digits",
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the partition.")] = 0,
    transfer: Annotated[str, typer.Option(help="Transfer set that is held out first.")] = "public(fraction=0.2)",
    plot: Annotated[
        Path | None, typer.Option(help="Write the picture: .svg, .png or .pdf.", show_default=False)
    ] = None,
    kind: Annotated[str, typer.Option(help="Kind of picture: bars, bubbles or heatmap.")] = "bars",
    manifest: Annotated[
        Path | None, typer.Option("--out", help="Write the manifest (JSON).", show_default=False)
    ] = None,
) -> None:
    """Show and save one partition: table, picture, manifest."""
    from analysis.drawing.partitions import PICTURES
    from fedkd.base.errors import UserError, nearest
    from fedkd.data import load
    from fedkd.settings.federation import Federation
    from simulations import split_view
    from simulations.progress import Bar
    from simulations.recipe import canonical
    from simulations.splits import make_split, write_manifest

    if kind not in PICTURES:
        raise UserError(f"--kind {kind!r} is unknown: {nearest(kind, PICTURES)}")
    if plot is not None and plot.suffix not in (".svg", ".png", ".pdf"):
        raise UserError(f"--plot {plot}: the ending says the format; use .svg, .png or .pdf")
    for file in (plot, manifest):
        if file is not None and not file.absolute().parent.is_dir():
            raise UserError(f"{file}: its folder does not exist; make it first or choose another")
        if file is not None and file.is_dir():
            raise UserError(f"{file}: is a folder; give the name of a file")
    with Bar(out) as bar:
        source = load(dataset, bar.preparing)
    split = make_split(
        Federation("local", dataset=dataset, partition=canonical(spec), clients=clients, seed=seed, transfer=transfer),
        source,
    )
    counts = split.counts(source.labels[source.train].numpy(), len(source.classes))
    out.print(split_view.table(split, counts, source.classes))
    for line in split_view.words(split):
        out.print(escape(line))
    if manifest is not None:
        write_manifest(manifest, split)
        out.print(f"manifest: {escape(str(manifest))}")
    if plot is not None:
        split_view.draw(split, counts, source.classes, kind, plot)
        out.print(f"picture: {escape(str(plot))}")


@app.command()
def refine(
    corpus: Annotated[str, typer.Argument(help="Text, such as python_text or text:FOLDER.")],
    results: Annotated[Path, typer.Option("--out", help="Folder of what comes out.")],
    teacher: Annotated[str, typer.Option(help="Spec of the good model; checkpoint:FILE loads one.")] = (
        "gpt(layers=4, width=128)"
    ),
    reference: Annotated[str, typer.Option(help="Spec of the poor model.")] = "gpt(layers=2, width=64, heads=2)",
    keep: Annotated[float, typer.Option(help="α, share of the chunks that is kept.")] = 0.5,
    score: Annotated[str, typer.Option(help="difference, reference, bottom, random or all.")] = "difference",
    noise: Annotated[float, typer.Option(help="Share of the chunks that are made noise first.")] = 0.0,
    held: Annotated[float, typer.Option(help="Share that the models learn from; it is not scored.")] = 0.2,
    teacher_epochs: Annotated[int, typer.Option(min=0, help="0: the teacher is good as it is.")] = 20,
    reference_epochs: Annotated[int, typer.Option(min=0, help="0: the reference is good as it is.")] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Chunks a step.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Keep the part of a corpus that a teacher finds easier than a small reference does: manifest, text, figures."""
    out.print(f"fedkd: refining [bold]{escape(corpus)}[/] → {escape(str(results))}")
    from fedkd.protocol.client import use_one_thread
    from simulations.refine import Refining
    from simulations.refine import refine as refined
    from simulations.stages import StageProgress

    use_one_thread()
    epochs = (teacher_epochs, reference_epochs)
    asked = Refining(corpus, teacher, reference, keep, score, noise, held, epochs, lr, batch_size, seed)
    outcome = refined(asked, StageProgress(out))
    outcome.save(results)
    for line in outcome.words():
        out.print(escape(line))
    out.print(f"manifest.json, scores.parquet, kept.txt and figures: {escape(str(results))}")


def _make_report(results: Path, target: float | None = None, everything: bool = False) -> None:
    from analysis.report import make_report

    page = make_report(results, target=target, everything=everything)
    drawn = len(list((results / "figures").glob("*.png")))
    out.print(f"figures: {escape(str(results / 'figures'))} ({drawn}, each as .svg and .png)")
    out.print(f"report:  {escape(str(page))}")


def _print_comparison(results: Path, target: float | None = None, everything: bool = False) -> None:
    from simulations.printed import comparison

    comparison(out, results, target, everything)


def _stop_on_interrupt(stop: threading.Event) -> None:
    """The first Ctrl-C ends the study after the exchanges in flight, the second at once."""

    def interrupted(number: int, frame: object) -> None:
        del number, frame
        if stop.is_set():
            os._exit(STOPPED)
        stop.set()
        err.print("stopping after the exchanges in flight; once more stops at once")

    signal.signal(signal.SIGINT, interrupted)


if __name__ == "__main__":
    main()

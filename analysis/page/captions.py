"""What the columns of the comparison tables mean, which interval it is, and by which rule verdicts fall."""

from typing import Literal

from analysis.measures.summary import Summary
from analysis.results.units import percent
from analysis.statistics.intervals import DECIDED_FROM, INTERVAL_FROM

Part = Literal["accuracy", "detail", "quality", "cost"]


def caption(summary: Summary, part: Part = "accuracy") -> str:
    """The text under the table of one part."""
    return {"accuracy": _accuracy, "detail": _detail, "quality": _quality, "cost": _cost}[part](summary)


def rule(summary: Summary) -> str:
    """The one rule of all verdicts, in two sentences."""
    return (
        f"Verdicts are by the paired t-test at {100 * summary.level:g} %, corrected by Holm over all methods of a "
        f"partition, those against {summary.reference} as one family and those against the start as another. Fewer "
        f"than {DECIDED_FROM} seeds decide nothing."
    )


def _accuracy(summary: Summary) -> str:
    base, evaluated = summary.reference, summary.evaluated
    return (
        f"{evaluated.split.capitalize()} accuracy in percent, averaged over clients, or that of the global model where "
        f"the server holds one, then over seeds. ± is the half-width of a {100 * summary.level:g} % Student-t interval "
        f"over seeds, in brackets where it ends at 0 or 100; below {INTERVAL_FROM} seeds there is none, and of two the "
        "range is given. start: where the rounds begin, the mean of the clients' own models, or the global model that "
        "the server makes of them; Δ, gained and lost are counted from there. final: last round. Δ: final minus start, "
        f"in points. vs {base}: paired difference on the same seeds, in points. {rule(summary)} p is the corrected "
        f"one. “loses less than {base}”: better than {base}, and below its own start. bound: what could be reached; it "
        "is neither judged nor ranked. [0.33 × the steps]: a method that took another number of optimiser steps than "
        f"{base}. {evaluated.meaning}"
    ).strip()


def _detail(summary: Summary) -> str:
    split, gaps = summary.evaluated.split, summary.evaluated.gaps
    chooses = "the test set chooses nothing" if split != "val" else "it is the best one of its own choice"
    return (
        f"at val's choice: {split} accuracy in the round of best mean validation accuracy, ties to the earliest, round "
        f"0 included; {chooses}. {gaps} rank: mean rank over the seeds that all methods have, 1 is best. "
        f"gained, lost: share of {split} samples that went from wrong to right and from right to wrong, "
        "Δ = gained − lost. worst client: lowest final accuracy of any client's own model. "
        "success: share of clients with Δ > 0."
    )


def _quality(summary: Summary) -> str:
    split = summary.evaluated.split
    return (
        f"Means over clients, then over seeds. ece: expected calibration error on {split}, last round, in points. "
        f"personal: final {split} accuracy of the clients' own models beside a global one. spread: standard deviation "
        f"of final {split} accuracy over clients, range: best minus worst client, in points. forgetting: accuracy on "
        "the client's own distribution at round 0 minus at the last round, in points; forgot: share of clients "
        "that lost there. agreement: share of transfer samples where student and merged teacher name the same "
        "class; teacher accuracy, teacher loss: the merged soft labels against the true transfer labels. bits per "
        f"byte: of {split} text, last round and start; it compares tokenisers."
    )


def _cost(summary: Summary) -> str:
    if summary.target is None:
        target = (
            "halfway from the start to the final accuracy of pooled, else of ensemble, else of the best method; none "
            "where nothing ends above the start"
        )
    else:
        target = f"{percent(summary.target)} %"
    starts = summary.starts
    many, share = ("starts", "are") if starts.number > 1 else ("start", "is")
    pretraining = (
        "pre-training: seconds of computing that the start took, which is trained once, belongs to all federations "
        f"that begin from it and is in no other column; here {starts.number} {many}, {starts.seconds:.3g} s in all, "
        f"{share} shared by {starts.federations} federations. "
    )
    return (
        "Sums over clients and rounds, means over seeds. bytes: up and down, tuning included. "
        "steps: optimiser steps, equal for every method that is not marked with its share of them; samples: examples "
        "back-propagated; computing: seconds, clients run side by side; tuning is charged in its own columns. "
        f"{pretraining * (starts.number > 0)}"
        f"Target: {target}; to target: Kaplan-Meier median over seeds; arrived: seeds that got there; "
        "“>” marks a median that was not reached within the rounds run (censored, not dropped). "
        f"{summary.evaluated.delay}"
    ).strip()

"""What a round costs: a model of its seconds, fitted to small runs, and its error on larger ones.

    python -m benchmarks.cost [--sizes 10 100 1000 10000] [--engine ray]

kd by an mlp on embedded synthetic images, 12 a client, nothing pre-trained. A round's seconds are a sum of products,
each with a coefficient of at least 0 (least squares of relative errors). From 2,000 clients on, 1 % of them take part.
Coefficients are those of the machine and its load; the shape of the model is what is tested.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from benchmarks.spread import Spread
from benchmarks.timed import Timing, started, timed
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining

EACH = 12
"""images a client, of which one is for validation"""
MANY = 2000
"""clients from which on 1 % of them take part in a round"""


@dataclass(frozen=True)
class Size:
    """What the seconds of a round depend on."""

    clients: int
    transfer: int = 100
    classes: int = 10
    participation: float = 1.0

    @property
    def participants(self) -> int:
        return max(1, round(self.clients * self.participation))

    def federation(self, rounds: int) -> Federation:
        """A federation of this size."""
        # A sixth of the images is for testing.
        samples = -(-(self.clients * EACH + self.transfer) * 6 // 5) + 6 * self.classes
        return Federation(
            'kd(refresh="every round")',
            models="mlp",
            clients=self.clients,
            rounds=rounds,
            participation=self.participation,
            dataset=f"synthetic(samples={samples}, classes={self.classes})",
            transfer=f"public(size={self.transfer})",
            start="random",
            pretrain=Pretraining(epochs=0),
        )


TERMS: dict[str, Callable[[Size], float]] = {
    "a round": lambda _: 1.0,
    "a client": lambda size: size.clients,
    "a participant": lambda size: size.participants,
    "a participant and 1,000 transfer samples": lambda size: size.participants * size.transfer / 1e3,
    "a participant and 1,000 logits": lambda size: size.participants * size.transfer * size.classes / 1e3,
}
"""What a coefficient is multiplied with."""

SMALL = (
    Size(5), Size(10), Size(20), Size(40), Size(40, participation=0.25), Size(10, 400), Size(20, 800),
    Size(10, 400, 30), Size(20, 200, 30), Size(80, participation=0.1),
)  # fmt: skip
"""Runs that the model is fitted to."""


def fitted(sizes: Sequence[Size], seconds: Sequence[float]) -> NDArray[np.float64]:
    """(terms,) coefficients ≥ 0 with the least squares of relative errors."""
    matrix = np.array([[term(size) for term in TERMS.values()] for size in sizes])
    relative = matrix / np.asarray(seconds)[:, None]
    scale = np.abs(relative).max(axis=0)
    solution, _ = nnls(relative / scale, np.ones(len(sizes)))
    coefficients: NDArray[np.float64] = solution / scale
    return coefficients


def predicted(coefficients: NDArray[np.float64], size: Size) -> float:
    """Seconds of a round."""
    return float(sum(c * term(size) for c, term in zip(coefficients, TERMS.values(), strict=True)))


def main() -> None:
    """Measure, fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10, 100, 1000], help="clients to test the model at")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of a run; the first is not counted")
    parser.add_argument("--engine", default="ray", choices=("ray", "inline"))
    asked = parser.parse_args()
    larger = [Size(n, participation=0.01 if n >= MANY else 1.0) for n in asked.sizes]
    with started(asked.engine) as engine:
        timed(engine, Size(4).federation(2))  # workers import what they need

        def measured(size: Size) -> Timing:
            return timed(engine, size.federation(asked.rounds))

        seconds = [statistics.median(measured(size).seconds[1:]) for size in SMALL]
        coefficients = fitted(SMALL, seconds)
        print(f"{'coefficient of':<45}{'ms':>10}")
        for name, value in zip(TERMS, coefficients, strict=True):
            print(f"{name:<45}{1e3 * value:>10.3f}")
        errors = [predicted(coefficients, size) / took - 1 for size, took in zip(SMALL, seconds, strict=True)]
        print(f"relative error on the {len(SMALL)} runs that it was fitted to: {Spread.of([abs(e) for e in errors])}\n")
        print("| clients | take part | s a round, measured | predicted | error | start, s |")
        print("|--:|--:|--:|--:|--:|--:|", flush=True)
        for size in larger:
            timing = measured(size)
            took, expected = Spread.of(timing.seconds[1:]), predicted(coefficients, size)
            error = expected / took.median - 1
            print(
                f"| {size.clients:,} | {size.participants:,} | {took} | {expected:.2f} | {error:+.0%} "
                f"| {timing.start:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

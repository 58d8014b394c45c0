"""Progress of a study, as callbacks."""

from __future__ import annotations

from pathlib import Path

from fedkd.settings.federation import Federation


class Watcher:
    """Progress callbacks, called one at a time from the study's threads. The base class ignores them."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Data are being prepared: `done` of `total`."""

    def begins(self, federations: int, rounds: int) -> None:
        """So many federations and rounds are still to run."""

    def superseded(self, federations: int, why: str, folder: Path) -> None:
        """Older results were moved to a folder, because newer ones replace them."""

    def starting(self, federation: Federation, done: int, clients: int) -> None:
        """`done` of a federation's clients have their start, trained just now or read from the cache."""

    def round(self, federation: Federation, number: int) -> None:
        """A round is complete."""

    def finished(self, federation: Federation, accuracy: dict[int, float]) -> None:
        """A federation is complete.

        accuracy: mean accuracy on `federation.evaluate.main`, by round, of the start and of evaluated rounds run now.
        """

    def failed(self, federation: Federation, why: str) -> None:
        """A federation has failed."""

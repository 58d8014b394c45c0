"""Mean accuracy of a federation's clients, round by round, for those who watch a study."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fedkd.node.holdings import Row
from fedkd.settings.federation import Federation


@dataclass
class Accuracy:
    """Mean accuracy on a study's main split: of the learners, or of the server's model where no client is evaluated.

    Rows are of the clients that take part in a round; an absent client counts with its last evaluation.
    """

    federation: Federation
    by_round: dict[int, float] = field(default_factory=dict)
    """of the evaluated rounds"""
    _latest: dict[int, float] = field(default_factory=dict)

    def add(self, number: int, rows: Iterable[Row]) -> None:
        """Take the rows of a round; rounds come in order."""
        key = (self.federation.evaluate.main, "accuracy")
        accuracies = {client: value for client, split, metric, value in rows if (split, metric) == key}
        learners = accuracies.keys() & set(self.federation.learners)
        self._latest |= {client: accuracies[client] for client in learners}
        values = list(self._latest.values()) if learners else list(accuracies.values())
        if values:
            self.by_round[number] = sum(values) / len(values)

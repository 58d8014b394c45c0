from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.method import Method
from fedkd.training.batch import Labels


@dataclass(frozen=True, config=STRICT)
class Local(Method):
    """Each client trains on alone, and nothing travels: the lower bound."""

    public: bool = True
    """learn from the transfer labels where the study gives them to every method; without them it changes nothing"""

    @property
    def labels(self) -> Labels:
        return "all" if self.public else "private"

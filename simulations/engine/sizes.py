"""The size of worker that each model needs: as the recipe says, or as it is measured on a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from fedkd.settings.federation import Federation
from simulations.engine.resources import Need
from simulations.ray_settings import RaySettings, entry

SMALLEST_SHARE = 1 / 16
"""The smallest share of a GPU that a measured client is given."""


@dataclass
class Sizes:
    """The size of worker that each model's clients need. A *kind* is a model for which it is known separately.

    Where `num_gpus` is "auto", each model is a kind, which has a whole GPU until its memory is measured.
    """

    settings: RaySettings
    gpus: float
    """number of GPUs of the node that has most"""
    needs: dict[str, Need] = field(default_factory=dict)
    """by kind"""
    _unmeasured: set[str] = field(default_factory=set)
    """kinds that have a whole GPU because nothing is known yet"""

    @property
    def automatic(self) -> bool:
        """Whether shares of GPUs are measured."""
        return self.settings.num_gpus == "auto" and self.gpus > 0

    def kind(self, model: str) -> str:
        """The kind of a model, whose size is known from now on."""
        name = model if self.automatic else entry(self.settings.resources, model)
        if name not in self.needs:
            amounts = self.settings.resources.get(entry(self.settings.resources, model), {})
            general = self.settings.num_gpus
            if "num_gpus" in amounts:
                gpus = amounts["num_gpus"]
            elif general != "auto":
                gpus = general
            else:
                gpus = min(1.0, self.gpus)
                self._unmeasured.add(name)
            self.needs[name] = Need(gpus, amounts.get("num_cpus", self.settings.num_cpus))
        return name

    def kinds(self, federation: Federation, clients: Iterable[int]) -> frozenset[str]:
        """The kinds of some clients' models."""
        return frozenset(self.kind(federation.client_models[client]) for client in clients)

    def of(self, kinds: Iterable[str]) -> Need:
        """The smallest size that is large enough for several kinds."""
        whole = Need(0.0, 0.0)
        for kind in kinds:
            whole = whole.joined(self.needs[kind])
        return whole

    def measure(self, kind: str, used: float) -> bool:
        """Take note of the share of a GPU's memory that a client used; whether the size changes.

        The first measurement makes the share of a model smaller; it is not made again.
        """
        if kind not in self._unmeasured:
            return False
        self._unmeasured.remove(kind)
        together = max(1, int(1 / max(used, SMALLEST_SHARE)))
        self.needs[kind] = replace(self.needs[kind], gpus=1 / together)
        return together > 1

    def halve(self, kinds: Iterable[str]) -> bool:
        """After GPU memory ran out: let half as many clients share a GPU; False if each has a whole one already."""
        shared = [kind for kind in kinds if 0 < self.needs[kind].gpus < 1]
        for kind in shared:
            self.needs[kind] = replace(self.needs[kind], gpus=min(1.0, 2 * self.needs[kind].gpus))
        return bool(shared)

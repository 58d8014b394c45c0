"""The exchanges of a federation and the clients that take part in each. No other file counts exchanges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from fedkd.base.errors import UserError
from fedkd.base.files import file_cache
from fedkd.base.streams import stream
from fedkd.channels.contract import CHANNELS, Channel
from fedkd.method import METHODS, Method
from fedkd.node.moment import Moment, Phase
from fedkd.protocol.start import Consolidate, consolidation
from fedkd.settings.federation import Federation


@dataclass(frozen=True, eq=False)
class Schedule:
    """The moments of one federation, in order: the start, hand-overs and a common start, preparations, rounds."""

    federation: Federation
    method: Method
    channel: Channel
    """what changes reports before they travel"""
    consolidation: Consolidate | None
    """how the clients' models become one before the method begins; None: they do not, or the method averages them"""

    @cached_property
    def moments(self) -> tuple[Moment, ...]:
        """All exchanges; `moments[n]` is exchange n."""
        planned = list(self._moments())
        numbered = [replace(moment, exchange=number) for number, moment in enumerate(planned)]
        return (*numbered[:-1], replace(numbered[-1], last=True))

    def _moments(self) -> Iterator[Moment]:
        before = self.start_rounds
        yield Moment(begins=self.consolidation is None)
        if self.consolidation:
            yield from (Moment(Phase.HANDOVER, step, booked=step, begins=False) for step in _numbers(self.handovers))
            yield Moment(Phase.TAKE_UP, booked=before)
        prepared = self.method.preparations
        for step in _numbers(prepared):
            yield Moment(Phase.PREPARE, step, since=step, booked=before, begins=False)
        for step in _numbers(self.federation.rounds):
            yield Moment(Phase.ROUND, step, since=prepared + step, booked=before + step, begins=False)

    @property
    def handovers(self) -> int:
        """Exchanges in which a client distils before the method begins."""
        return self.consolidation.handovers(self.federation.clients) if self.consolidation else 0

    @property
    def start_rounds(self) -> int:
        """Number of rounds of the results that the consolidation takes."""
        return max(self.handovers, 1) if self.consolidation else 0

    @property
    def last_round(self) -> int:
        """Number of the last round of the results."""
        return self.start_rounds + self.federation.rounds

    def completes(self, moment: Moment) -> bool:
        """Whether the round of this exchange is complete after it."""
        return moment.last or self.moments[moment.exchange + 1].booked != moment.booked

    def after(self, round: int) -> Moment:
        """The exchange that completes a round of the results; a resumed run begins with the next one.

        Raises:
            IndexError: there is no such round.
        """
        return [moment for moment in self.moments if moment.booked == round][-1]

    def participants(self, moment: Moment) -> tuple[int, ...]:
        """Ids of the clients that take part in an exchange, ascending.

        These are all clients at the start, and the learners afterwards; in a round only the share `participation` of
        them, at least one. The draw depends only on the seed and the round, so it is the same for all methods of a
        study.
        """
        return tuple(sorted(self._present(moment)))

    def _present(self, moment: Moment) -> frozenset[int]:
        """`participants` as a set, made once for each exchange, because each of many clients looks it up."""
        if moment.exchange not in self._sets:
            self._sets[moment.exchange] = frozenset(self._drawn(moment))
        return self._sets[moment.exchange]

    @cached_property
    def _sets(self) -> dict[int, frozenset[int]]:
        return {}

    def _drawn(self, moment: Moment) -> Iterable[int]:
        federation = self.federation
        if self.method.pools:
            return (0,)
        if moment.phase is Phase.START:
            return range(federation.clients)
        learners = federation.learners
        if moment.phase is not Phase.ROUND or federation.participation == 1:
            return learners
        # Rounding makes products such as 0.7·10 slightly smaller than the whole number.
        number = max(1, int(federation.participation * len(learners) + 1e-9))
        order = torch.randperm(len(learners), generator=stream(federation.seed, "participation", moment.step))
        return [learners[int(i)] for i in order[:number]]

    def absent(self, moment: Moment) -> tuple[int, ...]:
        """Ids of the learners that take no part in this round, ascending."""
        if moment.phase is not Phase.ROUND or self.method.pools or self.federation.participation == 1:
            return ()
        return tuple(client for client in self.federation.learners if client not in self._present(moment))

    def previous(self, client: int, moment: Moment) -> Moment:
        """The last exchange before this one in which the client took part. The client reads its state.

        Raises:
            LookupError: the client has not taken part before.
        """
        for earlier in reversed(self.moments[: moment.exchange]):
            if client in self._present(earlier):
                return earlier
        raise LookupError(f"client {client} has taken part in no exchange before {moment.exchange}")

    def goes_on(self, client: int, moment: Moment) -> bool:
        """Whether the client takes part in a later exchange."""
        return any(client in self._present(later) for later in self.moments[moment.exchange + 1 :])

    def merges(self, moment: Moment) -> bool:
        """Whether the server merges the reports of an exchange. After the last one nobody would read the result."""
        method, rounds = self.method, self.federation.rounds
        if moment.phase is Phase.HANDOVER or (not moment.begins and moment.phase is Phase.START):
            return True
        if method.reports(moment) == "nobody" and not (moment.begins and method.preparations):
            return False
        if moment.phase is Phase.PREPARE:
            return rounds > 0 or moment.step < method.preparations
        if moment.begins:
            return rounds > 0 or method.preparations > 0 or method.has_global_model
        return not moment.last or method.has_global_model

    def reporters(self, moment: Moment) -> frozenset[int]:
        """Ids of the clients that report in an exchange.

        Before the method begins these are all participants; then those that `Method.reports` says.
        """
        if not self.merges(moment):
            return frozenset()
        present = self._present(moment)
        before = not moment.begins and moment.phase in (Phase.START, Phase.HANDOVER)
        who = "everyone" if before else self.method.reports(moment)
        if who == "teachers":
            return present & set(self.federation.tutors)
        return present if who == "everyone" else frozenset()

    def check(self, labelled: bool) -> None:
        """Raise UserError if the federation cannot run; `labelled`: whether its transfer set has labels."""
        federation = self.federation
        if federation.participation < 1 and self.method.needs_everyone:
            raise UserError(
                f"recipe key 'participation': {federation.participation:g}, but in method {federation.method} "
                f"{self.method.needs_everyone}; use participation = 1.0"
            )
        if self.consolidation:
            self.consolidation.check(federation, labelled)
        self.method.check(federation, labelled)


@file_cache(maxsize=256)
def schedule_of(federation: Federation) -> Schedule:
    """The schedule of a federation.

    Raises:
        UserError: its method, its start or its channel is unknown.
    """
    method = METHODS.build(federation.method)
    plan = consolidation(federation.start)
    # `pooled` has a single model, so there is nothing to consolidate. A method that begins with the average would get
    # it one round late.
    if method.pools or (plan and plan.mean and method.begins_with_average):
        plan = None
    return Schedule(federation, method, CHANNELS.build(federation.channel), plan)


def _numbers(count: int) -> range:
    return range(1, count + 1)

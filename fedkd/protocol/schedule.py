"""The exchanges of a federation and the clients that take part in each. No other file counts exchanges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from fedkd.base.errors import UserError
from fedkd.base.files import file_cache
from fedkd.base.streams import stream
from fedkd.channels.contract import CHANNELS, Channel
from fedkd.method import METHODS, Method
from fedkd.models.architecture import Shape
from fedkd.node.moment import Moment, Phase
from fedkd.protocol.start import Consolidate, consolidation
from fedkd.settings.federation import Federation
from fedkd.training.stack_size import stack_size


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
        if self.method.pools:
            return frozenset((0,))
        if moment.phase is Phase.START:
            return self._all
        if moment.phase is not Phase.ROUND or not self._draws:
            return self._learners
        if moment.exchange not in self._sets:
            self._sets[moment.exchange] = frozenset(self._drawn(moment))
        return self._sets[moment.exchange]

    @cached_property
    def _sets(self) -> dict[int, frozenset[int]]:
        return {}

    @cached_property
    def _all(self) -> frozenset[int]:
        return frozenset(range(self.federation.clients))

    @cached_property
    def _learners(self) -> frozenset[int]:
        return frozenset(self.federation.learners)

    @cached_property
    def _tutors(self) -> frozenset[int]:
        return frozenset(self.federation.tutors)

    @property
    def _draws(self) -> bool:
        """Whether only some of the learners take part in a round."""
        return self.federation.participation < 1 and not self.method.pools

    def _drawn(self, moment: Moment) -> Iterable[int]:
        federation, learners = self.federation, self.federation.learners
        # Rounding makes products such as 0.7·10 slightly smaller than the whole number.
        number = max(1, int(federation.participation * len(learners) + 1e-9))
        order = torch.randperm(len(learners), generator=stream(federation.seed, "participation", moment.step))
        return [learners[int(i)] for i in order[:number]]

    def stacks(self, moment: Moment, shape: Shape, among: Collection[int]) -> list[tuple[int, ...]]:
        """The participants of an exchange by stacks: clients of one model, ascending, that may train in lockstep.

        They follow from models and clients alone, so that neither workers nor machines change a number; of each stack
        only those that are `among` some clients are given. `shape` is that of the samples.
        """
        by_model: dict[str, list[int]] = {}
        for client in self.participants(moment):
            by_model.setdefault(self.federation.client_models[client], []).append(client)
        sizes = {spec: stack_size(self.federation.train, spec, shape) for spec in by_model}
        stacks = (
            ids[start : start + sizes[spec]]
            for spec, ids in by_model.items()
            for start in range(0, len(ids), sizes[spec])
        )
        present = (tuple(client for client in stack if client in among) for stack in stacks)
        return [stack for stack in present if stack]

    def absent(self, moment: Moment) -> tuple[int, ...]:
        """Ids of the learners that take no part in this round, ascending."""
        if moment.phase is not Phase.ROUND or not self._draws:
            return ()
        return tuple(sorted(self._learners - self._present(moment)))

    def previous(self, client: int, moment: Moment) -> Moment:
        """The last exchange before this one in which the client took part. The client reads its state.

        Raises:
            LookupError: the client has not taken part before.
        """
        exchanges = self._exchanges(client)
        earlier = bisect_left(exchanges, moment.exchange)
        if not earlier:
            raise LookupError(f"client {client} has taken part in no exchange before {moment.exchange}")
        return self.moments[exchanges[earlier - 1]]

    def following(self, client: int, moment: Moment) -> Moment | None:
        """The next exchange after this one in which the client takes part; None: there is none."""
        exchanges = self._exchanges(client)
        later = bisect_right(exchanges, moment.exchange)
        return self.moments[exchanges[later]] if later < len(exchanges) else None

    def goes_on(self, client: int, moment: Moment) -> bool:
        """Whether the client takes part in a later exchange."""
        return self.following(client, moment) is not None

    def _exchanges(self, client: int) -> Sequence[int]:
        """Numbers of the exchanges in which a client takes part, ascending."""
        if self._draws:
            return self._drawn_exchanges.get(client, ())
        if client in self._present(self.moments[-1]):
            return range(len(self.moments))
        return range(1) if client in self._present(self.moments[0]) else ()

    @cached_property
    def _drawn_exchanges(self) -> dict[int, list[int]]:
        exchanges: dict[int, list[int]] = {client: [] for client in self._all}
        for moment in self.moments:
            for client in self._present(moment):
                exchanges[client].append(moment.exchange)
        return exchanges

    def evaluates(self, moment: Moment) -> bool:
        """Whether results show evaluations of this exchange: always at the start and in the last round."""
        if moment.last or moment.phase not in (Phase.ROUND, Phase.HANDOVER):
            return True
        return moment.booked % self.federation.evaluate.every == 0

    def evaluates_server(self, moment: Moment) -> bool:
        """Whether the server's model, if it has one, is evaluated after an exchange."""
        return "server" in self.federation.evaluate.of and self.evaluates(moment)

    def is_evaluated(self, client: int, moment: Moment) -> bool:
        """Whether a client is evaluated after an exchange: its model may have changed, and results show it.

        They show it in every exchange that evaluates, until the client's next one: its model stays the same meanwhile.
        """
        if moment.phase in (Phase.HANDOVER, Phase.PREPARE) or "clients" not in self.federation.evaluate.of:
            return False
        following = self.following(client, moment)
        until = self.moments[moment.exchange : following.exchange if following else None]
        return any(self.evaluates(shown) for shown in until)

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
        if moment.exchange not in self._reporting:
            self._reporting[moment.exchange] = self._asked(moment)
        return self._reporting[moment.exchange]

    @cached_property
    def _reporting(self) -> dict[int, frozenset[int]]:
        return {}

    def _asked(self, moment: Moment) -> frozenset[int]:
        if not self.merges(moment):
            return frozenset()
        present = self._present(moment)
        before = not moment.begins and moment.phase in (Phase.START, Phase.HANDOVER)
        who = "everyone" if before else self.method.reports(moment)
        if who == "teachers":
            return present & self._tutors if self._tutors < self._all else present
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

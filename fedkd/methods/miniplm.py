from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.difference_sampling import refinement, samplers
from fedkd.difference_sampling.samplers import PREFIX, SOFT, Score
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import scoped, under
from fedkd.knowledge.weights import packed, unpacked
from fedkd.method import METHODS, Method, Refresh, Reporters
from fedkd.methods.local import Local
from fedkd.models import ARCHITECTURES, Model, restored_model
from fedkd.node.moment import Moment, Phase, in_round
from fedkd.node.node import Node
from fedkd.settings.federation import Federation
from fedkd.tensors import top_k
from fedkd.tensors.losses import kl
from fedkd.tensors.ranking import highest, share
from fedkd.training.batch import Batch, Fit, Target
from fedkd.training.fit import fit

THEN = "then/"
"""Prefix of what belongs to the method of the rounds."""


@dataclass(frozen=True, config=STRICT)
class MiniPLM(Method):
    """Learn from the samples that a teacher finds easier than a small reference does, and leave out the rest.

    Gu et al., arXiv 2410.17215: the score of a sample is its mean loss per token by the reference minus that by the
    teacher. The samples with the highest scores are selected, in their order, and the student learns only from them.
    `score="all"` with `distil=0.5` is their vanilla KD; ours computes the teacher's predictions once instead of at
    every step. `generated` is sequence-level KD (Kim & Rush 2016, arXiv 1606.07947).

    The federated form is ours. The server trains both models on the transfer set with the settings of `[train]` and
    sends them once. Clients score their private samples. With `cut="global"` they upload two histograms of 4 KB for one
    common threshold: a coarse one, and one of the bin that contains the threshold. Then come the rounds of `then`, with
    as many steps as without a selection. Text is its own label; for images the transfer set must be labelled. A client
    without a sample above the threshold learns from its best one.

    Recorded: `kept`, the share of samples that is learnt from; `ngram_diversity`, the share of different 4-grams in it;
    `teacher_tokens` and `reference_tokens`, which the two models processed at a client, or the teacher generated at the
    server (an online teacher would process `samples` chunks of tokens each round); at the server, the tokens of their
    training (`teacher_trained_tokens`, `reference_trained_tokens`) and their loss on the transfer set.
    """

    keep: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """α, share of its samples, or of all, that is learnt from"""
    score: Score = "difference"
    """what is kept: the highest difference, the highest loss by the reference, the lowest difference, any, or all"""
    cut: Literal["client", "global"] = "client"
    """whose best: each client's own, or those of all together, which leaves some clients more than others"""
    teacher: str = ""
    """spec string of the good model, which may be a checkpoint:FILE; empty: as the first client's"""
    reference: str = ""
    """spec string of the poor model, as for the teacher"""
    teacher_epochs: Annotated[int, Ge(0)] = 12
    """epochs of the teacher on the transfer set; 0: it is good as it is"""
    reference_epochs: Annotated[int, Ge(0)] = 6
    """epochs of the reference on the transfer set"""
    distil: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """share of KL(teacher ‖ student) in the loss on what is kept, at T = 1; the rest is cross-entropy"""
    top_k: Annotated[int, Gt(0)] = 16
    """logits of each of the teacher's predictions that are stored for it"""
    generated: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """above 0: learn from text that the teacher writes instead, so many chunks for each of the client's own"""
    then: str = "local"
    """spec string of the method of the rounds: local, fedavg, or one that exchanges soft predictions, such as kd"""

    @model_validator(mode="after")
    def _parts_fit(self) -> MiniPLM:
        if self.inner.preparations:
            raise ValueError(f"then={self.then!r} has preparations of its own; use local, fedavg, kd, dml or dp_kd")
        if self.distil and (self.generated or not isinstance(self.inner, Local)):
            raise ValueError('distil needs then="local" or "pooled", and own samples instead of generated ones')
        if len(samplers.ROLES[self.score]) == 2 and not self.generated:
            models = [(self.teacher, self.teacher_epochs), (self.reference, self.reference_epochs)]
            if models[0] == models[1]:
                raise ValueError("teacher and reference are the same, so that no sample differs; change one of them")
        return self

    @cached_property
    def inner(self) -> Method:
        """The method of the rounds."""
        return METHODS.build(self.then)

    @property
    def refresh(self) -> Refresh:
        return self.inner.refresh

    @property
    def keeps(self) -> bool:
        return False  # the state holds what later rounds need; the two models must not be stored

    def reports(self, moment: Moment) -> Reporters:
        # Every client that learns asks for the models, even if it is no teacher.
        return self.inner.reports(moment) if moment.phase is Phase.ROUND else "everyone"

    @property
    def pools(self) -> bool:
        return self.inner.pools

    @property
    def has_global_model(self) -> bool:
        return self.inner.has_global_model

    @property
    def uses_absent(self) -> bool:
        return self.inner.uses_absent

    @property
    def needs_everyone(self) -> str:
        return self.inner.needs_everyone

    @property
    def preparations(self) -> int:
        return 2 if self._cuts_globally else 1

    @property
    def preparation(self) -> str:
        return "refinement"

    @property
    def _cuts_globally(self) -> bool:
        return self.cut == "global" and self.score != "all" and not self.generated

    @property
    def _sent(self) -> tuple[str, ...]:
        """Which models travel."""
        if self.generated:
            return ()
        asked = samplers.ROLES[self.score]
        return ("teacher", *asked) if self.distil and "teacher" not in asked else asked

    def check(self, federation: Federation, labelled: bool) -> None:
        if self._sent or self.generated:
            if federation.transfer == "private":
                raise UserError(
                    'method miniplm: the server trains on the transfer set, but transfer = "private" has none; '
                    'use transfer = "public(fraction=…)"'
                )
            kind = ARCHITECTURES.build(federation.client_models[0]).takes
            for role in ("teacher", "reference"):
                spec = getattr(self, role)
                if spec and {ARCHITECTURES.build(spec).takes, kind} == {"images", "text"}:
                    raise UserError(f"method miniplm: {role} = {spec!r} does not take {kind}, which clients hold")
            if kind == "images" and self.generated:
                raise UserError("method miniplm: generated = … is written text, but the clients' models take images")
            if kind == "images" and not labelled:
                raise UserError(
                    "method miniplm: teacher and reference learn from the transfer set, whose images have no labels; "
                    'use transfer = "public(fraction=…, labelled=true)"'
                )
        self.inner.check(federation, labelled)

    def setup(self, node: Node) -> None:
        self.inner.setup(node)

    def report(self, client: Node) -> Knowledge | None:
        tensors: dict[str, Tensor] = {}
        if client.moment.phase is not Phase.PREPARE and self.inner.is_asked(client):
            tensors |= scoped(THEN, self.inner.report(self._alone(client)) or {})
        if client.moment.begins and client.id in client.learners and (self._sent or self.generated):
            tensors[samplers.CHUNKS] = torch.tensor(len(client.private))
        if client.moment.phase is Phase.PREPARE and self._cuts_globally:
            tensors[samplers.COUNTS] = samplers.histogram(client)
        return Knowledge(tensors) if tensors else None

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        if server.moment.phase is Phase.PREPARE:
            return samplers.cut(server, reports, self.keep) if self._cuts_globally else {}
        known = {client: Knowledge(bag) for client, report in reports.items() if (bag := under(THEN, report))}
        merged = self.inner.merge(replace(server, moment=in_round(server.round)), known) if known else {}
        return merged if server.round > 0 else self._begin(server, reports, merged)

    def _begin(
        self, server: Node, reports: Mapping[int, Knowledge], merged: Mapping[int, Knowledge]
    ) -> dict[int, Knowledge]:
        """Knowledge for each client at the start: the models that it needs, text, and that of the inner method."""
        needed = ("teacher",) if self.generated else self._sent
        models = {
            role: samplers.trained(server, role, self._spec(server, role), getattr(self, f"{role}_epochs"))
            for role in needed
        }
        common: dict[str, Tensor] = {}
        for role in self._sent:
            common |= scoped(f"{PREFIX}{role}/", packed(models[role]))
        sent = {}
        for client in server.learners:
            bag = scoped(THEN, merged.get(client, Knowledge()))
            if samplers.CHUNKS in reports.get(client, ()):
                bag |= common
                if self.generated:
                    chunks = share(self.generated, int(reports[client][samplers.CHUNKS]))
                    spec = self._spec(server, "teacher")
                    bag[samplers.TEXT] = samplers.written(server, models["teacher"], spec, client, chunks)
            if bag:
                sent[client] = Knowledge(bag)
        return sent

    def global_model(self, server: Node) -> nn.Module | None:
        return self.inner.global_model(server)

    def prepare(self, client: Node, knowledge: Knowledge) -> None:
        if client.moment.since == 2:
            client.state[samplers.RANGE] = knowledge[samplers.RANGE]
            return
        client.state |= {name: value for name, value in knowledge.items() if name.startswith((THEN, samplers.TEXT))}
        if self.generated:
            samplers.record(client)
            return
        models = {role: self._restored(client, role, knowledge) for role in self._sent}
        scores = samplers.scores(client, self.score, models)
        if self._cuts_globally:
            client.state[samplers.SCORES] = scores
        else:
            keep = 1.0 if self.score == "all" else self.keep
            client.state[samplers.SELECTED] = highest(scores, keep)
        if self.distil:
            # With a global cut, `samplers.take` later drops the predictions of samples that are not selected.
            data = samplers.learnt_from(client)
            client.state[SOFT] = refinement.soft_labels(models["teacher"][1], data.x, self.top_k, client.compute)
            samplers.count(client, "teacher", data.x)
        if not self._cuts_globally:
            samplers.record(client)

    def learn(self, client: Node, knowledge: Knowledge) -> None:
        if samplers.THRESHOLD in knowledge:
            samplers.take(client, float(knowledge[samplers.THRESHOLD]))
            samplers.record(client)
        if client.round == 1 or self.inner.refresh != "every round":
            knowledge = Knowledge(under(THEN, client.state))
        alone = self._alone(client)
        if self.distil:
            target = Target(client.state[SOFT], samples=alone.private)
            fit(alone, Fit(self.loss, target, self.inner.labels))
        else:
            self.inner.learn(alone, knowledge)
        client.steps, client.samples = alone.steps, alone.samples

    def loss(self, batch: Batch) -> Tensor:
        assert batch.student is not None
        assert batch.teacher is not None
        taught = kl(batch.student, top_k.unpack(batch.teacher, batch.node.classes))
        return batch.ground_truth(self.distil) + self.distil * taught

    def _alone(self, client: Node) -> Node:
        """The client as the inner method sees it: its data are the selected samples, its steps as in any round."""
        steps = client.training.steps_a_round(len(client.private))
        training = replace(client.training, steps=steps)
        return replace(client, moment=in_round(client.round), data=samplers.learnt_from(client), training=training)

    def _spec(self, node: Node, role: str) -> str:
        given: str = getattr(self, role)
        return given or node.specs[node.learners[0]]

    def _restored(self, client: Node, role: str, knowledge: Knowledge) -> tuple[str, Model]:
        spec = self._spec(client, role)
        state = {name: value.to(client.device) for name, value in unpacked(knowledge, f"{PREFIX}{role}/").items()}
        return spec, restored_model(spec, client.shape, client.classes, state)

"""Which client holds which model, and how models start."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fedkd.base.catalogue import Catalogue
from fedkd.base.errors import UserError
from fedkd.base.files import file_cache
from fedkd.base.own_code import load_file
from fedkd.base.spec import parse, terms
from fedkd.base.streams import seed_of
from fedkd.models.architecture import Architecture, Model, Shape, check_kind
from fedkd.models.own import OwnModel, own_network
from fedkd.tensors.draws import Sources, seeded


class Architectures(Catalogue[Architecture]):
    """The architectures, and any network in a file of the user's own."""

    def build(self, text: str) -> Architecture:
        spec = parse(text)
        if spec.file:
            module = load_file(spec.file, self.noun)
            if self.entry(module, spec.name) is None:
                return own_network(spec, module)
        return super().build(text)


ARCHITECTURES = Architectures("model", "fedkd.models", Architecture)  # type: ignore[type-abstract]

_FORMS = 'write for example "cnn|mlp" (in turn), "cnn*3|mlp" (three of four), "0: resnet20 | 1-4: cnn" (by client)'
_CLIENTS = re.compile(r"^(\d+(?:\s*-\s*\d+)?(?:\s*,\s*\d+(?:\s*-\s*\d+)?)*)\s*:\s*(.*)$", re.DOTALL)
_WEIGHT = re.compile(r"^(.*)\*\s*(\d+(?:\.\d+)?)$", re.DOTALL)


@dataclass(frozen=True)
class _Alternative:
    """One of several models."""

    spec: str
    weight: float
    clients: frozenset[int] | None
    """the clients that it is for; None: those that no other alternative names"""


@lru_cache(maxsize=64)
def assignment(models: str, clients: int) -> tuple[str, ...]:
    """The model of each client, (clients,) spec strings.

    `a|b` gives a to the first client, b to the second, and so on in turn; `a*3|b` gives a to three of four, as
    evenly as can be; `0: a | 1-4: b | c` names clients, and the rest take the alternatives without a name in turn.

    Raises:
        UserError: an alternative is empty or goes to nobody, a client has none or two, or is not there.
    """
    alternatives = [_read(part, models, clients) for part in terms(models, "|")]
    given: dict[int, str] = {}
    for alternative in alternatives:
        for client in sorted(alternative.clients or ()):
            if client in given:
                raise UserError(f"models = {models!r}: client {client} is given two models; give it one")
            given[client] = alternative.spec
    shared = [alternative for alternative in alternatives if alternative.clients is None]
    rest = [client for client in range(clients) if client not in given]
    if rest and not shared:
        raise UserError(f"models = {models!r}: client {rest[0]} has no model; add one for the rest, as in {models}|cnn")
    turns = list(itertools.islice(_turns([each.weight for each in shared]), len(rest)))
    given |= {client: shared[turn].spec for client, turn in zip(rest, turns, strict=True)}
    used = set(turns)
    if idle := [alternative.spec for turn, alternative in enumerate(shared) if turn not in used]:
        raise UserError(f"models = {models!r}: no client is left for {idle[0]} among {clients}; add clients or drop it")
    return tuple(given[client] for client in range(clients))


def _turns(weights: Sequence[float]) -> Iterator[int]:
    """Endless indices of alternatives: always the one furthest below its share; of equal ones, the first."""
    if len(set(weights)) == 1:
        yield from itertools.cycle(range(len(weights)))
    total, counts = sum(weights), [0] * len(weights)
    for number in itertools.count(1):
        lag = [round(weight / total * number - count, 9) for weight, count in zip(weights, counts, strict=True)]
        chosen = lag.index(max(lag))
        counts[chosen] += 1
        yield chosen


def _read(part: str, models: str, clients: int) -> _Alternative:
    named = _CLIENTS.match(part)
    chosen = None
    if named:
        chosen, part = frozenset(_ids(named[1], models, clients)), named[2].strip()
    weighed = _WEIGHT.match(part)
    weight = 1.0
    if weighed:
        part, weight = weighed[1].strip(), float(weighed[2])
    if not part:
        raise UserError(f"models = {models!r}: an alternative is empty; {_FORMS}")
    if weighed and (named or not weight):
        raise UserError(f"models = {models!r}: a weight is above 0, and for models without named clients; {_FORMS}")
    return _Alternative(str(parse(part)), weight, chosen)


def _ids(text: str, models: str, clients: int) -> list[int]:
    listed: list[int] = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        # A range as long as a number can be written would fill the memory.
        ids = range(int(first), min(int(last or first), clients) + 1)
        if not ids or ids[-1] >= clients:
            raise UserError(f"models = {models!r}: there is no client {item.strip()}; clients are 0 to {clients - 1}")
        listed += ids
    return listed


def build_model(spec: str, shape: Shape, classes: int, seed: int, purpose: str, client: int = 0) -> Model:
    """A model whose initial weights depend on (seed, purpose, spec) alone, or are those that the spec names.

    Raises:
        UserError: the inputs are of another kind, or too small or too long for it, or its weights are not there or do
            not fit.
    """
    architecture = _architecture(spec)
    check_kind(spec, architecture, shape)
    with seeded(_drawing(spec), seed_of(seed, purpose, spec)):
        model = architecture.build(shape, classes)
    if (weights := architecture.initial(model, client)) is not None:
        model.load_state_dict({**model.state_dict(), **weights})
    return _laid_out(model)


def restored_model(spec: str, shape: Shape, classes: int, weights: Mapping[str, Tensor]) -> Model:
    """A model that takes over given weights: none are drawn, and no memory is allocated twice."""
    # A copy of a network without memory is made in a fraction of the time that its layers take to be built.
    model = _empty(spec, shape, classes) if parse(spec).file else copy.deepcopy(_template(spec, shape, classes))
    model.load_state_dict(weights, assign=True)
    return _laid_out(model.requires_grad_(True))


@file_cache(maxsize=64)
def _template(spec: str, shape: Shape, classes: int) -> Model:
    return _empty(spec, shape, classes)


def _empty(spec: str, shape: Shape, classes: int) -> Model:
    """A model without memory for its weights."""
    with seeded(_drawing(spec), 0), torch.device("meta"):
        return _architecture(spec).build(shape, classes)


@lru_cache(maxsize=64)
def _drawing(spec: str) -> Sources:
    """Generators that initial weights are drawn from: torch's global one; by a user's own code, any."""
    return Sources(torch=True, others=bool(parse(spec).file))


def _laid_out(model: Model) -> Model:
    # Channels last: convolutions and pooling of small images take a third to two thirds of the time.
    if isinstance(model, OwnModel):
        return model  # its `view` would fail
    return model.to(memory_format=torch.channels_last)


@file_cache(maxsize=64)
def _architecture(spec: str) -> Architecture:
    return ARCHITECTURES.build(spec)

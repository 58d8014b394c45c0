"""Training, scoring and text generation with teacher and reference. All results are cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor

from fedkd.base.added import identity
from fedkd.base.errors import DivergedError, UserError
from fedkd.base.spec import own_code
from fedkd.base.store import cached_tensors, content_key
from fedkd.base.streams import stream
from fedkd.data import cache_root
from fedkd.difference_sampling.difference import sample_losses
from fedkd.models import Model, build_model
from fedkd.models.architecture import Shape
from fedkd.node.node import SERVER, Node
from fedkd.settings.training import Optimisation, Training
from fedkd.tensors import top_k
from fedkd.tensors.compute import PLAIN, Compute
from fedkd.tensors.losses import cross_entropy
from fedkd.tensors.samples import Data, rows_a_sample, rows_of
from fedkd.training.batch import Batch, Fit
from fedkd.training.fit import fit

SCHEMA = 1
"""Increase it when equal inputs give other results. Older cache files are then not used any more."""
PIECE = 4096
"""Rows of predictions in memory at the same time."""

Progress = Callable[[str, int, int], None]
"""Called with (name of the work, amount done, amount in all)."""


def learnable(public: Data) -> Data:
    """Public samples as training data: text is its own label, all but the first token of a chunk.

    Raises:
        UserError: they are images without labels.
    """
    if public.y is not None:
        return public
    if rows_a_sample(public.x) == 1:
        raise UserError("teacher and reference learn from the transfer set, but these images have no labels")
    return Data(public.x[:, :-1], public.x[:, 1:].flatten())


def trained(
    spec: str,
    epochs: int,
    public: Data,
    shape: Shape,
    classes: int,
    *,
    seed: int,
    settings: Optimisation,
    progress: Progress | None = None,
) -> Model:
    """A model of this spec, trained for `epochs` on labelled samples. Each epoch starts with a fresh optimiser.

    Raises:
        UserError: there is no such model, it cannot take such samples, or its training diverged.
    """
    model = build_model(spec, shape, classes, seed, "init/public").to(public.x.device)
    if not epochs:
        return model

    def train() -> dict[str, Tensor]:
        chosen = Training(
            **{name: value for name, value in asdict(settings).items() if name not in ("epochs", "steps")}
        )
        node = Node(SERVER, 1, seed, chosen, classes, data=public, device=public.x.device, models={"student": model})
        steps = chosen.steps_a_round(len(public))
        job = Fit(_next_token, steps=steps, horizon=epochs * steps, period=steps)
        for epoch in range(epochs):
            if progress:
                progress(f"training {spec}", epoch, epochs)
            try:
                fit(node, replace(job, first=epoch * steps))
            except DivergedError as error:
                raise UserError(
                    f"{spec}: its training on public samples diverged in epoch {epoch + 1}; lower train.lr"
                ) from error
        return model.state_dict()

    known = {name: value for name, value in sorted(identity(settings).items()) if name not in ("epochs", "steps")}
    parts = [
        spec,
        *map(str, sorted((own_code(spec) | own_code(settings.schedule)).items())),
        str(known),
        str(epochs),
        str(seed),
        *_content(model),
        public.x,
        _labels(public),
    ]
    model.load_state_dict(_remembered("trained", parts, train))
    return model


def losses(model: Model, spec: str, data: Data, progress: Progress | None = None, compute: Compute = PLAIN) -> Tensor:
    """(n,) float32: the mean loss of each sample in nats a row, of a model of this spec: see `sample_losses`."""
    scoring = partial(progress, f"scoring by {spec}") if progress else None
    parts = [
        spec,
        *map(str, sorted(own_code(spec).items())),
        *_content(model),
        data.x,
        _labels(data),
        *_precision(compute),
    ]
    computed = _remembered("losses", parts, lambda: {"losses": sample_losses(model, data, PIECE, scoring, compute)})[
        "losses"
    ]
    return computed.to(data.x.device)


def soft_labels(model: Model, x: Tensor, k: int, compute: Compute = PLAIN) -> Tensor:
    """(rows, bytes) uint8: what a model predicts at each row of (n, …) samples, in its top-k form (`fedkd.top_k`)."""
    pieces = torch.split(x, max(1, PIECE // rows_a_sample(x)))
    return torch.cat([top_k.pack(compute.outputs(model, piece).flatten(0, -2), k) for piece in pieces])


def written(model: Model, spec: str, first: Tensor, length: int, *names: int | str, compute: Compute = PLAIN) -> Tensor:
    """(n, length + 1) int64 text that a model of this spec generates from (n,) first tokens, sampled at T = 1.

    The text depends only on the model, the first tokens and `names`.
    """

    def write() -> dict[str, Tensor]:
        rng = stream("written", *names)
        chunks = []
        for part in torch.split(first, max(1, PIECE // length)):
            text = part[:, None]
            for _ in range(length):
                chances = compute.outputs(model, text)[:, -1].float().softmax(1)
                text = torch.cat([text, torch.multinomial(chances.cpu(), 1, generator=rng).to(text.device)], 1)
            chunks.append(text)
        return {"written": torch.cat(chunks)}

    parts = [
        spec,
        *map(str, sorted(own_code(spec).items())),
        *_content(model),
        first,
        str(length),
        repr(names),
        *_precision(compute),
    ]
    return _remembered("written", parts, write)["written"].to(first.device)


def subset(data: Data, index: Tensor) -> Data:
    """The samples at (k,) indices, with the labels of all their rows."""
    return Data(data.x[index], rows_of(_labels(data), index, len(data)))


def _next_token(batch: Batch) -> Tensor:
    return cross_entropy(batch.labelled, batch.labels)


def _labels(data: Data) -> Tensor:
    assert data.y is not None
    return data.y


def _content(model: Model) -> list[Tensor | str]:
    state = model.state_dict()
    return [part for name in sorted(state) for part in (name, state[name])]


def _precision(compute: Compute) -> list[str]:
    """The settings that change numbers; nothing for the defaults, so that older cache keys stay valid."""
    plain = replace(compute, device=PLAIN.device) == PLAIN
    return [] if plain else [compute.precision, str(compute.compile)]


def _remembered(kind: str, parts: Sequence[Tensor | str], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that `make` returns, read from a checksummed cache file if it ran with equal parts before."""
    head = repr([SCHEMA, torch.__version__, kind])
    key = content_key(head, *(part if isinstance(part, Tensor) else repr(part) for part in parts))
    return cached_tensors(cache_root() / "refined" / f"{key}.safetensors", make)

"""A trial run of a network before a study begins, which finds errors and random results early."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.spec import parse
from fedkd.base.streams import stream
from fedkd.models.architecture import Model, Shape
from fedkd.models.assign import build_model, restored_model
from fedkd.tensors.compute import PLAIN
from fedkd.tensors.draws import Sources, seeded

_EVERYTHING = Sources(torch=True, others=True)


def try_network(spec: str, shape: Shape, classes: int, client: int = 0) -> None:
    """Build a network as a client would.

    For a user's own network, also compute predictions for two samples, in evaluation and in training mode, and compare
    them with those of a copy that was restored from its state.

    Raises:
        UserError: it cannot be built, cannot take such samples, or gives other results when it is run again.
    """
    built = build_model(spec, shape, classes, 0, "trial", client)
    if not parse(spec).file:
        return
    state = {name: value.clone() for name, value in built.state_dict().items()}
    restored = restored_model(spec, shape, classes, state)
    rng = stream("trial")
    x = torch.rand(2, *shape, generator=rng) if len(shape) > 1 else torch.randint(classes, (2, *shape), generator=rng)
    first, again, other = (_outputs(of.eval(), x, seed) for of, seed in ((built, 0), (built, 1), (restored, 0)))
    if not (_same(first, again) and _same(first, other)):
        raise UserError(
            f"model {spec}: it does not give the same predictions twice in evaluation mode; draw random numbers only "
            "where self.training is true, and keep all that forward() needs in parameters and buffers"
        )
    if not _same(*(_outputs(of.train(), x, 0) for of in (built, restored))):
        raise UserError(
            f"model {spec}: it draws from a stream that cannot be seeded, so that no run could be repeated; draw from "
            "torch's global stream, as nn.Dropout and torch.rand do, and not from a generator of its own"
        )


def _outputs(model: Model, x: Tensor, seed: int) -> Tensor:
    with seeded(_EVERYTHING, seed), torch.no_grad():
        return PLAIN(model, x)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)

"""All calls of a network: precision, compilation and evaluation mode are decided here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.base.numerics import Precision
from fedkd.tensors.chunks import chunk, pieces
from fedkd.tensors.samples import rows_a_sample

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Compute:
    """How networks compute: in training, in prediction and in evaluation.

    With `bfloat16`, matrix products and convolutions are in bfloat16 where torch considers that safe (autocast), and
    what comes out is float32 again. What is given in float64 stays in float64. `compile` has torch compile a network
    the first time that it is called.
    """

    device: torch.device = CPU
    """where models and samples are"""
    precision: Precision = "float32"
    compile: bool = False

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        """Output of a network, with gradients unless the caller has turned them off."""
        if self.compile and getattr(model, "_compiled_call_impl", None) is None:
            model.compile()
        return self._computed(model, x)

    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        """(rows, classes) predictions of a network for (n, …) samples: a row for an image, and one a token for text."""
        return self(model, x).flatten(0, -2)

    def features(self, model: Any, x: Tensor) -> Tensor:
        """(rows, width) inputs of a model's head, in evaluation mode and without gradients."""
        model.eval()
        with torch.no_grad():
            return self._computed(model.features, x).flatten(0, -2)

    def outputs(self, model: nn.Module, x: Tensor) -> Tensor:
        """Output of a network in evaluation mode, without gradients."""
        model.eval()
        with torch.no_grad():
            return self(model, x)

    def predicted(self, model: nn.Module, parts: Sequence[Tensor], size: int | None = None) -> Tensor:
        """(rows, classes) predictions for the samples of all parts in order, in evaluation mode, without gradients.

        `size` samples are computed at a time; None: as many as `chunk` says.
        """
        model.eval()
        logits, at = torch.empty(0), 0
        for piece in pieces(parts, size or self.chunk(model, parts[0])):
            with torch.inference_mode():
                part = self.logits(model, piece)
            # Each piece is put where it belongs at once: those of a whole text, in a list first, would be there twice.
            if not at:
                rows = sum(map(len, parts)) * rows_a_sample(piece)
                logits = torch.empty(rows, part.shape[1], dtype=part.dtype, device=part.device)
            logits[at : at + len(part)] = part
            at += len(part)
        return logits

    def chunk(self, model: nn.Module, x: Tensor) -> int:
        """Samples such as those in x that a network in evaluation mode computes at a time."""
        return chunk(model, x, rows_a_sample(x), lambda one: self._computed(model.forward, one), self.precision)

    def _computed(self, network: Any, x: Tensor) -> Tensor:
        if self.precision == "float32":
            exact: Tensor = network(x)
            return exact
        with torch.autocast(self.device.type, torch.bfloat16):
            rounded: Tensor = network(x)
        return rounded.float() if rounded.dtype == torch.bfloat16 else rounded


PLAIN = Compute()
"""On the CPU, in float32, as torch does by itself."""

"""Per-class soft labels from the similarity of autoencoder embeddings, as a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fedkd.base.catalogue import STRICT
from fedkd.base.errors import UserError
from fedkd.distillation import autoencoder
from fedkd.distillation.similarity import (
    class_sums,
    needed_boost,
    pair_counts,
    pair_sums,
    similarity,
    soft_labels,
    some_of_each,
)
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import scoped, under
from fedkd.node.node import Node
from fedkd.tensors.losses import Temperature

SOFT_LABELS = "soft_labels"
"""Name of the (classes, classes) log q, on the wire and in a client's state."""
NAMED = 20
"""Classes up to which the similarity of every two is written into the results."""
_ENCODER = "encoder/"
_SUMS, _COUNTS = "class_sums", "class_counts"


@dataclass(frozen=True, config=STRICT)
class ClassTeacher:
    """Soft labels q_y of every class, from one autoencoder that all clients share.

    Doshi & Kim, arXiv 2404.09886; the federated form is ours. After the start the server trains an autoencoder on the
    transfer inputs and sends its encoder (`offer`). Clients embed their private samples (`embed`) and send sums and
    counts of each class (`report`). The similarities from these do not depend on which client has which sample. The
    server computes q from them (`soft_labels`).
    """

    samples: Annotated[int, Ge(0)] = 40
    """most samples of a class that a client embeds; 0: all"""
    boost: Annotated[float, Ge(0)] | None = None
    """added to each class's similarity to itself; None: as little as makes it the largest of its row"""
    tau: Temperature = 1.0
    """τ, divides similarities before the softmax"""
    epochs: Annotated[int, Gt(0)] = 50
    """epochs of the autoencoder's training"""

    def offer(self, server: Node) -> dict[str, Tensor]:
        """Train the autoencoder; the weights of its encoder, with which clients embed their samples.

        Raises:
            UserError: the samples are not images.
        """
        if len(server.shape) != 3:
            raise UserError("an autoencoder embeds images, but the samples are text; leave it out of teachers")
        trained = autoencoder.train_once(server.public.x, self.epochs, server.rng("autoencoder"))
        book(server, trained)
        return scoped(_ENCODER, trained.network.encoder.state_dict())

    def embed(self, client: Node, knowledge: Mapping[str, Tensor]) -> None:
        """Embed a client's samples with the encoder that it received."""
        weights = {name: value.to(client.device) for name, value in under(_ENCODER, knowledge).items()}
        encoder = autoencoder.restored_encoder(client.shape[0], weights)
        sums, client.state[_COUNTS] = self.sums(client, encoder)
        client.state[_SUMS] = sums.float()  # summed in float64; half the bytes are sent

    def report(self, client: Node) -> dict[str, Tensor]:
        """What a client sends about its embeddings: (classes, latent) float32 sums and (classes,) counts."""
        return {name: client.state.pop(name) for name in (_SUMS, _COUNTS)}

    def taught(self, server: Node, reports: Mapping[int, Knowledge]) -> Tensor:
        """(classes, classes) log q from the reports of all clients, added in the order of their ids."""
        in_order = [reports[client] for client in sorted(reports)]
        sums, counts = (torch.stack([each[name] for each in in_order]) for name in (_SUMS, _COUNTS))
        sums, counts = sums.double().sum(0), counts.sum(0)
        return self.soft_labels(server, pair_sums(sums, counts), pair_counts(counts))

    def soft_labels(self, server: Node, sums: Tensor, pairs: Tensor) -> Tensor:
        """(classes, classes) log q from `pair_sums` and `pair_counts`; records similarities and boost."""
        similarities = similarity(sums, pairs)
        boost = needed_boost(similarities, self.tau) if self.boost is None else self.boost
        server.record("boost", boost)
        if server.classes <= NAMED:
            for a, b in torch.triu_indices(server.classes, server.classes).T.tolist():
                server.record(f"similarity/{a}/{b}", float(similarities[a, b]))
        return soft_labels(similarities, boost, self.tau).float()

    def sums(self, client: Node, encoder: nn.Module) -> tuple[Tensor, Tensor]:
        """Sums and counts of the unit embeddings of each class of a client's own samples."""
        labels = client.private.y
        assert labels is not None
        index = some_of_each(labels, self.samples, client.rng("similarity"))
        # In float64 the other samples of a batch change an embedding only in its last digits.
        embeddings = autoencoder.embed(encoder.double(), client.private.x[index])
        return class_sums(embeddings, labels[index], client.classes)


def book(node: Node, trained: autoencoder.Trained) -> None:
    """Record the cost and the loss of an autoencoder, separate from the cost of the rounds."""
    node.record("encoder_steps", trained.steps)
    node.record("encoder_samples", trained.samples)
    node.record("encoder_loss", trained.loss)

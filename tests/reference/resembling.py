"""ReffAKD: soft labels by how alike an autoencoder finds classes; alone, and beside other teachers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference.alone import seen
from tests.reference.distillation import KD, one_round
from tests.reference.formulas import mean_of_logits
from tests.reference.ledger import Ledger
from tests.reference.rounds import Known, begin, labelled_rows, teach, teachers_of, tell
from tests.reference.training import Loss, Step, learn
from tests.reference.wire import cost, cost_of
from tests.reference.world import SERVER, Client, World, shuffled, stream

LATENT = 48 * 4 * 4
"""Numbers of an embedding of a 32×32 image."""


@dataclass(frozen=True)
class Classes:
    """How similar classes are found to be: the settings of reffakd, and of an autoencoder among the teachers."""

    samples: int = 40
    boost: float | None = None
    tau: float = 1.0
    epochs: int = 50

    def soft_labels(self, world: World, ledger: Ledger, sums: Tensor, pairs: Tensor) -> Tensor:
        """(classes, classes) log q: row y is the soft label of class y."""
        apart = ~torch.eye(world.classes, dtype=torch.bool)
        known = pairs > 0
        # Pairs that nobody has seen are as alike as different classes are on average.
        alike = torch.where(known, sums / pairs, (sums[known & apart] / pairs[known & apart]).mean())
        alike = (alike + alike.T) / 2
        gap = (alike.masked_fill(~apart, -math.inf).max(1).values - alike.diagonal()).max().item()
        boost = max(0.0, gap + 1e-6 * max(self.tau, 1)) if self.boost is None else self.boost
        ledger.add(0, SERVER, "boost", boost)
        for a in range(world.classes):
            for b in range(a, world.classes):
                ledger.add(0, SERVER, f"similarity/{a}/{b}", alike[a, b].item())
        return F.log_softmax((alike + boost * torch.eye(world.classes)) / self.tau, 1).float()

    def sums(self, world: World, client: Client, encoder: nn.Module) -> tuple[Tensor, Tensor]:
        """(classes, latent) sums of the unit embeddings of a client's samples, and (classes,) their counts."""
        sums = torch.zeros(world.classes, LATENT, dtype=torch.float64)
        counts = torch.zeros(world.classes, dtype=torch.int64)
        for index in shuffled(len(client.private), world.seed, "similarity", client.id):
            label = int(client.private.y[index])
            if self.samples and counts[label] == self.samples:
                continue
            with torch.no_grad():
                embedding = encoder.double()(resized(client.private.x[index : index + 1].double())).flatten()
            sums[label] += embedding / embedding.norm()
            counts[label] += 1
        return sums, counts


def resized(x: Tensor) -> Tensor:
    """Images of 8×8 at 32×32."""
    return F.interpolate(x, (32, 32), mode="bilinear", align_corners=False)


def autoencoder(channels: int, rng: torch.Generator) -> nn.Sequential:
    """Its first six layers are the encoder. Initial weights: He's uniform ones by what reaches a value; no biases."""
    widths = [channels, 12, 24, 48]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    for before, after in itertools.pairwise(reversed(widths)):
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    layers[-1] = nn.Sigmoid()
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            reached = layer.in_channels * (16 if isinstance(layer, nn.Conv2d) else 4)
            nn.init.uniform_(layer.weight, -math.sqrt(6 / reached), math.sqrt(6 / reached), generator=rng)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


def trained_encoder(world: World, ledger: Ledger, who: int, x: Tensor, epochs: int) -> nn.Sequential:
    """An encoder trained on images by one party, which books what it took."""
    rng, images = stream(world.seed, "autoencoder", who), resized(x)
    network = autoencoder(x.shape[1], rng)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps = 0
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=rng)
        for first in range(0, len(images), 8):
            part = images[order[first : first + 8]]
            optimiser.zero_grad()
            (network(part) - part).pow(2).mean().backward()
            optimiser.step()
            steps += 1
    with torch.no_grad():
        loss = (network(images) - images).pow(2).mean().item()
    for metric, value in (("steps", steps), ("samples", epochs * len(images)), ("loss", loss)):
        ledger.add(0, who, f"encoder_{metric}", value)
    return network[:6]


def shared(world: World, ledger: Ledger, of: Classes) -> Tensor:
    """One encoder for all: the server sends it, clients send sums and counts, q is made of their totals."""
    encoder = trained_encoder(world, ledger, SERVER, world.transfer.x, of.epochs)
    down = cost_of(encoder.state_dict())
    sums = torch.zeros(world.classes, LATENT, dtype=torch.float64)
    counts = torch.zeros(world.classes, dtype=torch.int64)
    for client in world.learnt():
        own, number = of.sums(world, client, encoder)
        up = cost(own.float().numpy()) + cost(number.numpy())
        ledger.down(0, client.id, down)
        ledger.up(0, client.id, up)
        sums, counts = sums + own.float(), counts + number
    pairs = torch.outer(counts, counts) - counts.diag()
    return of.soft_labels(world, ledger, sums @ sums.T - counts.diag(), pairs)


def reffakd(
    world: World, *, alpha: float = 0.1, temperature: float = 1.0, encoder: str = "shared", **settings: object
) -> Ledger:
    """(1 − α)·CE + α·T²·KL(q_y ‖ p^T) on all labelled samples; q is not softened."""
    of = Classes(**settings)  # type: ignore[arg-type]
    ledger = begin(world)
    if encoder == "shared":
        q = shared(world, ledger, of)
        note_bytes(world, ledger)
    else:
        sums = torch.zeros(world.classes, world.classes, dtype=torch.float64)
        pairs = torch.zeros(world.classes, world.classes, dtype=torch.int64)
        for client in world.learnt():
            network = trained_encoder(world, ledger, client.id, client.private.x, of.epochs)
            own, counts = of.sums(world, client, network)
            told = (own @ own.T - counts.diag()).float()
            ledger.up(0, client.id, cost(told.numpy()) + cost(counts.numpy()))
            sums, pairs = sums + told, pairs + torch.outer(counts, counts) - counts.diag()
        q = of.soft_labels(world, ledger, sums, pairs)

    def loss_of(client: Client) -> Loss:
        def loss(step: Step) -> Tensor:
            logits, labels = labelled_rows(world, client, step)
            soft = F.kl_div(F.log_softmax(logits / temperature, 1), q[labels], log_target=True, reduction="batchmean")
            return (1 - alpha) * F.cross_entropy(logits, labels) + alpha * temperature**2 * soft

        return loss

    for round in range(1, world.rounds + 1):
        for client in world.learnt():
            if round == 1:
                ledger.down(round, client.id, cost(q.numpy()))
            learn(world, client, round, loss_of(client), common=seen(world))
            ledger.judge(round, client)
    return ledger


def note_bytes(world: World, ledger: Ledger, before: dict[int, float] | None = None) -> None:
    """What a preparation cost stands apart too."""
    for client in world.learnt():
        spent = sum(ledger.rows[0, client.id, "", metric] for metric in ("bytes_up", "bytes_down"))
        ledger.add(0, client.id, "encoder_bytes", spent - (before or {}).get(client.id, 0.0))


def kd_with_classes(world: World, *, peers: bool, classes: Classes, of: KD) -> Ledger:
    """kd in which the autoencoder is one more teacher, or the only one: what it says of a sample is its class's q."""
    ledger = begin(world)
    taught: dict[int, Tensor] = {}
    if peers:
        known: Known = tell(world, ledger, 0, of.wire, world.tutors)
    reported = {client.id: ledger.rows[0, client.id, "", "bytes_up"] for client in world.learnt()}
    for client in world.learnt():
        if peers:
            others = teachers_of(world, "others", client.id, 0)
            taught[client.id] = teach(world, ledger, 0, of.wire, known, client.id, others, lambda apart: apart)
    q = shared(world, ledger, classes)
    note_bytes(world, ledger, reported)
    for round in range(1, world.rounds + 1):
        for client in world.learnt():
            if round == 1:
                ledger.down(round, client.id, cost(q.numpy()))
            of_class = q[world.transfer.y][None]
            told = taught.get(client.id)
            one_round(world, ledger, client, round, of, of_class if told is None else torch.cat([told, of_class]))
            ledger.judge(round, client, teacher=None if told is None else mean_of_logits(told))
    return ledger

"""How well influence foretells what training the last layer anew would do, for ten clients under iid and under skew.

    python -m benchmarks.agreement [--dataset digits] [--model "mlp(hidden=[32])"] [--samples 60]

Each client is pre-trained on its shard and taught by the mean of the others. For every one of some samples of the
transfer set its last layer is trained anew, by a Newton method on plain formulae, with this sample learnt from its
label and all others distilled. Prints, for each client, Spearman's correlation of the change of the validation loss
with the scores of `influence`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedkd.distillation.selections.influence import Influence
from fedkd.method import METHODS
from fedkd.models import build_model
from fedkd.node.node import Node
from fedkd.protocol.participant import participant
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining
from fedkd.training.batch import Target
from fedkd.training.pretrain import pretrain
from simulations.data import load_holdings

PARTITIONS = ("iid", "dirichlet(alpha=0.1, min_size=20)")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--model", default="mlp(hidden=[32])")
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--weight", type=float, default=0.9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for partition in PARTITIONS:
        federation = Federation(
            "kd",
            dataset=given.dataset,
            partition=partition,
            models=given.model,
            clients=10,
            rounds=1,
            transfer="public(fraction=0.2, labelled=true)",
            pretrain=Pretraining(lr=0.05),
        )
        nodes = [started(federation, client) for client in range(federation.clients)]
        logits = torch.stack([node.transfer_logits() for node in nodes])
        found = []
        for node in nodes:
            others = torch.cat([logits[: node.id], logits[node.id + 1 :]]).mean(0)
            found.append(agreement(node, others, given.weight, given.samples))
        print(f"{partition}: lowest {min(found):.4f}; " + " ".join(f"{value:.4f}" for value in found))


def started(federation: Federation, client: int) -> Node:
    """A client with its data and its pre-trained model."""
    own, spec = load_holdings(federation, client), federation.client_models[client]
    node = participant(schedule_of(federation), client, own)
    node.models["student"] = build_model(spec, own.shape, own.classes, federation.seed, "init/common", client)
    pretrain(node, node.student, spec, federation.pretrain)
    return node


def agreement(node: Node, teacher: Tensor, weight: float, samples: int, damping: float | None = None) -> float:
    """Spearman's correlation of `influence` with true training of a client's last layer under kd at T = 1.

    Args:
        node: a client with validation samples and a labelled transfer set.
        teacher: (n, classes) logits.
        weight: w of kd.
        samples: of how many transfer samples, spread evenly.
        damping: that of `influence`; its default where None.
    """
    influence = Influence() if damping is None else Influence(damping=damping)
    scores = influence.scores(node, Target(teacher), METHODS.build(f"kd(weight={weight})").loss)
    chosen = torch.arange(0, len(scores), max(1, len(scores) // samples))
    return float(spearmanr(scores[chosen], retraining(node, teacher, weight, chosen, influence.damping)).statistic)


def hessian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Second derivatives of a scalar function at (n,) weights."""
    found: Tensor = torch.autograd.functional.hessian(function, at, vectorize=True)  # type: ignore[no-untyped-call]
    return found


def retraining(node: Node, teacher: Tensor, weight: float, chosen: Tensor, damping: float) -> list[float]:
    """By how much the validation loss rises where one of the chosen samples is not distilled, the last layer being
    trained to the end each time, held to where it is by λ/2·‖θ − θ₀‖²; λ is `damping` times the mean curvature."""
    model = node.student.eval()
    assert node.val is not None
    parts = (node.private, node.public, node.val)
    with torch.no_grad():
        own, common, held = (model.features(part.x).flatten(0, -2).double() for part in parts)
    labels = [part.y for part in parts if part.y is not None]
    soft = teacher.double().log_softmax(1)
    start = torch.cat([model.head.weight, model.head.bias.unsqueeze(1)], 1).detach().double()
    sizes = [min(node.training.batch_size, len(part)) for part in (own, common)]

    def logits(h: Tensor, theta: Tensor) -> Tensor:
        return h @ theta[:, :-1].T + theta[:, -1]

    def loss(theta: Tensor, distilled: Tensor) -> Tensor:
        z = logits(common, theta)
        truth = ((1 - weight * distilled) * cross_entropy(z, labels[1], reduction="none")).mean() * sizes[1]
        truth = truth + (1 - weight) * cross_entropy(logits(own, theta), labels[0]) * sizes[0]
        kl = (soft.exp() * (soft - z.log_softmax(1))).sum(1)
        return truth / sum(sizes) + weight * (distilled * kl).mean()

    def curvature(theta: Tensor) -> Tensor:
        def flat(weights: Tensor) -> Tensor:
            return loss(weights.reshape(start.shape), everything)

        return hessian(flat, theta.flatten())

    def slope(theta: Tensor, distilled: Tensor) -> Tensor:
        theta = theta.clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(theta, distilled), theta)
        return found + pull * (theta.detach() - start)

    def trained(theta: Tensor, distilled: Tensor, root: Tensor | None) -> Tensor:
        """Newton's method with the curvature of each step, or, near a minimum, with that of the minimum."""
        for _ in range(300):
            gradient = slope(theta, distilled)
            if gradient.norm() < 1e-11:
                break
            at = torch.linalg.cholesky(curvature(theta) + shift) if root is None else root
            step, scale = torch.cholesky_solve(gradient.reshape(-1, 1), at).reshape(theta.shape), 1.0
            while root is None and slope(theta - scale * step, distilled).norm() > gradient.norm() and scale > 1e-6:
                scale /= 2
            theta = theta - scale * step
        return theta

    def validation(theta: Tensor) -> float:
        return float(cross_entropy(logits(held, theta), labels[2]))

    everything, pull = torch.ones(len(common), dtype=torch.float64), 0.0
    pull = damping * float(curvature(start).diagonal().mean())
    shift = pull * torch.eye(start.numel(), dtype=torch.float64)
    best = trained(start, everything, None)
    root, before, changes = torch.linalg.cholesky(curvature(best) + shift), validation(best), []
    for sample in chosen.tolist():
        without = everything.clone()
        without[sample] = 0
        changes.append(validation(trained(best, without, root)) - before)
    return changes


if __name__ == "__main__":
    main()

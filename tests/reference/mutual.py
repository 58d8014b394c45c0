"""dml: all clients learn from each other at once, or one after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.formulas import divergence, mean_of_probabilities
from tests.reference.ledger import Ledger
from tests.reference.rounds import Known, begin, labelled_rows, teach, teachers_of
from tests.reference.training import Loss, Step, batch, learn, rows
from tests.reference.wire import cost_of, sent
from tests.reference.world import Client, Samples, World


def dml(
    world: World, *, reduce: str = "mean", order: str = "simultaneous", sync: str = "round", wire: str = "float16"
) -> Ledger:
    """CE + mean (or sum) over the peers of KL(peer ‖ own), whose gradient is that of KL to the mean of the peers."""
    alternating, by_step = order == "alternating", sync == "step" and not world.exchanges_models
    whole, many = world.transfer, len(world.learners)

    def learns(number: int, round: int) -> bool:
        return not alternating or world.learners[round % many] == number

    def common_batch(round: int) -> list[int]:
        if not by_step:
            return list(range(len(whole)))
        number = (round - 1) // many if alternating else round - 1
        return batch(len(whole), world.training.batch_size, number, world.seed, "dml/transfer")

    ledger = begin(world)
    ledger.rounded = not world.exchanges_models and wire != "float32"
    known: Known = {}
    everywhere: dict[int, Tensor] = {}
    taught: dict[int, Tensor] = {}
    for round in range(world.rounds + 1):
        if round:
            for client in world.learnt():
                told = None
                if learns(client.id, round):
                    told = taught[client.id]
                    index = common_batch(round)
                    part = None if world.exchanges_models else Samples(whole.x[index], rows(whole.y, index, len(whole)))
                    peers = len([number for number in world.tutors if number != client.id])
                    loss = loss_of(world, client, part, told, peers if reduce == "sum" else 1)
                    learn(world, client, round, loss, common=part)
                ledger.judge(round, client, teacher=told if told is not None and len(told) == len(whole.y) else None)
        if round == world.rounds:
            continue
        for number in world.tutors:
            new_batch = by_step and (not alternating or round % many == 0)
            if round and not (number in world.learners and (learns(number, round) or new_batch)):
                continue
            client = world.clients[number]
            if world.exchanges_models:
                known[number] = client.weights()
                ledger.up(round, number, cost_of(client.weights()))
            elif number not in world.learners:
                everywhere[number], nbytes = sent(client.predict(whole.x), wire)
                ledger.up(round, number, nbytes)
            else:
                logits = rows(client.predict(whole.x), common_batch(round + 1), len(whole))
                known[number], nbytes = sent(logits, wire)
                ledger.up(round, number, nbytes)
        for number, logits in everywhere.items():
            known[number] = rows(logits, common_batch(round + 1), len(whole))
        for number in world.learners:
            if learns(number, round + 1):
                peers_of = teachers_of(world, "others", number, round)
                taught[number] = teach(world, ledger, round + 1, wire, known, number, peers_of, mean_of_probabilities)
    return ledger


def loss_of(world: World, client: Client, part: Samples | None, target: Tensor, peers: int) -> Loss:
    """CE + peers·KL(mean of the peers ‖ own); `part` is what is distilled of the transfer set."""
    n = len(part or client.private)

    def loss(step: Step) -> Tensor:
        index, student = (step.common, step.of_common) if part else (step.own, step.of_own)
        logits, labels = labelled_rows(world, client, step, private_only=True)
        if part and world.labelled:
            logits = torch.cat([logits, step.of_common])
            labels = torch.cat([labels, rows(part.y, step.common, n)])
        far = divergence("kl", student, rows(target, index, n), 1.0)
        return F.cross_entropy(logits, labels) + peers * far.mean()

    return loss

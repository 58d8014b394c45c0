"""One common start made of all clients' models: the recipe key `start`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tests.reference.distillation import KD, one_round
from tests.reference.formulas import mean_of_logits, mean_of_weights
from tests.reference.ledger import Ledger
from tests.reference.rounds import Known, teach, tell
from tests.reference.tuning import score
from tests.reference.wire import NUMBER, cost_of, sent
from tests.reference.world import SERVER, Client, World


@dataclass(frozen=True)
class Consolidation:
    """How the models become one: their mean, the best of them, or the best of them taught by the others."""

    mean: bool = False
    of: KD | None = None
    sequential: bool = False
    rounds: int = 1

    def __call__(self, world: World, ledger: Ledger) -> None:
        """Every client ends with the common model, in the round after the start's."""
        scores = {client.id: score(client) for client in world.clients}
        best, *others = sorted(scores, key=lambda i: (-scores[i].accuracy, round(scores[i].loss, 9), i))
        known = self._tell(world, ledger)
        model = world.clients[best].weights()
        if self.mean:
            model = mean_of_weights(
                [c.weights() for c in world.clients], [float(len(c.private)) for c in world.clients]
            )
        rounds = len(others) if self.sequential else 1
        ledger.add(0, SERVER, "start_rounds", rounds)
        ledger.judge_global(0, world.with_weights(0, model), on_the_way=True)
        if self.of and self.sequential:
            for number, other in enumerate(others, start=1):
                model = self._hand_over(world, ledger, number, world.clients[other], model)
        elif self.of:
            model = self._teach_best(world, ledger, world.clients[best], others, known)
        ledger.offset = rounds
        for client in world.clients:
            ledger.down(0, client.id, cost_of(model))
            client.model.load_state_dict(model)
            ledger.judge(0, client)

    def _tell(self, world: World, ledger: Ledger) -> Known:
        """Models, how good they are, and where all teach at once what they predict."""
        known: Known = {}
        for client in world.clients:
            ledger.up(0, client.id, cost_of(client.weights()) + 2 * NUMBER + (NUMBER if self.mean else 0))
        if self.of and not self.sequential:
            if world.exchanges_models:
                return {client.id: client.weights() for client in world.clients}
            known = tell(world, ledger, 0, self.of.wire, [client.id for client in world.clients])
        return known

    def _teach_best(
        self, world: World, ledger: Ledger, best: Client, others: list[int], known: Known
    ) -> dict[str, Tensor]:
        """The best client learns from all others at once."""
        assert self.of is not None
        taught = teach(world, ledger, 1, self.of.wire, known, best.id, sorted(others), mean_of_logits)
        own = best.weights()
        for round in range(1, self.rounds + 1):
            one_round(world, ledger, best, round, self.of, taught)
        model = best.weights()
        best.model.load_state_dict(own)
        return self._passed(world, ledger, 1, best, model)

    def _hand_over(
        self, world: World, ledger: Ledger, number: int, client: Client, model: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The model learns at a client from the client's own."""
        assert self.of is not None
        ledger.down(number, client.id, cost_of(model))
        taught = client.predict(world.distilled(client).x)
        if not world.exchanges_models:
            taught = sent(taught, self.of.wire)[0]
        own = client.weights()
        client.model.load_state_dict(model)
        for round in range(1, self.rounds + 1):
            one_round(world, ledger, client, round, self.of, taught)
        model = client.weights()
        client.model.load_state_dict(own)
        return self._passed(world, ledger, number, client, model)

    def _passed(
        self, world: World, ledger: Ledger, number: int, by: Client, model: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """A client sends what it has taught; the server judges it."""
        ledger.up(number, by.id, cost_of(model))
        for client in world.clients:
            ledger.asked(number, client)
        ledger.judge_global(number, world.with_weights(0, model), on_the_way=True)
        return model

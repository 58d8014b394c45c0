"""Whether the clients' models may be averaged."""

from __future__ import annotations

from fedkd.base.errors import UserError
from fedkd.settings.federation import Federation


def check_alike(name: str, federation: Federation, force: bool) -> None:
    """Raise UserError, naming the clients, where their models differ or do not start from common weights."""
    holders: dict[str, list[int]] = {}
    for client in federation.learners:
        holders.setdefault(federation.client_models[client], []).append(client)
    if len(holders) > 1:
        listed = "; ".join(f"{model} at clients {', '.join(map(str, ids))}" for model, ids in holders.items())
        raise UserError(f"{name} averages weights, which needs equal models, but clients hold {listed}")
    if federation.teachers and set(federation.teachers) != set(federation.learners):
        raise UserError(f"{name} averages the models of all that learn; leave the recipe key 'teachers' out")
    if federation.init == "per_client" and not force:
        raise UserError(
            f'{name} averages weights, which needs a common start: use init = "common", or, for a method, '
            f"{name}(force=true) to average nevertheless"
        )

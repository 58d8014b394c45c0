"""Lines printed before a study runs: which clients start with the weights of their model."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.settings.federation import Federation


def announced(federations: Sequence[Federation]) -> list[str]:
    """One line for each way in which models with weights start; no lines if no model has weights."""
    several = len({federation.models for federation in federations}) > 1
    lines: list[str] = []
    for federation in federations:
        if not federation.bringers or federation.start == "random":
            continue
        epochs = federation.pretrain.epochs
        whose = f"{federation.models}: " if several else ""
        whose += _named(federation.bringers, federation.clients)
        verb = "brings" if len(federation.bringers) == 1 < federation.clients else "bring"
        if federation.pretrain.settled(brings_weights=True).epochs == 0:
            lines.append(f'{whose} {verb} weights: not pre-trained; [pretrain] epochs = 5, or "converged", trains them')
        else:
            lines.append(f"{whose} {verb} weights; [pretrain] epochs = {epochs!r} trains them further")
    return list(dict.fromkeys(lines))


def _named(ids: Sequence[int], clients: int) -> str:
    """The clients of some ids, ascending; runs of three and more as a range.

    >>> _named([0, 2, 3, 4, 7, 8], 10)
    'clients 0, 2-4, 7, 8'
    """
    if len(ids) == clients:
        return "all clients"
    parts: list[list[int]] = []
    for client in ids:
        if parts and parts[-1][-1] == client - 1:
            parts[-1].append(client)
        else:
            parts.append([client])
    texts = [f"{part[0]}-{part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts]
    return f"{'client' if len(ids) == 1 else 'clients'} {', '.join(texts)}"

from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.methods.local import Local


@dataclass(frozen=True, config=STRICT)
class Pooled(Local):
    """One model on everybody's data, as if there were no borders: the upper bound that targets are measured against.

    Client 0's model is pre-trained and trained on the union of all shards, with as many epochs in a round as any client
    has. The other clients do not take part. There is one model, so a consolidating `start` changes nothing.
    """

    @property
    def pools(self) -> bool:
        return True

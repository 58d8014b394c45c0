from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.channels.contract import Channel


@dataclass(frozen=True, config=STRICT)
class NONE(Channel):
    """Reports travel as they are."""

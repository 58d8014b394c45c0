"""Tensors of many owners under flat names: none is lost, none is somebody else's."""

from __future__ import annotations

import torch

from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import forget, numbered, scoped, under


def test_what_is_scoped_comes_back_and_nothing_else() -> None:
    one, other = {"a": torch.ones(1), "b/c": torch.ones(2)}, {"a": torch.zeros(3)}
    bag = scoped("latest/1/", one) | scoped("latest/10/", other) | {"a": torch.zeros(9)}
    assert under("latest/1/", bag) == one
    assert under("latest/10/", Knowledge(bag)).keys() == other.keys()
    assert numbered("latest/", bag) == {1: one, 10: other}
    forget(bag, "latest/1/")
    assert bag.keys() == {"latest/10/a", "a"}
    assert numbered("latest/", {}) == {}

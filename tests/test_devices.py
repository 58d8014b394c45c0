"""Data go to a device once. The device is "meta", which every machine has."""

from __future__ import annotations

import gc

import pytest
import torch

from fedkd.node.holdings import Holdings
from fedkd.tensors import devices
from fedkd.tensors.samples import Data

META = torch.device("meta")


def held(data: Data) -> Holdings:
    """Holdings are made anew in each exchange, of samples that stay."""
    return Holdings((1, 2, 2), 2, data, None, None, {"test": data})


def test_a_second_exchange_copies_nothing() -> None:
    data = Data(torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64))
    first, second = held(data).to(META), held(data).to(META)
    assert first.data is not None
    assert second.data is not None
    assert first.data.x.device == META
    assert second.data.x is first.data.x is second.evaluation["test"].x
    assert second.data.y is first.data.y


def test_what_is_on_the_device_is_not_copied() -> None:
    x = torch.rand(3)
    assert devices.on_device(x, torch.device("cpu")) is x


def test_copies_end_with_their_originals_and_another_tensor_is_never_mistaken_for_one() -> None:
    for _ in range(20):
        x = torch.rand(3)
        copy = devices.on_device(x, META)
        assert devices.on_device(x, META) is copy
        del x, copy
        gc.collect()
        assert devices.on_device(torch.rand(4), META).shape == (4,)
    assert len(devices._COPIES) <= 3


def test_the_limit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "LIMIT", 100)
    alive = [torch.rand(20) for _ in range(5)]
    copies = [devices.on_device(each, META) for each in alive]
    assert devices.on_device(alive[-1], META) is copies[-1]
    assert devices.on_device(alive[0], META) is not copies[0]

"""What changes reports before they travel: nothing by default, one file a channel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedkd.base.errors import UserError
from fedkd.base.files import look_beside
from fedkd.channels.contract import CHANNELS
from fedkd.channels.noise import Noise
from fedkd.knowledge.knowledge import from_wire
from fedkd.protocol.schedule import schedule_of
from simulations.identity import identify
from simulations.recipe import expand
from tests.small import CLASSES, federate, same_outcome, small

METHODS = ["kd", "dml", "dp_kd", "fedavg", "ensemble", 'dml(wire="top(1)")']
OWN = '''
from pydantic.dataclasses import dataclass
from fedkd import STRICT
from fedkd.channels.contract import Channel

@dataclass(frozen=True, config=STRICT)
class Flip(Channel):
    """Client 1 says the opposite."""

    def predictions(self, logits, client, rng):
        return -logits if client == 1 else logits
'''


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channel", ["none", "noise(sigma=0.0)"])
def test_a_channel_that_changes_nothing_changes_no_bit(method: str, channel: str) -> None:
    assert same_outcome(federate(small(method, channel=channel)), federate(small(method)))


@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_noise_is_another_for_each_client_and_the_same_each_time(wire: str) -> None:
    method = f'kd(refresh="every round", wire="{wire}")'
    plain, noisy = federate(small(method)), federate(small(method, channel="noise(sigma=0.5)"))
    noise = [
        noisy.reports[0][client]["logits"].float() - plain.reports[0][client]["logits"].float() for client in (0, 1)
    ]
    assert not torch.allclose(noise[0], noise[1], atol=1e-2)
    assert same_outcome(noisy, federate(small(method, channel="noise(sigma=0.5)"))), "equal settings, equal noise"


def test_noise_is_normal_and_added_to_each_logit() -> None:
    logits = torch.full((400, 50), 3.0)
    noise = Noise(sigma=0.5).predictions(logits, 0, torch.Generator().manual_seed(1)) - logits
    # 20,000 draws: the mean is within 4·0.5/√20000 of 0, and the deviation within 4·0.5/√40000 of 0.5.
    assert abs(float(noise.mean())) < 0.0142
    assert abs(float(noise.std()) - 0.5) < 0.01


def test_noise_on_weights_leaves_counters_alone() -> None:
    state = {"weight": torch.zeros(3), "batches": torch.tensor(7)}
    sent = Noise(weights_sigma=1.0).weights(state, 0, torch.Generator().manual_seed(1))
    assert float(sent["weight"].abs().min()) > 0
    assert int(sent["batches"]) == 7


def test_it_acts_before_the_wire_hides_the_logits() -> None:
    # Packed logits are bytes; another class is the highest among them only if the noise came before.
    plain, noisy = (federate(small('kd(wire="top(1)")', channel=c)) for c in ("none", "noise(sigma=50.0)"))
    packed = [outcome.reports[0][0]["logits"] for outcome in (plain, noisy)]
    assert all(tensor.dtype == torch.uint8 for tensor in packed)
    highest = [from_wire(tensor, CLASSES).argmax(1) for tensor in packed]
    assert (highest[0] != highest[1]).any()


def test_a_client_goes_on_with_what_it_knows_not_with_what_it_sends() -> None:
    # Nothing travels under local: the noise has nothing to act on.
    assert same_outcome(federate(small("local", channel="noise(sigma=9.0)")), federate(small("local")))
    taught = [federate(small("kd(teachers='self')", channel=c)) for c in ("none", "noise(sigma=9.0)")]
    assert same_outcome(*taught)


def test_a_channel_of_ones_own_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    look_beside([str(tmp_path)])
    outcome, plain = (federate(small("kd(wire='float32')", channel=c)) for c in ("mine.py:flip", "none"))
    assert torch.equal(outcome.reports[0][1]["logits"], -plain.reports[0][1]["logits"])
    assert torch.equal(outcome.reports[0][0]["logits"], plain.reports[0][0]["logits"])


def test_an_edited_channel_is_another_federation(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    look_beside([str(tmp_path)])
    federation = expand("x", {"method": "kd", "channel": "mine.py:flip", "clients": 2}).federations[0]
    before = identify(federation)
    (tmp_path / "mine.py").write_text(OWN.replace("client == 1", "client == 0"))
    assert identify(federation) != before


def test_it_can_be_swept_and_is_checked_when_the_recipe_is_read() -> None:
    swept = expand("x", {"method": "kd", "channel": ["none", "noise(sigma=2.0)"], "clients": 2})
    assert [federation.channel for federation in swept.federations] == ["none", "noise(sigma=2.0)"]
    assert "channel" in swept.swept
    with pytest.raises(UserError, match=r"unknown channel 'nois'.*noise"):
        expand("x", {"method": "kd", "channel": "nois"})
    assert {"none", "noise"} <= set(CHANNELS.names)
    assert schedule_of(swept.federations[0]).federation.channel == "none"

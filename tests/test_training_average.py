"""The moving average of the weights: what it holds, and how fast it follows."""

import math

import pytest
import torch
from torch import nn

from snn_perception.errors import SpecError
from snn_perception.training.config import TrainConfig
from snn_perception.training.engine import Engine, average_decay

YOLOX = {"ema": 0.9998, "ema_ramp": 2000.0}


def test_the_ramp_is_that_of_yolox():
    config = TrainConfig(**YOLOX)
    # By hand: 1 - exp(-1/2000) = 4.99875e-4, 1 - exp(-1) = 0.63212056.
    assert average_decay(config, 1) == pytest.approx(0.9998 * 4.9987502e-4, rel=1e-7)
    assert average_decay(config, 2000) == pytest.approx(0.9998 * 0.6321205588, rel=1e-9)
    assert average_decay(config, 10**6) == 0.9998


def test_without_a_ramp_it_is_the_count_of_updates():
    config = TrainConfig(ema=0.99)
    assert [average_decay(config, n) for n in (1, 8, 10**4)] == [2 / 11, 0.5, 0.99]


@pytest.mark.parametrize("ramp", [-1.0, math.inf, math.nan])
def test_a_ramp_that_cannot_be_is_refused(ramp):
    with pytest.raises(SpecError, match="train.ema_ramp"):
        TrainConfig(ema=0.9, ema_ramp=ramp)


def test_weights_and_batch_statistics_are_averaged_and_counts_are_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)).double().train()
    config = TrainConfig(lr=0.1, weight_decay=0.0, clip_norm=0.0, schedule="constant", ema=0.98, ema_ramp=4.0)
    engine = Engine(model, config, torch.device("cpu"))
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for n in range(1, 6):
        engine.update(model(torch.rand(4, 2, 6, 6, dtype=torch.float64)).square().mean(), 0.0)
        decay = 0.98 * (1 - math.exp(-n / 4))
        average = {name: decay * average[name] + (1 - decay) * now for name, now in model.state_dict().items()}
    shown, own = engine.weights(), model.state_dict()
    for name in ("0.weight", "1.weight", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(shown[name], average[name], rtol=0, atol=1e-12)
        assert not torch.equal(shown[name], own[name])
    assert shown["1.num_batches_tracked"] == 5


def test_without_weight_decay_adamw_is_adam():
    """The published runs use Adam; here there is one optimizer."""
    torch.manual_seed(0)
    ours, theirs = (nn.Linear(5, 3).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    config = TrainConfig(lr=1e-2, weight_decay=0.0, clip_norm=0.0, schedule="constant")
    engine, adam = Engine(ours, config, torch.device("cpu")), torch.optim.Adam(theirs.parameters(), lr=1e-2)
    start = theirs.weight.detach().clone()
    for _ in range(20):
        x = torch.rand(7, 5, dtype=torch.float64)
        engine.update(ours(x).sin().sum(), 0.0)
        adam.zero_grad()
        theirs(x).sin().sum().backward()
        adam.step()
    assert (ours.weight - start).abs().max() > 0.1
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-12)

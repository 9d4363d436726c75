"""Proof that EAS-SNN learns: a narrow one learns a small set by heart, each window from rest and with carried state."""

from __future__ import annotations

import itertools

import pytest
import torch

from snn_perception.checkpoint import load_checkpoint
from snn_perception.data.dataset import open_dataset
from snn_perception.testing.firing import FiringMeter, spiking_layers
from snn_perception.training.config import AugmentConfig, DataConfig, EvalConfig, ModelConfig, RunConfig, TrainConfig
from snn_perception.training.feed import Feed
from snn_perception.training.loop import train
from snn_perception.training.survey import survey
from tests.test_learning import Scores
from tests.training_support import moving_boxes

EPOCHS = {"per_window": 60, "carry": 50}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return moving_boxes(tmp_path_factory.mktemp("boxes"), "train", recordings=2, length_us=2_000_000)


def small_eas(data, policy: str) -> RunConfig:
    """Return a run of EAS-SNN-S with a quarter of its channels, on a fifth of its input's rows and columns."""
    mode, lanes = ("lanes", 2) if policy == "carry" else ("windows", 4)
    epochs = EPOCHS[policy]
    return RunConfig(
        model=ModelConfig(
            preset="eas_snn_s_use_spike",
            options={"width_factor": 0.125, "network_size": [96, 128], "state_policy": policy},
        ),
        data=DataConfig(train=f"gen1:{data}", val_split="train"),
        train=TrainConfig(
            mode=mode,
            lanes=lanes,
            epochs=epochs,
            lr=5e-3,
            weight_decay=0.0,
            clip_norm=0.0,
            schedule_by="step",
            ema=0.9,
        ),
        eval=EvalConfig(protocol="none", every_epochs=epochs // 3),
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("policy", ["per_window", "carry"])
def test_a_small_eas_snn_learns_a_small_set_by_heart(data, registry, tmp_path, policy):
    scores = Scores()
    result = train(small_eas(data, policy), registry, tmp_path / "run", observer=scores)
    assert scores.seen[-1]["AP50"] > 0.9
    assert scores.seen[-1]["AP"] > scores.seen[0]["AP"]
    detector = load_checkpoint(result.best_checkpoint, registry=registry)
    assert detector.spec.state_policy == policy
    first, second = _windows(data, registry, detector)
    with FiringMeter(spiking_layers(detector.backbone, first)) as meter:
        _, state = detector.infer(first)
        (carried,), _ = detector.infer(second, state)
    rates = meter.rates()
    assert len(rates) == 34 and sum(rate > 0.01 for rate in rates.values()) >= 30, rates
    (rested,), _ = detector.infer(second)
    assert len(rested) and carried != rested, "membranes say something of the window before"


def _windows(data, registry, detector) -> list[torch.Tensor]:
    """Return the inputs of the first two windows of a recording."""
    dataset = open_dataset(f"gen1:{data}", "train", registry)
    feed = Feed(survey(dataset, detector.spec.window_us), detector, registry, augment=AugmentConfig(), seed=0)
    return [sample.x[:, None] for sample in itertools.islice(feed.follow(0, epoch=0), 2)]

"""Optimizers, their groups and warm-up, sums over batches, and that a run goes on exactly with any of it."""

import copy

import pytest
import torch
from torch import nn

from snn_perception.errors import SpecError
from snn_perception.training.config import TrainConfig
from snn_perception.training.engine import Engine, learning_rate, scheduled_rate
from snn_perception.training.optimizer import OptimizerConfig
from snn_perception.training.run_file import load_run, run_as_dict, run_digest, run_from_dict

YOLO = OptimizerConfig("sgd", 0.937, "weights", accumulate=1, warmup_bias_lr=0.1, warmup_momentum=0.8)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 1)).double()
    return model.train()


def engine_of(model: nn.Module, optimizer: OptimizerConfig = YOLO, **settings) -> Engine:
    plain = {"lr": 0.05, "weight_decay": 0.01, "clip_norm": 0.0, "schedule": "constant"}
    return Engine(model, TrainConfig(**{**plain, **settings}, optimizer=optimizer), torch.device("cpu"))


def loss_of(model: nn.Module, seed: int) -> torch.Tensor:
    x = torch.rand(4, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return model(x).sin().mean()


def train(engine: Engine, seeds, epochs_done: float = 0.0) -> list[float | None]:
    return [engine.update(loss_of(engine.model, seed), epochs_done) for seed in seeds]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a.parameters(), b.parameters(), strict=True))


def test_groups_are_weights_norms_and_biases():
    model = network()
    groups = engine_of(model).optimizer.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert [[names[id(p)] for p in group["params"]] for group in groups] == [
        ["1.weight", "2.weight"],
        ["0.weight"],
        ["0.bias", "1.bias", "2.bias"],
    ]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0, 0.0]
    assert [group["weight_decay"] for group in engine_of(network(), OptimizerConfig()).optimizer.param_groups] == [
        0.01,
        0.01,
    ]


def test_sgd_is_nesterovs_with_decay_on_weights_alone():
    """The rule by hand: g += decay w; v = m v + g; w -= lr (g + m v) (Sutskever et al., ICML 2013, as torch has it)."""
    model = network()
    ours, by_hand = engine_of(model), copy.deepcopy(model)
    v = [torch.zeros_like(p) for p in by_hand.parameters()]
    for seed in range(6):
        gradients = torch.autograd.grad(loss_of(by_hand, seed), list(by_hand.parameters()))
        ours.update(loss_of(model, seed), 0.0)
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(by_hand.parameters(), gradients, strict=True)):
                g = g + (0.01 * p if p.ndim > 1 else 0)
                v[i] = 0.937 * v[i] + g if seed else g
                p -= 0.05 * (g + 0.937 * v[i])
    for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)
    assert not same(model, network())


def test_warm_up_brings_biases_down_the_others_up_and_the_momentum_up():
    engine = engine_of(network(), lr=0.01, schedule="linear", min_lr=0.00004, epochs=100, warmup_epochs=10)
    seen = {}
    for epochs_done in (0.0, 2.5, 10.0, 50.0):
        train(engine, [0], epochs_done)
        seen[epochs_done] = [(group["lr"], group["momentum"]) for group in engine.optimizer.param_groups]
    assert seen[0.0] == [(0.0, 0.8), (0.0, 0.8), (0.1, 0.8)]
    at = 0.00004 + (0.01 - 0.00004) * (1 - 2 / 100)  # the schedule goes by whole epochs, the warm-up by steps
    expected = [(at / 4, 0.83425), (at / 4, 0.83425), (0.1 + (at - 0.1) / 4, 0.83425)]
    assert [pytest.approx(pair, rel=1e-12) for pair in expected] == seen[2.5]
    assert [lr for lr, _ in seen[50.0]] == pytest.approx([0.00004 + (0.01 - 0.00004) / 2] * 3, rel=1e-12)
    assert {momentum for _, momentum in seen[10.0] + seen[50.0]} == {0.937}


def test_the_linear_schedule_ends_at_its_lowest():
    config = TrainConfig(lr=0.01, min_lr=0.00004, schedule="linear", schedule_by="step", epochs=300)
    rates = [learning_rate(config, epoch) for epoch in (0, 150, 300, 400)]
    assert rates == pytest.approx([0.01, (0.01 + 0.00004) / 2, 0.00004, 0.00004], rel=1e-12)
    published = [0.01 * ((1 - e / 300) * (1 - 0.004) + 0.004) for e in (1, 299)]
    assert [scheduled_rate(config, e) for e in (1, 299)] == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_gradients_of_several_batches_add_up_to_one_update(kind):
    ours, theirs = network(), network()
    several = engine_of(ours, OptimizerConfig(kind, accumulate=3))
    one = engine_of(theirs, OptimizerConfig(kind))
    for first in (0, 3):
        start = copy.deepcopy(ours)
        norms = train(several, range(first, first + 2))
        assert norms == [None, None] and same(ours, start) and several.updates == first // 3
        norms = train(several, [first + 2])
        # Statistics of the norms aside, the gradients are those of the sum of the losses.
        expected = one.update(torch.stack([loss_of(theirs, seed) for seed in range(first, first + 3)]).sum(), 0.0)
        assert norms == [pytest.approx(expected, rel=1e-9)] and not same(ours, start)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("at", [3, 4, 5])
def test_a_run_goes_on_exactly_between_batches_that_add_up(kind, at):
    settings = OptimizerConfig(kind, accumulate=3)
    whole, first = (engine_of(network(), settings) for _ in range(2))
    train(whole, range(8))
    train(first, range(at))
    tensors = {name: tensor.clone() for name, tensor in first.tensors().items()}
    assert any(name.startswith("gradient.") for name in tensors) == (at != 3)
    second = engine_of(network(), settings)
    train(second, [99, 98])  # whatever it holds goes
    second.restore(tensors, first.numbers())
    train(second, range(at, 8))
    assert same(whole.model, second.model) and whole.updates == second.updates == 2


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("name=adam", "train.optimizer.name: expected adamw or sgd, got adam"),
        ("momentum=1.0", "train.optimizer.momentum"),
        ("decays=convolutions", "train.optimizer.decays"),
        ("accumulate=0", "train.optimizer.accumulate"),
        ("warmup_momentum=0.0", "train.optimizer.warmup_momentum"),
        ("warmup_bias_lr=-1.0", "train.optimizer.warmup_bias_lr"),
        ("nesterov=true", "unknown key 'nesterov'"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, fault):
    with pytest.raises(SpecError, match=fault):
        load_run(None, [f"train.optimizer.{setting}"])


def test_runs_begun_without_these_settings_go_on():
    run = load_run(None, ["data.train=gen1:here"])
    older = run_as_dict(run)
    del older["train"]["optimizer"]
    assert run_digest(run_from_dict(older)) == run_digest(run)
    assert run_digest(load_run(None, ["data.train=gen1:here", "train.optimizer.name=sgd"])) != run_digest(run)

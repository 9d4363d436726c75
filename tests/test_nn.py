"""Building blocks: time folded into the batch, membranes, spikes, chains, and foreign nodes with explicit state."""

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from snn_perception.nn import Chain, FromMemoryModule, Spike, fold_time, membrane, membrane_dtype, parts_of, resting
from snn_perception.state import named_leaves


class Sum(nn.Module):
    """A stateful layer for tests: the running sum of its input."""

    def forward(self, x, v=None):
        sums = membrane(v, x) + x.cumsum(0)
        return sums, sums[-1]


class MemoryModule(nn.Module):
    """As little of spikingjelly's memory module as the adapter relies on."""

    step_mode = "s"

    def __init__(self, **memories):
        super().__init__()
        self.rest = memories
        self.reset()

    def reset(self):
        for name, value in self.rest.items():
            setattr(self, name, value)

    def named_memories(self):
        return [(name, getattr(self, name)) for name in self.rest]

    def forward(self, x):
        self.v = self.v + x
        return (self.v >= 1).to(x.dtype)


def test_fold_time_applies_a_layer_to_every_step():
    layer = nn.Conv2d(2, 5, 3, stride=2)
    x = torch.rand(3, 4, 2, 9, 11)
    y = fold_time(layer, x)
    assert y.shape == (3, 4, 5, 4, 5)
    torch.testing.assert_close(y, torch.stack([layer(step) for step in x]))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_membranes_are_at_least_float32(given, expected):
    current = torch.ones(2, 3, 4, dtype=given)
    assert membrane_dtype(current) == expected
    assert resting(current).dtype == expected and resting(current).shape == (3, 4) and not resting(current).any()
    assert membrane(torch.ones(3, 4, dtype=given), current).dtype == expected


def test_a_membrane_of_another_size_is_refused():
    current = torch.ones(2, 3, 4)
    v = torch.rand(3, 4)
    assert membrane(v, current) is v
    assert torch.equal(membrane(None, current), torch.zeros(3, 4))
    # One row would broadcast over the batch without a word.
    with pytest.raises(ValueError, match=r"expected a tensor \[3, 4\], got a tensor \[1, 4\]"):
        membrane(torch.rand(1, 4), current)
    with pytest.raises(ValueError, match=r"expected a tensor \[3, 4\], got a dict"):
        membrane({"v": v}, current)


def test_spike_fires_at_the_threshold():
    for training in (True, False):
        spike = Spike(surrogate.Sigmoid(alpha=4.0)).train(training)
        v = torch.tensor([0.0, 0.7 - 1e-7, 0.7, 5.0], dtype=torch.float64)
        assert spike(v, 0.7).tolist() == [0, 0, 1, 1]
        assert spike(v - 0.7).tolist() == [0, 0, 1, 1]
        assert spike(v, 0.7).dtype == torch.float64


def test_spike_has_the_surrogates_gradient_in_training():
    alpha = 4.0
    v = torch.linspace(-1, 3, 9, dtype=torch.float64, requires_grad=True)
    Spike(surrogate.Sigmoid(alpha=alpha)).train()(v, 1.0).sum().backward()
    s = torch.sigmoid(alpha * (v.detach() - 1))
    torch.testing.assert_close(v.grad, alpha * s * (1 - s))


def test_a_chain_gives_each_layer_its_own_state():
    chain = Chain([Sum(), Sum()])
    x = torch.ones(3, 2, 1)
    y, state = chain(x)
    assert y[:, 0, 0].tolist() == [1, 3, 6]
    assert [leaf.tolist() for _, leaf in named_leaves(state)] == [[[3], [3]], [[6], [6]]]
    y, _ = chain(x, state)
    assert y[:, 0, 0].tolist() == [10, 15, 21]


def test_a_state_of_another_structure_is_refused():
    assert parts_of(None, 2) == (None, None)
    assert parts_of((1, 2), 2) == (1, 2)
    with pytest.raises(ValueError, match="expected a tuple of 2, got a tuple of 3"):
        parts_of((None,) * 3, 2)
    with pytest.raises(ValueError, match="expected a tuple of 2, got Tensor"):
        parts_of(torch.ones(2), 2)


def test_a_memory_module_is_left_at_rest():
    node = MemoryModule(v=0.0)
    wrapped = FromMemoryModule(node)
    spikes, state = wrapped(torch.full((2, 1), 0.6))
    assert spikes[:, 0].tolist() == [0, 1] and state["v"].item() == pytest.approx(1.2)
    assert node.v == 0.0
    spikes, _ = wrapped(torch.zeros(1, 1), state)
    assert spikes.item() == 1 and node.v == 0.0


def test_shapes_can_be_had_without_numbers():
    spikes, state = FromMemoryModule(neuron.LIFNode()).eval()(torch.ones(2, 3, 4, device="meta"))
    assert spikes.shape == (2, 3, 4) and state["v"].shape == (3, 4) and state["v"].device.type == "meta"


def test_a_memory_module_that_fails_is_left_at_rest():
    node = MemoryModule(v=0.0)
    wrapped = FromMemoryModule(node)
    _, state = wrapped(torch.ones(1, 2))
    node.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        wrapped(torch.ones(1, 2), state)
    assert node.v == 0.0


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (nn.Identity(), "Identity does not hold its state itself as memories; expected one MemoryModule"),
        (nn.Sequential(MemoryModule(v=0.0)), "Sequential does not hold its state itself"),
        (MemoryModule(), "MemoryModule has no memories"),
        (MemoryModule(v=-0.1), "memory 'v' rests at -0.1, but rest must be 0; use v_reset=0.0 or None"),
        (MemoryModule(v=0.0, trace=None), "memory 'trace' rests at None, but rest must be 0"),
        (MemoryModule(v=torch.zeros(2)), "memory 'v' rests at tensor"),
        (neuron.LIFNode(step_mode="m"), "LIFNode must run step by step: use step_mode='s', got 'm'"),
    ],
    ids=["stateless", "nested", "no memories", "rest", "late memory", "tensor", "multi-step"],
)
def test_modules_without_explicit_memories_are_refused(node, message):
    with pytest.raises(ValueError, match=message):
        FromMemoryModule(node)


def test_a_state_that_does_not_fit_the_node_is_refused():
    wrapped = FromMemoryModule(neuron.LIFNode()).eval()
    current = torch.ones(1, 2, 3)
    for state in ({"u": torch.ones(2, 3)}, {"v": torch.ones(1, 3)}, {"v": 0.5}, torch.ones(2, 3)):
        with pytest.raises(ValueError, match=r"expected tensors \[2, 3\] named \['v'\]"):
            wrapped(current, state)
    assert not hasattr(wrapped.node, "u")


def test_a_node_that_returns_more_than_spikes_is_refused():
    class Pair(MemoryModule):
        def forward(self, x):
            return [super().forward(x), self.v]

    with pytest.raises(ValueError, match="Pair does not return one spike tensor per step"):
        FromMemoryModule(Pair(v=0.0))(torch.ones(1, 2))

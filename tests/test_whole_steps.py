"""The fused step of a neuron that fires whole numbers: the plain formula's bits and gradients, outside of traces."""

import contextlib

import pytest
import torch
from snn_perception_plugins.spikeyolo.neuron import COCO_LEAK, GEN1_LEAK, ILIF
from torch.fx.experimental.proxy_tensor import make_fx

from snn_perception import kernel_threads, whole_steps
from snn_perception.fusing import plain_operations
from snn_perception.neuron_kernels import BLOCK, CHUNK
from snn_perception.whole_cpu import CompiledWholeLoops

ENGINES = {"compiled": CompiledWholeLoops, "operations": whole_steps.WholeTensorOperations}
OPTIONS = [COCO_LEAK, GEN1_LEAK, {"decay": 0.37}, {"decay": 0.8, "decay_input": True, "max_spikes": 1}, {"decay": 0.0}]
DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float64, id="float64")]


@pytest.fixture
def fused_calls(monkeypatch):
    """Count the calls of the fused step, so that no test compares the plain formula with itself."""
    calls = []
    engine_for = whole_steps.whole_engine_for
    monkeypatch.setattr(whole_steps, "whole_engine_for", lambda device: calls.append(device) or engine_for(device))
    return calls


def currents(*shape, dtype=torch.float64, seed=0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1).to(dtype)


def outcome(neuron, x, v, *, plain, parts="both"):
    """Return spikes, membrane and the gradients of a weighted sum of them."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    v = None if v is None else v.detach().clone().requires_grad_()
    with plain_operations() if plain else contextlib.nullcontext():
        spikes, after = neuron(x, v)
    weigh = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(spikes.dtype)
    loss = (spikes * weigh).sum() if parts != "after" else 0.0
    loss = loss + (0.3 * after.square()).sum() if parts != "spikes" else loss
    loss.backward()
    return spikes.detach(), after.detach(), x.grad, None if v is None else v.grad


def assert_same(neuron, x, v, **options):
    """Assert the plain formula's bits, gradients included, while some fire nothing, some the most, some between."""
    fused, plain = (outcome(neuron, x, v, plain=plain, **options) for plain in (False, True))
    assert fused[0].min() == 0 and fused[0].max() == neuron.max_spikes
    assert 0.1 < (fused[0] > 0).double().mean() < 0.9
    for one, other in zip(fused, plain, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (torch.equal(one, other) and one.dtype == other.dtype and one.any())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bits_and_gradients_are_those_of_the_plain_formula(options, dtype, engine, monkeypatch, fused_calls):
    counting = whole_steps.whole_engine_for
    monkeypatch.setattr(whole_steps, "whole_engine_for", lambda device: counting(device) and ENGINES[engine]())
    neuron = ILIF(**options).train()
    v = currents(2, 4, 37, dtype=dtype, seed=1)
    if neuron.decay:  # without a leak the first membrane has no gradient
        assert_same(neuron, currents(5, 2, 4, 37, dtype=dtype), v)
    spikes, after, gradient, _ = outcome(neuron, currents(5, 2, 4, 37, dtype=dtype), None, plain=False)
    plain = outcome(neuron, currents(5, 2, 4, 37, dtype=dtype), None, plain=True)
    assert spikes.any() and gradient.any() and fused_calls
    assert all(torch.equal(a, b) for a, b in zip((spikes, after, gradient), plain, strict=False))


@pytest.mark.parametrize("parts", ["spikes", "after"])
def test_a_loss_on_one_output_alone(parts, fused_calls):
    assert_same(ILIF().train(), currents(3, 2, 40), currents(2, 40, seed=1), parts=parts)
    assert len(fused_calls) == 2, "once forward, once backward"


@pytest.mark.parametrize("dtype", DTYPES)
def test_evaluation_rounds_ties_to_even_and_clamps_as_the_plain_formula(dtype, fused_calls):
    odd = torch.tensor([-1e30, -0.5, -0.0, 0.5, 1.5, 2.5, 3.5, 3.4999998, 4.5, 1e30, float("inf")], dtype=dtype)
    neuron = ILIF().eval()
    x = torch.cat([odd, currents(BLOCK + 13, dtype=dtype)])[None, None]
    with torch.no_grad():
        spikes, after = neuron(x, None)
        assert len(fused_calls) == 1
        with plain_operations():
            plain_spikes, plain_after = neuron(x, None)
    assert spikes[0, 0, : len(odd)].tolist() == [0, 0, 0, 0, 2, 2, 4, 3, 4, 4, 4]
    assert torch.equal(spikes, plain_spikes) and torch.equal(after, plain_after)


def test_a_current_that_is_no_number_shows(fused_calls):
    x = currents(1, 1, 20)
    x[0, 0, 3] = float("nan")
    spikes, after = ILIF().eval()(x, None)
    assert (
        fused_calls
        and spikes.isnan().flatten().nonzero().tolist() == after.isnan().flatten().nonzero().tolist() == [[3]]
    )


def test_evaluation_with_a_gradient_takes_the_plain_formula(fused_calls):
    x = torch.tensor([[[0.4, 2.3]]], requires_grad=True)
    _, after = ILIF().eval()(x, None)
    after.sum().backward()
    assert not fused_calls and x.grad.tolist() == [[[1.0, 1.0]]]


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK + BLOCK + 5])
def test_every_neuron_is_reached(size, fused_calls):
    x, v = torch.full((3, 1, size), 1.6).double(), torch.full((1, size), 0.75).double()
    fused, plain = (outcome(ILIF().train(), x, v, plain=plain) for plain in (False, True))
    assert fused[0].min() >= 1 and all(torch.equal(a, b) for a, b in zip(fused, plain, strict=True))


def test_memory_in_another_order(fused_calls):
    neuron, v = ILIF().train(), currents(2, 5, 4, 7, seed=1)
    channels_last = currents(3 * 2, 5, 4, 7).to(memory_format=torch.channels_last).unflatten(0, (3, 2))
    assert_same(neuron, channels_last, v)
    assert_same(neuron, currents(3, 2, 10, 4, 7)[:, :, ::2], v)
    with torch.no_grad():
        assert neuron(channels_last, v)[0].stride() == channels_last.stride(), "the next convolution finds its layout"
    assert len(fused_calls) == 5


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    x, v = currents(2, 1, 5 * CHUNK + 3, dtype=torch.float32), currents(1, 5 * CHUNK + 3, dtype=torch.float32, seed=1)
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(kernel_threads.torch, "get_num_threads", lambda threads=threads: threads)
        found.append(outcome(ILIF().train(), x, v, plain=False))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_trace_holds_plain_operations(fused_calls):
    neuron = ILIF().eval()
    graph = make_fx(lambda x, v: neuron(x, v))(  # noqa: PLW0108 - its forward has a parameter more
        currents(2, 1, 8), currents(1, 8, seed=1)
    )
    names = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert not fused_calls and {"aten.clamp.default", "aten.round.default"} <= names
    assert not [name for name in names if "Steps" in name]


def test_half_precision_keeps_the_membrane_in_single(fused_calls):
    x = currents(3, 2, 40).bfloat16()
    spikes, after = ILIF().eval()(x, None)
    assert spikes.dtype == torch.bfloat16 and after.dtype == torch.float32 and spikes.max() == 4 and fused_calls

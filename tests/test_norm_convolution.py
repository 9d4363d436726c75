"""Norm and convolution as one operation in training: the same outputs, gradients and statistics, in less memory."""

import copy

import pytest
import torch
from torch import nn

from snn_perception import kernel_threads, norm_convolution
from snn_perception.fold import NormConv
from snn_perception.fusing import plain_operations


@pytest.fixture
def joined_calls(monkeypatch):
    """Join maps of any size, and count how often that is done."""
    calls = []
    joined = norm_convolution.joined
    monkeypatch.setattr(norm_convolution, "LEAST_ELEMENTS", 1)
    monkeypatch.setattr("snn_perception.fold.joined", lambda *args: calls.append(args) or joined(*args))
    return calls


def layer(kernel=3, stride=1, padding=1, dtype=torch.float64, channels=5):
    torch.manual_seed(kernel + stride)
    result = NormConv(channels, 7, kernel, stride=stride, padding=padding).to(dtype).train()
    with torch.no_grad():
        result.norm.weight.uniform_(0.5, 1.5)
        result.norm.bias.uniform_(-1, 1)
    return result


def outcome(module, x, plain=False):
    """Return output, running statistics, and the gradients of input and parameters, of a copy of the layer."""
    module, x = copy.deepcopy(module), x.detach().clone().requires_grad_(x.requires_grad)
    if plain:
        with plain_operations():
            y = module(x)
    else:
        y = module(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(module.named_buffers())}


def assert_same(module, x, tolerance):
    one, other = outcome(module, x), outcome(module, x, plain=True)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if other[name] is None:
            assert value is None, name
            continue
        scale = max(float(other[name].abs().max()), 1.0)
        torch.testing.assert_close(value, other[name], rtol=0, atol=tolerance * scale, msg=name)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (4, 4, 0), (1, 1, 0), (5, 2, 2)])
def test_outputs_gradients_and_statistics_are_the_same(kernel, stride, padding, momentum, joined_calls):
    module = layer(kernel, stride, padding)
    module.norm.momentum = momentum
    for shape in ((2, 5, 8, 12), (3, 5, 37, 5), (1, 5, 5, 5)):
        assert_same(module, torch.randn(shape, dtype=torch.float64, requires_grad=True) * 2 + 0.5, 1e-12)
    assert len(joined_calls) == 3


def test_single_precision_of_spikes(joined_calls):
    x = (torch.rand(4, 5, 30, 38) < 0.2).float().requires_grad_()
    assert_same(layer(dtype=torch.float32), x, 1e-5)
    assert len(joined_calls) == 1


def test_far_from_zero_the_variance_keeps_its_digits(joined_calls):
    x = torch.randn(2, 5, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e4
    assert_same(layer(padding=0), x, 1e-9)
    assert len(joined_calls) == 1


def test_an_input_without_gradient_gets_none(joined_calls):
    assert_same(layer(), torch.randn(2, 5, 9, 9, dtype=torch.float64), 1e-12)
    assert joined_calls and outcome(layer(), torch.randn(2, 5, 9, 9, dtype=torch.float64))["x"] is None


def test_weights_in_another_order(joined_calls):
    module = layer().to(memory_format=torch.channels_last)
    assert not module.conv.weight.is_contiguous()
    assert_same(module, torch.randn(2, 5, 9, 9, dtype=torch.float64, requires_grad=True), 1e-12)
    assert len(joined_calls) == 1


def test_frozen_weights_stay_without_gradient(joined_calls):
    module = layer()
    module.conv.weight.requires_grad_(False)
    module.norm.bias.requires_grad_(False)
    x = torch.randn(2, 5, 9, 9, dtype=torch.float64, requires_grad=True)
    assert outcome(module, x)["conv.weight"] is None and joined_calls
    assert_same(module, x, 1e-12)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch, joined_calls):
    monkeypatch.setattr(norm_convolution, "_THREAD_ELEMENTS", 64)
    used, pool = [], kernel_threads._pool
    monkeypatch.setattr(kernel_threads, "_pool", lambda *key: used.append(key) or pool(*key))
    terms, threads = [], torch.get_num_threads()
    x = torch.randn(2, 5, 33, 9)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            terms.append(norm_convolution._norm_terms(x, layer(dtype=torch.float32).norm, 1000))
    finally:
        torch.set_num_threads(threads)
    assert len(used) == 2 and all(torch.equal(terms[0], other) for other in terms[1:])
    torch.testing.assert_close(terms[0][0], x.double().sum((0, 2, 3)) / 1000)


def test_less_is_kept_for_the_gradient(joined_calls):
    x = torch.randn(8, 5, 32, 32, dtype=torch.float32).requires_grad_()

    def kept(module):
        sizes = {}

        def keep(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            assert module(x).requires_grad
        return sum(sizes.values())

    joined = kept(layer(dtype=torch.float32))
    with plain_operations():
        plain = kept(layer(dtype=torch.float32))
    assert joined < x.nbytes + 16_384 < 2 * x.nbytes < plain


class OtherNorm(nn.BatchNorm2d):
    """Stands for a norm with the statistics of several processes."""


def evaluated(module):
    return module.eval()


def fixed_norm(module):
    module.norm.eval()
    return module


def other_norm(module):
    module.norm = OtherNorm(5).double()
    return module


def observed_norm(module):
    module.norm.register_forward_hook(lambda *_: None)
    return module


def observed_convolution(module):
    module.conv.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize("change", [evaluated, fixed_norm, other_norm, observed_norm, observed_convolution])
def test_other_layers_run_as_they_are_written(change, joined_calls):
    x = torch.randn(2, 5, 9, 9, dtype=torch.float64)
    assert layer()(x).any() and len(joined_calls) == 1
    assert change(layer())(x).any() and len(joined_calls) == 1


def test_other_inputs_run_as_they_are_written(monkeypatch, joined_calls):
    module, x = layer(dtype=torch.float32), torch.randn(2, 5, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    module(x.to(memory_format=torch.channels_last))
    copy.deepcopy(module).to("meta")(x.to("meta"))
    torch.export.export(module, (x,))
    monkeypatch.setattr(norm_convolution, "LEAST_ELEMENTS", x.numel() + 1)
    module(x)
    assert not joined_calls
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(1, 1, 0)(torch.ones(1, 5, 1, 1, dtype=torch.float64))

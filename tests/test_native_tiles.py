"""Convolutions by tiles equal torch's on whole numbers, however they are cut; neurons fire all steps in one pass."""

import pytest
import torch
from torch import nn

from snn_perception import native
from snn_perception.engine.whole_layers import TilesConv, WholeStage, whole_stage
from snn_perception.fusing import plain_operations
from snn_perception.native import library
from snn_perception.native.neuron import NeuronStep, fire_whole
from snn_perception.native.tiles import MOST_SPIKES, TileConv2d, fits_tiles
from snn_perception.nn import PotentialStage
from snn_perception.registry import Registry

pytestmark = pytest.mark.skipif(not native.available(), reason=str(native.why_not()))
ISAS = list(loaded.isas) if (loaded := library.load()[0]) else ["plain"]
# C_in, C_out, padding, batch, height, width
SHAPES = [
    (64, 64, 1, 2, 12, 18),
    (3, 5, 1, 1, 7, 9),
    (130, 33, 0, 2, 9, 8),
    (70, 16, (2, 1), 1, 5, 11),
    (1, 1, 1, 3, 1, 1),
    (8, 100, 1, 1, 3, 64),
    (512, 40, 1, 1, 10, 10),
]
LEAKS = [{"decay": 0.25}, {"decay": 0.5, "decay_input": True, "max_spikes": 9}]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def spikes_of(shape, most=4, seed=0):
    """Return whole numbers up to `most`, uint8, a quarter of them above 0."""
    generator = torch.Generator().manual_seed(seed)
    fired = torch.rand(shape, generator=generator) < 0.25
    return (fired * torch.randint(1, most + 1, shape, generator=generator)).to(torch.uint8)


def exact(conv, x):
    """Return the convolution in float64."""
    wide = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=conv.padding, bias=conv.bias is not None)
    wide.load_state_dict(conv.state_dict())
    return wide.double()(x.double())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_dense_convolution(shape, isa):
    channels, out, padding, *size = shape
    conv = nn.Conv2d(channels, out, 3, padding=padding, bias=channels != 3)
    x = spikes_of((size[0], channels, *size[1:]), MOST_SPIKES)
    x[0, 0, 0, 0] = MOST_SPIKES
    expected, layer = exact(conv, x), TileConv2d.from_conv(conv, isa=isa)
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last) and expected.abs().max() > 0.1
    torch.testing.assert_close(y.double(), expected, atol=2e-5, rtol=0)
    assert torch.equal(layer(x.float()), y)


def test_it_is_as_exact_as_torch():
    conv, x = nn.Conv2d(128, 64, 3, padding=1), spikes_of((1, 128, 20, 20))
    expected = exact(conv, x)
    error, of_torch = ((y - expected).square().mean().sqrt() for y in (TileConv2d.from_conv(conv)(x), conv(x.float())))
    assert error < 1.5 * of_torch


def test_channels_of_any_size_have_their_own_scale():
    conv, x = nn.Conv2d(32, 4, 3, padding=1, bias=False), spikes_of((1, 32, 8, 8))
    conv.weight *= torch.tensor([1e-6, 1.0, 1e5, 0.0])[:, None, None, None]
    y, expected = TileConv2d.from_conv(conv)(x), exact(conv, x)
    largest = expected.abs().amax(dim=(0, 2, 3), keepdim=True)
    assert (largest[0, :3] > 0).all()
    assert ((y - expected).abs() <= 1e-6 * largest).all()


def test_results_do_not_depend_on_the_threads_or_the_batch(threads):
    conv, x = TileConv2d.from_conv(nn.Conv2d(64, 48, 3, padding=1)), spikes_of((3, 64, 33, 40))
    torch.set_num_threads(1)
    one = conv(x)
    assert torch.equal(torch.cat([conv(image[None]) for image in x]), one)
    torch.set_num_threads(2)
    assert torch.equal(conv(x), one)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (torch.full((1, 4, 5, 5), MOST_SPIKES + 1, dtype=torch.uint8), "fired more often"),
        (torch.full((1, 4, 5, 5), 0.5), "whole numbers"),
        (torch.full((1, 4, 5, 5), -1.0), "whole numbers"),
        (torch.full((1, 4, 5, 5), float("nan")), "whole numbers"),
        (torch.zeros(1, 3, 5, 5), "4 channels"),
        (torch.zeros(4, 5, 5), "B, C, H, W"),
        (torch.zeros(1, 4, 2, 5), "at least the kernel"),
    ],
)
def test_inputs_that_are_refused(bad, said):
    with pytest.raises(ValueError, match=said):
        TileConv2d.from_conv(nn.Conv2d(4, 4, 3))(bad)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 5),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
)
def test_convolutions_that_are_refused(conv):
    assert not fits_tiles(conv)
    with pytest.raises(ValueError, match="3x3 convolution of stride 1"):
        TileConv2d.from_conv(conv)


def test_a_layer_goes_on_when_its_input_changes(caplog):
    conv, few, many = nn.Conv2d(6, 5, 3, padding=1), spikes_of((1, 6, 7, 8)), spikes_of((1, 6, 7, 8), 200)
    layer = TilesConv(conv)
    for x in (few, many, few, torch.rand(1, 6, 7, 8)):
        torch.testing.assert_close(layer(x).double(), exact(conv, x), atol=1e-3, rtol=1e-5)
    assert caplog.text.count("computed otherwise") == 1


@pytest.mark.parametrize("form", ["bytes", "floats"])
@pytest.mark.parametrize("shape", [(3, 2, 5, 7, 9), (2, 1, 64, 24, 24)], ids=str)
@pytest.mark.parametrize("options", LEAKS, ids=str)
def test_all_steps_at_once_fire_as_the_plain_neuron(options, shape, form, registry: Registry, threads):
    neuron = registry.build("neuron", "ilif", **options).eval()
    rule = neuron.whole_rule
    step = NeuronStep.of_whole_numbers(rule.max_spikes, rule.decay, rule.gain)
    current, v = 12 * torch.randn(shape), torch.randn(shape[1:])
    for before in (None, v, v.contiguous(memory_format=torch.channels_last)):
        kept = None if before is None else before.clone()
        with plain_operations():
            expected, after = neuron(current, before)
        assert expected.max() == rule.max_spikes and (expected == 0).any()
        for count in (1, 2):
            torch.set_num_threads(count)
            spikes, membrane = fire_whole(current, before, step, form=form)
            assert torch.equal(spikes.float(), expected)
            torch.testing.assert_close(membrane, after, atol=1e-6, rtol=1e-6)
        assert before is None or torch.equal(before, kept)


@pytest.mark.parametrize(
    ("current", "v", "said"),
    [
        (torch.zeros(2, 3, 4, 4), None, "T, B, C, H, W"),
        (torch.zeros(0, 1, 3, 4, 4), None, "with elements"),
        (torch.zeros(2, 1, 3, 4, 4, dtype=torch.float64), None, "float32"),
        (torch.zeros(2, 1, 3, 4, 4), torch.zeros(1, 3, 4, 5), "membrane"),
    ],
)
def test_currents_and_membranes_that_are_refused(current, v, said):
    with pytest.raises(ValueError, match=said):
        fire_whole(current, v, NeuronStep.of_whole_numbers(4, 0.5))


def test_only_whole_numbers_fire_in_steps(registry: Registry):
    binary = NeuronStep.of_rule(registry.build("neuron", "lif").rule, 2.0)
    with pytest.raises(ValueError, match="whole numbers"):
        fire_whole(torch.zeros(2, 1, 3, 4, 4), None, binary)


def test_a_stage_keeps_its_spikes_as_bytes(registry: Registry):
    neuron, conv = registry.build("neuron", "ilif").eval(), nn.Conv2d(6, 8, 3, padding=1)
    tiles, plain = (whole_stage(PotentialStage(neuron, layer)) for layer in (TilesConv(conv), conv))
    assert isinstance(tiles, WholeStage) and isinstance(plain, WholeStage)
    assert (tiles.form, plain.form) == ("bytes", "floats")
    x, v = 2 * torch.randn(2, 3, 6, 8, 10), torch.randn(3, 6, 8, 10)
    expected, after = PotentialStage(neuron, conv)(x, v)
    for stage in (tiles, plain):
        y, membrane = stage(x, v)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(membrane, after, atol=1e-6, rtol=1e-6)
    assert whole_stage(PotentialStage(registry.build("neuron", "lif"), conv)) is None

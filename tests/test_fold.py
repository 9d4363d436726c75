"""Folding norms into convolutions: the same numbers, borders and membranes included."""

import pytest
import torch
from torch import nn

from snn_perception.fold import Foldable, NormConv, fold_norms
from snn_perception.state import named_leaves
from snn_perception.testing import FiringMeter, spiking_layers
from tests.golden_support.models import imported
from tests.golden_support.vectors import Vector, event_counts
from tests.paths import ROOT


def trained_norm_conv(kernel: int, stride: int, padding: int) -> NormConv:
    """Return a layer whose norm has seen data, so that shift and scale differ from channel to channel."""
    torch.manual_seed(kernel + stride)
    layer = NormConv(3, 5, kernel, stride=stride, padding=padding).double()
    with torch.no_grad():
        layer.norm.weight.uniform_(0.5, 1.5)
        layer.norm.bias.uniform_(-1, 1)
        layer.norm.running_mean.uniform_(-1, 1)
        layer.norm.running_var.uniform_(0.5, 1.5)
    return layer.eval()


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (4, 4, 0), (1, 1, 0), (5, 2, 2)])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (5, 5)])
def test_a_folded_layer_equals_its_layer_at_every_pixel(kernel, stride, padding, size):
    layer = trained_norm_conv(kernel, stride, padding)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(layer.folded()(x), layer(x), atol=1e-13, rtol=0)


def test_padding_comes_before_the_norm():
    """Of an empty map every output pixel is the same: the padding enters with the norm's shift, as the inside does."""
    layer = trained_norm_conv(3, 1, 1)
    y = layer(torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    assert (y[0, :, 0, 0] != 0).all()
    torch.testing.assert_close(y, y[:, :, :1, :1].expand_as(y))


def test_batch_statistics_count_the_padding():
    layer = NormConv(1, 1, 3, padding=1).train()
    layer(torch.ones(1, 1, 1, 2))
    # 12 values, of which 10 are padding; the running mean moves a tenth of the way.
    assert layer.norm.running_mean.item() == pytest.approx(0.1 * 2 / 12)


def test_fold_norms_replaces_layers_at_any_depth_and_leaves_the_model_alone():
    model = nn.Sequential(nn.ModuleDict({"a": trained_norm_conv(3, 1, 1)})["a"], nn.Sequential(nn.ReLU()), nn.Module())
    model[2].inner = trained_norm_conv(1, 1, 0)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_norms(model)
    assert isinstance(folded[0], nn.Conv2d) and isinstance(folded[2].inner, nn.Conv2d) and not folded.training
    assert model.training and isinstance(model[0], NormConv)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_any_layer_may_announce_its_folded_form():
    class Doubling(nn.Module):
        def folded(self) -> nn.Module:
            return nn.Identity()

    assert isinstance(Doubling(), Foldable) and not isinstance(nn.Conv2d(1, 1, 1), Foldable)
    assert isinstance(fold_norms(nn.Sequential(Doubling()))[0], nn.Identity)


def test_dtype_is_kept_and_the_sums_are_made_in_float64():
    layer = trained_norm_conv(3, 1, 1)
    single = NormConv(3, 5, 3, padding=1).eval()
    single.load_state_dict(layer.state_dict())
    folded = single.folded()
    assert folded.weight.dtype == folded.bias.dtype == torch.float32
    torch.testing.assert_close(folded.bias.double(), layer.folded().bias, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_firing_detector_gives_the_same_spikes_and_membranes_over_three_windows(registry):
    vector = Vector(ROOT / "tests" / "golden" / "st_vgg_rescat" / "16-ST-VGG+SSD.json")
    detector, _ = imported(vector, registry)
    folded = fold_norms(detector)
    assert not any(isinstance(module, (nn.BatchNorm2d, NormConv)) for module in folded.modules())
    windows = [event_counts(k, vector.json["input_shape"]) for k in range(3)]
    layers = spiking_layers(folded.backbone, windows[0])
    assert len(layers) == 11
    state = folded_state = None
    for x in windows:
        raw, state = detector(x, state)
        with FiringMeter(layers) as meter:
            folded_raw, folded_state = folded(x, folded_state)
        assert all(0.01 <= rate <= 0.6 for rate in meter.rates().values()), meter.rates()
        for maps, folded_maps in zip(raw, folded_raw, strict=True):
            for one, other in zip(maps, folded_maps, strict=True):
                torch.testing.assert_close(other, one, atol=1e-12, rtol=0)
        for (name, one), (_, other) in zip(named_leaves(state), named_leaves(folded_state), strict=True):
            torch.testing.assert_close(other, one, atol=1e-12, rtol=0, msg=name)

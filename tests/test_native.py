"""Native kernels: equal to torch's convolution and to the plain neurons, for every instruction set, at any density."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from snn_perception import native
from snn_perception.doctor.finding import Bench
from snn_perception.doctor.machine import native_kernels
from snn_perception.errors import SnnPerceptionError
from snn_perception.fusing import plain_operations
from snn_perception.native import build, library
from snn_perception.native.convolution import SpikeConv2d, SpikingConv
from snn_perception.native.library import Method
from snn_perception.native.neuron import NeuronStep, fire
from snn_perception.native.packing import PackedSpikes, pack
from snn_perception.registry import Registry
from tests.paths import ROOT
from tools import bench_native

needs_kernels = pytest.mark.skipif(not native.available(), reason=str(native.why_not()))
ISAS = list(loaded.isas) if (loaded := library.load()[0]) else ["plain"]
# C_in, C_out, kernel, stride, padding, batch, height, width
SHAPES = [
    (64, 64, 3, 1, 1, 1, 12, 17),
    (2, 16, 4, 4, 0, 2, 16, 24),
    (1, 1, 1, 1, 0, 1, 1, 1),
    (3, 5, 3, 2, 1, 3, 9, 8),
    (65, 24, 3, 1, 1, 1, 7, 9),
    (64, 12, 3, 1, 1, 2, 5, 5),
    (130, 100, 1, 1, 0, 1, 6, 5),
    (16, 80, 1, 2, 0, 2, 7, 7),
    (48, 40, 5, 1, 2, 1, 8, 11),
    (20, 30, 7, 2, 3, 1, 15, 13),
    (32, 200, 2, 2, 0, 1, 6, 9),
    (24, 8, (3, 1), (1, 2), (1, 0), 2, 6, 8),
    (24, 72, (1, 5), (2, 1), (0, 2), 1, 6, 8),
    (10, 17, 3, 1, 3, 1, 4, 4),
    (8, 33, 3, 4, 2, 1, 11, 10),
    (100, 64, 3, 1, 1, 1, 3, 90),
    (7, 9, (4, 2), (3, 5), (5, 7), 1, 9, 6),
]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def spikes_like(shape, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(shape, generator=generator) < density).float()
    return x.contiguous(memory_format=torch.channels_last)


def convolution(shape, seed=0, bias=True):
    torch.manual_seed(seed)
    c_in, c_out, kernel, stride, padding, batch, height, width = shape
    return nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=bias), (batch, c_in, height, width)


def reference(conv, x):
    return copy.deepcopy(conv).double()(x.double())


def assert_near(found, expected):
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    scale = expected.abs().max().clamp_min(1e-3)
    assert (found - expected).abs().max() <= 1e-5 * scale


# ------------------------------------------------------------------------------------------------------- convolution


@needs_kernels
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_dense_convolution(shape, method, isa):
    conv, size = convolution(shape, bias=shape[0] != 48)
    ours = SpikeConv2d.from_conv(conv, isa=isa)
    for density in (0.0, 0.01, 0.1, 0.4, 1.0):
        x = spikes_like(size, density, seed=int(density * 100))
        expected = reference(conv, x)
        assert_near(ours(x, method=method), expected)
        assert_near(ours(pack(x), method=method), expected)
    assert x.all() and expected.abs().max() > 0, "the last input is not silent"


@needs_kernels
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_whole_numbers_of_spikes(shape, dtype, isa):
    conv, size = convolution(shape)
    ours = SpikeConv2d.from_conv(conv, binary=False, isa=isa)
    for density in (0.05, 0.5, 1.0):
        x = spikes_like(size, density) * torch.randint(1, 5, size)
        assert x.any() or density < 1
        assert_near(ours(x.to(dtype)), reference(conv, x))


@needs_kernels
def test_any_sparse_numbers():
    conv, size = convolution(SHAPES[4])
    x = spikes_like(size, 0.2) * torch.randn(size)
    assert (x < 0).any()
    assert_near(SpikeConv2d.from_conv(conv, binary=False)(x), reference(conv, x))


@needs_kernels
def test_every_kind_of_input_gives_the_same():
    conv, size = convolution(SHAPES[4])
    ours, x = SpikeConv2d.from_conv(conv), spikes_like(size, 0.2)
    expected = ours(x)
    assert expected.abs().max() > 0
    planes = x.contiguous()
    slices = torch.cat([x, 1 - x], dim=1)[:, : size[1]]
    for same in (planes, slices, x.to(torch.uint8), x.bool(), pack(x), planes.transpose(2, 3).contiguous().mT):
        assert torch.equal(ours(same), expected)


@needs_kernels
@pytest.mark.parametrize("method", list(Method))
def test_results_do_not_depend_on_the_threads(threads, method):
    conv, size = convolution((64, 80, 3, 2, 1, 3, 41, 30))
    ours, x, rule = SpikeConv2d.from_conv(conv), spikes_like(size, 0.2), NeuronStep.of_whole_numbers(4, 0.25)
    torch.set_num_threads(1)
    expected, fired = ours(x, method=method), ours.fire(x, None, rule, forms=("bytes",), method=method)
    for count in (2, 3, 7):
        torch.set_num_threads(count)
        assert torch.equal(ours(x, method=method), expected)
        again = ours.fire(x, None, rule, forms=("bytes",), method=method)
        assert torch.equal(again.bytes, fired.bytes) and torch.equal(again.v, fired.v)
    assert fired.bytes.any()


@needs_kernels
def test_tables_are_taken_where_much_fires():
    conv, size = convolution(SHAPES[0])
    ours = SpikeConv2d.from_conv(conv)
    assert ours.choose(pack(spikes_like(size, 0.02))) is Method.ROWS
    assert ours.choose(pack(spikes_like(size, 0.5))) is Method.TABLES
    large = SpikeConv2d.from_conv(nn.Conv2d(512, 512, 3))
    assert large.choose(pack(spikes_like((1, 512, 4, 4), 0.5))) is Method.ROWS
    x = spikes_like(size, 0.25)
    assert ours.density(x) == ours.density(pack(x)) == pytest.approx(0.25, abs=0.03)


@needs_kernels
def test_a_module_that_is_cast_or_copied_still_counts_right():
    conv, size = convolution(SHAPES[0])
    x = spikes_like(size, 0.3)
    ours = SpikeConv2d.from_conv(conv)
    expected = ours(x)
    conv.weight.zero_()
    assert torch.equal(ours.double()(x), expected)
    assert torch.equal(copy.deepcopy(ours)(x), expected)
    assert not ours.state_dict()


# ------------------------------------------------------------------------------------------------------------ neuron

NEURONS = [
    ("plif", {"tau": 3.0}),
    ("plif", {"tau": 2.0, "decay_input": False, "v_reset": None, "v_threshold": 0.4}),
    ("lif", {"tau": 1.7, "v_threshold": 0.5}),
    ("lif", {"decay_input": False, "v_reset": None}),
    ("if", {"v_threshold": 0.8}),
    ("if", {"v_reset": None}),
]


def plain_step(neuron, current, v):
    with plain_operations():
        spikes, after = neuron(current.unsqueeze(0), v)
    return spikes[0], after


@needs_kernels
@pytest.mark.parametrize(("name", "options"), NEURONS, ids=str)
@pytest.mark.parametrize("channels", [1, 17, 64, 70])
def test_a_step_has_the_bits_of_the_plain_neuron(name, options, channels, registry: Registry):
    neuron = registry.build("neuron", name, **options).eval()
    step = NeuronStep.of_rule(neuron.rule, neuron.factor(torch.zeros(1)))
    torch.manual_seed(channels)
    v = None
    fired_share = 0.0
    for _ in range(4):
        current = torch.randn(2, channels, 9, 7).contiguous(memory_format=torch.channels_last) + 0.5
        before = torch.zeros_like(current) if v is None else v
        expected, after = plain_step(neuron, current, before)
        fired = fire(current, v, step, forms=("floats", "bytes", "packed"))
        assert torch.equal(fired.floats, expected) and torch.equal(fired.v, after)
        assert torch.equal(fired.bytes.float(), expected) and torch.equal(fired.packed.unpacked(), expected)
        v, fired_share = fired.v, fired_share + expected.mean().item() / 4
    assert 0.02 < fired_share < 0.98, "a silent neuron proves nothing"


@needs_kernels
@pytest.mark.parametrize("options", [{}, {"decay": 0.5, "decay_input": True}, {"max_spikes": 1}], ids=str)
def test_whole_numbers_fire_as_the_plain_neuron(options, registry: Registry):
    neuron = registry.build("neuron", "ilif", **options).eval()
    step = NeuronStep.of_whole_numbers(neuron.max_spikes, neuron.decay, neuron.gain)
    torch.manual_seed(1)
    current = (2 * torch.randn(2, 20, 9, 7)).contiguous(memory_format=torch.channels_last)
    current[0, 0, 0] = torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5, -0.5, 100.0])  # ties, and both ends
    first, v = neuron(current.unsqueeze(0), None)
    second, after = neuron(current.unsqueeze(0), v)
    one = fire(current, None, step, forms=("floats", "bytes"))
    two = fire(current, one.v, step, forms=("floats", "bytes"))
    assert torch.equal(one.floats, first[0]) and torch.equal(two.floats, second[0])
    assert torch.equal(two.bytes.float(), second[0]) and first.max() == neuron.max_spikes
    assert torch.allclose(two.v, after, rtol=0, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3], SHAPES[7], SHAPES[10], SHAPES[14]], ids=str)
@pytest.mark.parametrize(("name", "options"), NEURONS[:3], ids=str)
def test_convolution_and_neuron_in_one(shape, isa, name, options, registry: Registry):
    """Sums may differ in their order: spikes agree wherever the membrane is not within 1e-5 of the threshold."""
    conv, size = convolution(shape)
    conv.weight.mul_(3)
    neuron = registry.build("neuron", name, **options).eval()
    step = NeuronStep.of_rule(neuron.rule, neuron.factor(torch.zeros(1)))
    ours = SpikeConv2d.from_conv(conv, isa=isa)
    v = torch.randn_like(reference(conv, spikes_like(size, 0.5)).float())
    for method in Method:
        x = spikes_like(size, 0.4, seed=int(method))
        current = reference(conv, x).float()
        expected, after = plain_step(neuron, current, v)
        h = neuron.rule.charge(v, current, neuron.factor(v))
        clear = (h - neuron.rule.v_threshold).abs() > 1e-5
        fired = ours.fire(x, v, step, forms=("floats", "bytes", "packed"), method=method)
        assert torch.equal(fired.floats[clear], expected[clear]) and clear.float().mean() > 0.9
        assert torch.allclose(fired.v[clear], after[clear], rtol=0, atol=2e-5)
        assert torch.equal(fired.bytes.float(), fired.floats) and torch.equal(fired.packed.unpacked(), fired.floats)
        assert 0.01 < fired.floats.mean() < 0.99, "a silent layer proves nothing"


@needs_kernels
def test_layers_pass_packed_spikes_and_update_membranes_in_place(registry: Registry):
    rule = registry.build("neuron", "plif", v_threshold=0.3).rule
    torch.manual_seed(0)
    convs = [nn.Conv2d(2, 40, 4, 4), nn.Conv2d(40, 96, 3, padding=1), nn.Conv2d(96, 24, 3, stride=2, padding=1)]
    for conv in convs:
        conv.weight.mul_(5)
    layers = [SpikingConv.from_conv(conv, rule, 0.6, form="packed") for conv in convs[:-1]]
    layers.append(SpikingConv.from_conv(convs[-1], rule, 0.6))
    x = spikes_like((2, 2, 32, 48), 0.3)
    y, membranes = x, []
    for layer in layers:
        y, v = layer(y)
        membranes.append(v)
    assert y.shape == (2, 24, 4, 6) and 0.01 < y.mean() < 0.99
    fresh, places = x, [v.clone() for v in membranes]
    for layer, v, place in zip(layers, membranes, places, strict=True):
        expected_spikes, expected = layer(fresh, v)
        spikes, same = layer(fresh, place, v_after=place)
        assert same is place and torch.equal(place, expected) and not torch.equal(place, v)
        fresh = spikes
        if isinstance(spikes, PackedSpikes):
            assert torch.equal(spikes.words, expected_spikes.words)


# ----------------------------------------------------------------------------------------------------------- packing


@needs_kernels
@pytest.mark.parametrize("channels", [1, 15, 16, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool], ids=str)
def test_packing_there_and_back(channels, dtype):
    x = spikes_like((2, channels, 5, 7), 0.3)
    packed = pack(x.to(dtype))
    assert torch.equal(packed.unpacked(), x) and packed.shape == x.shape
    assert packed.count() == int(x.sum()) > 0 and packed.density == pytest.approx(x.mean().item())


# ---------------------------------------------------------------------------------------------------- hostile callers


@needs_kernels
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda x: x.double(), "float64"),
        (lambda x: x[0], "[B, C, H, W]"),
        (lambda x: x[:, :3], "4 channels"),
        (lambda x: x[:0], "with elements"),
        (lambda x: x * 0.5, "0 and 1 alone"),
        (lambda x: x * float("nan"), "0 and 1 alone"),
        (lambda x: (2 * x).to(torch.uint8), "0 and 1 alone"),
        (lambda x: x.to("meta"), "on the CPU"),
        (lambda x: x.to_sparse(), "dense"),
        (lambda x: x.numpy(), "ndarray"),
        (lambda x: x[:, :, :1, :1], "at least the kernel"),
        (lambda x: PackedSpikes(pack(x).words, 70), "int64 words"),
        (lambda x: PackedSpikes(pack(x).words.int(), 4), "int32"),
        (lambda x: PackedSpikes(pack(x).words.transpose(1, 2), 4), "contiguous"),
    ],
)
def test_inputs_that_are_refused(bad, said):
    ours = SpikeConv2d.from_conv(nn.Conv2d(4, 6, 3))
    with pytest.raises(ValueError, match=said.replace("[", r"\[")):
        ours(bad(spikes_like((1, 4, 8, 9), 0.5)))


@needs_kernels
def test_a_gradient_is_refused_rather_than_lost():
    ours = SpikeConv2d.from_conv(nn.Conv2d(4, 6, 3))
    x = spikes_like((1, 4, 8, 8), 0.5).requires_grad_()
    assert ours(x).shape == (1, 6, 6, 6)
    with torch.enable_grad(), pytest.raises(ValueError, match="no_grad"):
        ours(x)


@needs_kernels
@pytest.mark.parametrize(
    "bad",
    [
        lambda v: v.double(),
        lambda v: v[:, :5],
        lambda v: v.contiguous(),
        lambda v: v[:, :, ::2],
        lambda v: torch.cat([v, v])[::2].expand(2, -1, -1, -1)[:1].transpose(2, 3),
        lambda v: v.to("meta"),
    ],
)
def test_membranes_that_are_refused(bad):
    ours = SpikeConv2d.from_conv(nn.Conv2d(4, 6, 3))
    step, x = NeuronStep.of_whole_numbers(4, 0.25), spikes_like((1, 4, 8, 9), 0.5)
    good = ours(x)
    wrong = bad(good)
    with pytest.raises(ValueError, match="membrane"):
        ours.fire(x, wrong, step)
    with pytest.raises(ValueError, match="membrane afterwards"):
        ours.fire(x, good, step, v_after=wrong)
    with pytest.raises(ValueError, match="membrane"):
        fire(good, wrong, step)


@needs_kernels
@pytest.mark.parametrize(
    ("conv", "said"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "groups=2"),
        (nn.Conv2d(4, 4, 3, dilation=2), "dilation"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "reflect"),
        (nn.Conv2d(4, 4, 4, padding="same"), "same"),
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d"),
        (nn.Conv2d(4, 4, 3, device="meta"), "meta"),
    ],
)
def test_convolutions_that_are_refused(conv, said):
    with pytest.raises(ValueError, match=said):
        SpikeConv2d.from_conv(conv)


@needs_kernels
def test_other_wrong_arguments():
    conv = nn.Conv2d(4, 4, 3, padding="same")
    x = spikes_like((1, 4, 5, 6), 0.5)
    assert_near(SpikeConv2d.from_conv(conv)(x), reference(conv, x))
    with pytest.raises(ValueError, match="instruction set 'amx'"):
        SpikeConv2d.from_conv(conv, isa="amx")
    with pytest.raises(ValueError, match="binary spikes alone"):
        SpikeConv2d.from_conv(conv, binary=False)(x, method=Method.TABLES)
    with pytest.raises(ValueError, match="forms"):
        SpikeConv2d.from_conv(conv).fire(x, None, NeuronStep.of_whole_numbers(4, 0.2), forms=("bits",))
    with pytest.raises(ValueError, match="max_spikes"):
        NeuronStep.of_whole_numbers(300, 0.5)


# ------------------------------------------------------------------------------------------------------- measurements


@needs_kernels
def test_every_way_is_measured_and_told(threads):
    """The benchmark measures what it says, on a small layer; its figures are not judged here."""
    small = bench_native.Shape("small", 8, 8, 6, 7)
    found = bench_native.bench((small,), (0.1, 0.4), 1)
    assert [timed.density for timed in found] == [0.1, 0.4]
    assert all(set(timed.cpu_ms) == set(bench_native.COLUMNS) and min(timed.cpu_ms.values()) > 0 for timed in found)
    whole = bench_native.bench_whole_numbers(1, small)
    neurons = bench_native.bench_neurons(1, (1, 8, 6, 7))
    text = bench_native.page(found, whole, neurons, bench_native.bench_packing(1))
    assert "## small: 8 to 8, 3x3, 6x7" in text and "| 40% |" in text and "| spikingjelly |" in text


# ------------------------------------------------------------------------------------------------- with and without it


def test_without_the_library_everything_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv(build.VARIABLE, str(tmp_path))
    library.load.cache_clear()
    try:
        assert not native.available() and "python -m snn_perception.native" in native.why_not()
        with pytest.raises(SnnPerceptionError, match="not built"):
            SpikeConv2d.from_conv(nn.Conv2d(2, 2, 1))
        with pytest.raises(SnnPerceptionError, match="not built"):
            pack(torch.zeros(1, 1, 1, 1))
        (tmp_path / build.library_name()).write_bytes(b"\x7fELF damaged")
        library.load.cache_clear()
        assert "cannot be loaded" in native.why_not()
        monkeypatch.setenv(build.VARIABLE, build.OFF)
        library.load.cache_clear()
        assert "switched off" in native.why_not()
    finally:
        library.load.cache_clear()


def test_doctor_tells_of_the_kernels(monkeypatch, tmp_path):
    if native.available():
        found = native_kernels(Bench(tmp_path))
        assert found.status == "ok" and 0 <= found.facts["difference"] < 1e-5
    try:
        for value, status in ((str(tmp_path), "warning"), (build.OFF, "ok")):
            monkeypatch.setenv(build.VARIABLE, value)
            library.load.cache_clear()
            found = native_kernels(Bench(tmp_path))
            assert found.status == status and "not in use" in found.told
            assert ("python -m snn_perception.native" in found.remedy) == (status == "warning")
    finally:
        library.load.cache_clear()


def test_asking_costs_no_torch():
    code = "import sys, snn_perception.native as n; n.available(); assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_compiler_that_fails_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "HERE", tmp_path)  # where a finished library would be copied from
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.BuildError, match="'false"):
        build.build(tmp_path / "to")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match="set CXX"):
        build.build(tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())
    monkeypatch.setenv(build.VARIABLE, str(tmp_path / "to"))
    assert build.main([]) == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(build.BuildError, match="can be written"):
        build.build(tmp_path / "file" / "folder")


@needs_kernels
def test_a_finished_library_is_copied_and_old_ones_go(monkeypatch, tmp_path):
    old = tmp_path / build.library_name().replace(".so", "0.so")
    old.write_bytes(b"")
    monkeypatch.setattr(build, "HERE", library.load()[0].path.parent)
    monkeypatch.setenv("CXX", "false")  # shows that nothing is compiled
    made = build.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    assert os.access(made, os.X_OK) and library.Library(made).isas == library.load()[0].isas


@pytest.mark.slow
@needs_kernels
def test_the_source_compiles(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert library.Library(build.build(tmp_path / "to")).isas == library.load()[0].isas

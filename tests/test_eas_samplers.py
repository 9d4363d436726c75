"""EAS-SNN's samplers: what a pixel's spikes cut out of a window, against loops over pixels; phases against images."""

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from snn_perception_plugins.eas_snn.sampler_cell import StrictSpike
from snn_perception_plugins.eas_snn.samplers import build_sampler
from snn_perception_plugins.eas_snn.thin_conv import ThinConv, from_phases, phase_weight, to_phases
from torch import nn

from snn_perception.fusing import plain_operations

WAYS = [pytest.param(False, id="in_phases"), pytest.param(True, id="plainly")]


def the_way(plainly):
    return plain_operations() if plainly else nullcontext()


def micro_bins(steps=4, rows=2, height=6, width=8, *, dtype=torch.float64, density=0.4, seed=0):
    """Return event counts [Tm, N, 2, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, rows, 2, height, width)
    hit = torch.rand(shape, generator=generator) < density
    return (hit * torch.randint(1, 4, shape, generator=generator)).to(dtype)


def awake(name="arsnn", *, gain=3.0, seed=1, dtype=torch.float64, **options):
    """Return a sampler with weights that make about every third unit fire."""
    torch.manual_seed(seed)
    sampler = build_sampler(name, **options).to(dtype)
    with torch.no_grad():
        for parameter in sampler.parameters():
            if parameter.dim() > 1:
                parameter *= gain
    return sampler


def watch_spikes(sampler, bins):
    """Return the frames and the spikes [Tm, N, ...] of the sampler's own cell."""
    seen = []
    handle = sampler.fire.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    frames = sampler(bins)
    handle.remove()
    return frames, torch.stack(seen)


def assert_lively(spikes):
    assert 0.05 < spikes.mean() < 0.8, f"a cell that is silent or always fires proves nothing: {spikes.mean():.3f}"
    first, second = spikes.sum(dim=0) == 1, spikes.sum(dim=0) > 1
    assert first.any() and second.any() and (spikes.sum(dim=0) == 0).any(), "no, one and several spikes are wanted"


def weights_of_pixels(sampler):
    """Return the gate's and the input's convolution as (rows of weights, biases), for kernels of one pixel."""
    return [
        (conv[0].weight[:, :, 0, 0].tolist(), conv[0].bias.tolist()) for conv in (sampler.gate_conv, sampler.input_conv)
    ]


def slices_of_pixel(sampler, layers, bins):
    """Return the slices [Ts][2] of one pixel, of its bins [Tm][2], by loops."""
    rule, reset = sampler.rule, sampler.reset
    gate, current = layers

    def apply(layer, values):
        return [sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(*layer, strict=True)]

    threshold = sampler.fire.threshold
    s, v, total, last, filled = [0.0] * 2, [0.0] * 2, [0.0] * 2, [-1] * 2, [0] * 2
    out = [[0.0] * 2 for _ in range(rule.slots)]

    def value_of(c, t, u):
        if rule.readout == "avg":
            return total[c] / (t - last[c])
        return {"sum": total[c], "last": v[c], "before_reset": u[c]}[rule.readout]

    for t in range(rule.steps):
        r, q = apply(gate, s), apply(current, bins[-1 - t])
        u = [v[c] / (1 + math.exp(-(q[c] + r[c]))) + q[2 + c] + r[2 + c] for c in range(2)]
        s = [1.0 if u[c] - threshold > 0 else 0.0 for c in range(2)]
        for c in range(2):
            v[c] = u[c] - threshold * s[c] if reset is None else (reset if s[c] else u[c])
            total[c] += u[c]
            if s[c]:
                if filled[c] < rule.slots:
                    out[filled[c]][c] = value_of(c, t, u)
                filled[c], last[c], total[c] = filled[c] + 1, t, 0.0
    for c in range(2):
        if not s[c] and filled[c] < rule.slots and not rule.write_zero:
            out[filled[c]][c] = value_of(c, rule.steps - 1, u)
    return out


def slices_by_loops(sampler, bins):
    """Return the frames [Ts, N, 2, H, W] that the published description gives, pixel by pixel."""
    layers = weights_of_pixels(sampler)
    pixels = bins.permute(1, 3, 4, 0, 2).flatten(0, 2).tolist()
    slices = torch.tensor([slices_of_pixel(sampler, layers, pixel) for pixel in pixels], dtype=torch.float64)
    rows, height, width = bins.shape[1], *bins.shape[3:]
    return slices.unflatten(0, (rows, height, width)).permute(3, 0, 4, 1, 2)


CASES = [
    pytest.param(readout, reset, write_zero, id=f"{readout}-{reset}-{'dropped' if write_zero else 'kept'}")
    for readout in ("sum", "avg", "last", "before_reset")
    for reset in (0.0, 0.25, None)
    for write_zero in (True, False)
    if not (readout == "last" and reset == 0 and write_zero)  # refused: every frame would be 0
]


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize(("readout", "reset", "write_zero"), CASES)
def test_slices_are_those_of_a_loop_over_pixels(readout, reset, write_zero, slots):
    options = {"slots": slots, "reset": reset, "write_zero": write_zero, "readout": readout}
    sampler, bins = awake(ksize=1, depth=1, steps=6, **options), micro_bins(6)
    expected = slices_by_loops(sampler, bins)
    assert all(frame.any() for frame in expected), "an empty slot proves nothing"
    for plainly, training in ((False, True), (False, False), (True, True), (True, False)):
        with the_way(plainly):
            frames, spikes = watch_spikes(sampler.train(training), bins)
        assert_lively(spikes)
        torch.testing.assert_close(frames.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plainly", WAYS)
def test_a_frame_sums_up_to_the_first_spike_from_the_newest_bin_and_drops_the_rest(plainly):
    sampler, potentials = awake(), []
    handle = sampler.fire.register_forward_hook(lambda module, args, output: potentials.append(args[0].detach()))
    with the_way(plainly):
        frames, spikes = watch_spikes(sampler, micro_bins())
    handle.remove()
    u = torch.stack(potentials)
    if not plainly:
        u, spikes = (torch.stack([from_phases(step) for step in train]) for train in (u, spikes))
    assert_lively(spikes)
    until_first = (spikes.cumsum(dim=0) - spikes) == 0  # no spike before this step
    expected = (u * until_first).sum(dim=0) * (spikes.sum(dim=0) > 0)
    torch.testing.assert_close(frames[0], expected, rtol=1e-12, atol=1e-12)
    assert (frames < 0).any(), "sums over the steps before a spike can be negative"


@pytest.mark.parametrize("plainly", WAYS)
def test_residual_potential_dropout_drops_what_never_fired_and_nothing_else(plainly):
    bins = micro_bins()
    with the_way(plainly), torch.no_grad():
        kept, spikes = watch_spikes(awake(write_zero=False), bins)
        dropped = awake(write_zero=True)(bins)
    if not plainly:
        spikes = torch.stack([from_phases(step) for step in spikes])
    assert_lively(spikes)
    fired = spikes.any(dim=0)
    assert torch.equal(dropped[0][fired], kept[0][fired])
    assert not dropped[0][~fired].any() and kept[0][~fired].all()


def test_what_lies_behind_a_first_spike_does_not_matter():
    sampler = awake(ksize=1, depth=1)  # every pixel by itself
    bins = micro_bins(4)
    before, spikes = watch_spikes(sampler, bins)
    spikes = torch.stack([from_phases(step) for step in spikes])
    other = bins.clone()
    other[0] = micro_bins(1, seed=9)[0]  # the oldest bin, processed last
    after = sampler(other)
    ended = spikes[:3].any(dim=0).all(dim=1, keepdim=True).expand_as(before[0])
    assert ended.any() and not ended.all()
    assert torch.equal(before[0][ended], after[0][ended])
    assert not torch.equal(before, after)


def test_further_slots_leave_the_first_ones_alone():
    bins = micro_bins(6)
    one, three, six = (awake(steps=6, slots=slots)(bins) for slots in (1, 3, 6))
    assert all(frame.any() for frame in three)
    torch.testing.assert_close(three[:1], one, rtol=0, atol=1e-12)
    torch.testing.assert_close(six[:3], three, rtol=0, atol=1e-12)
    counts = (six != 0).sum(dim=(1, 2, 3, 4))
    assert (counts.diff() <= 0).all(), "a pixel fills its slots one after the other"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("arsnn", {"slots": 3}),
        ("arsnn", {"branch": "ncaltech-rep", "depth": 3, "ksize": 3}),
        ("rsnn", {}),
        ("snn", {}),
        ("count", {}),
    ],
)
def test_rows_do_not_see_each_other(name, options):
    sampler, bins = awake(name, **options).eval(), micro_bins(rows=3)
    order = [2, 0, 1]
    frames = sampler(bins)
    assert frames.any() and not torch.equal(frames[:, 0], frames[:, 1])
    torch.testing.assert_close(sampler(bins[:, order]), frames[:, order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sampler(bins[:, 1:2]), frames[:, 1:2], rtol=1e-12, atol=1e-12)


def test_nothing_is_kept_between_windows():
    sampler = awake()
    first = sampler(micro_bins())
    sampler(micro_bins(seed=3))
    assert first.any() and torch.equal(sampler(micro_bins()), first)
    assert not list(sampler.buffers())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("arsnn", {}),
        ("arsnn", {"slots": 2, "readout": "avg", "write_zero": False, "absolute": True}),
        ("arsnn", {"reset": None, "ksize": 7, "depth": 1}),
        ("arsnn", {"branch": "ncaltech-rep", "depth": 3, "ksize": 3}),
        ("rsnn", {"readout": "last"}),
        ("rsnn", {"absolute": True, "depth": 3}),
        ("snn", {}),
    ],
)
def test_phases_give_the_numbers_and_gradients_of_images(name, options):
    sampler, bins = awake(name, **options), micro_bins(height=12, width=10)
    weights = torch.randn(sampler(bins).shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    results = []
    for plainly in (False, True):
        x = bins.clone().requires_grad_()
        with the_way(plainly):
            frames = sampler(x)
        results.append((frames, *torch.autograd.grad((frames * weights).sum(), [x, *sampler.parameters()])))
    assert frames.any() and all(gradient.any() for gradient in results[0])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-11)


def test_images_of_odd_size_run_plainly():
    sampler = awake(ksize=3, depth=1)
    frames, spikes = watch_spikes(sampler, micro_bins(height=7, width=9))
    assert spikes.shape[-2:] == (7, 9) and spikes.any() and frames.shape == (1, 2, 2, 7, 9)


@pytest.mark.parametrize("ksize", [1, 3, 5, 7, 9])
def test_a_thin_convolution_is_a_convolution(ksize):
    torch.manual_seed(0)
    conv = ThinConv(3, 4, ksize).double()
    for height, width in ((8, 6), (2, 2), (5, 7)):
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        expected = F.conv2d(x, conv.weight, conv.bias, padding=ksize // 2)
        torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)
        if height % 2 == 0:
            torch.testing.assert_close(conv.in_phases(to_phases(x)), to_phases(expected), rtol=1e-12, atol=1e-12)
    assert phase_weight(conv.weight).shape[:2] == (16, 12)
    counted = phase_weight(torch.ones_like(conv.weight)).sum()
    assert counted == 4 * conv.weight.numel(), "every weight stands once for each phase of the output"


def test_who_watches_the_convolutions_sees_images_and_changes_no_bit():
    sampler, bins = awake(dtype=torch.float32).eval(), micro_bins(dtype=torch.float32)
    unwatched, shapes = sampler(bins), []
    assert unwatched.any()
    handles = [
        layer.register_forward_hook(lambda module, args, output: shapes.append((tuple(args[0].shape), output.shape[1])))
        for layer in sampler.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    assert torch.equal(sampler(bins), unwatched)
    for handle in handles:
        handle.remove()
    inputs = [((8, 2, 6, 8), 4), ((8, 4, 6, 8), 4)]  # all bins in one batch
    assert shapes == inputs + [((2, 2, 6, 8), 4), ((2, 4, 6, 8), 4)] * 4


@pytest.mark.parametrize("plainly", WAYS)
@pytest.mark.parametrize("options", [{}, {"slots": 2, "readout": "avg", "write_zero": False}, {"reset": None}])
def test_gradients_are_true_where_no_spike_hangs_in_the_balance(plainly, options):
    """Far from the threshold the rectangle is 0 and spikes are constant, so that finite differences tell."""
    for seed in range(400):
        sampler = awake(ksize=3, depth=1, steps=3, gain=25.0, seed=seed, **options)
        bins, distances = micro_bins(3, 1, 2, 2, density=0.9, seed=seed), []
        handle = sampler.fire.register_forward_hook(
            lambda module, args, output, seen=distances: seen.append(args[0].detach() - module.threshold)
        )
        sampler(bins)
        handle.remove()
        distance = torch.stack(distances)
        if distance.abs().min() > 0.51 and 0.2 < (distance > 0).double().mean() < 0.8:
            break
    else:
        pytest.fail("no weights keep every potential off the threshold")
    parameters = dict(sampler.named_parameters())

    def frames(x, *values):
        return torch.func.functional_call(sampler, dict(zip(parameters, values, strict=True)), (x,))

    inputs = [value.detach().clone().requires_grad_() for value in (bins, *parameters.values())]
    with the_way(plainly):
        assert frames(*inputs).any()
        assert torch.autograd.gradcheck(frames, inputs)


@pytest.mark.parametrize("attach", [True, False])
def test_spike_aware_training_gives_the_spike_a_gradient(attach):
    """One bin, one pixel, u = x + 0: dO/du is s, and with SAT also the value times the rectangle."""
    sampler = build_sampler("arsnn", ksize=1, depth=1, steps=1, spike_attach=attach).double().train()
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.zero_()
        sampler.input_conv[0].weight[2:, :, 0, 0] = torch.eye(2)
    x = torch.tensor([0.3, 0.7, 1.0, 1.2, 1.49, 1.6], dtype=torch.float64).view(1, 1, 1, 1, 6).repeat(1, 1, 2, 1, 1)
    x.requires_grad_()
    frames = sampler(x)
    fired, near = (x > 1).double(), ((x - 1).abs() < 0.5).double()
    assert torch.equal(frames.detach(), (x * fired).detach())
    frames.sum().backward()
    torch.testing.assert_close(x.grad, fired * (1 + attach * near * x.detach()))


def test_equality_does_not_fire_and_the_gradient_is_a_rectangle():
    spike, u = StrictSpike(1.0), torch.tensor([0.5, 0.6, 1.0, 1.0 + 1e-7, 1.4, 1.5], requires_grad=True)
    for training in (True, False):
        assert spike.train(training)(u).tolist() == [0, 0, 0, 1, 1, 1]
    spike.train()(u).sum().backward()
    assert u.grad.tolist() == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["arsnn", "rsnn", "snn", "count"])
def test_the_type_of_the_input_is_kept(name, dtype):
    bins = micro_bins(dtype=dtype)
    frames = awake(name, dtype=dtype)(bins)
    reference = awake(name)(bins.double())
    assert frames.dtype == dtype and frames.shape == (1, 2, 2, 6, 8)
    assert ((frames != 0) == (reference != 0)).double().mean() > 0.95, "nearly all pixels fire or are silent alike"
    assert (frames != 0).double().mean() > 0.05


def test_under_autocast_potentials_stay_in_full_precision():
    sampler, bins, seen = awake(dtype=torch.float32), micro_bins(dtype=torch.float32), []
    sampler.fire.register_forward_hook(lambda module, args, output: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        frames = sampler(bins)
    assert frames.any() and frames.dtype == torch.float32 and set(seen) == {torch.float32}


def test_an_exported_graph_samples_alike():
    sampler, bins = awake(dtype=torch.float32, slots=2).eval(), micro_bins(dtype=torch.float32)
    exported = torch.export.export(sampler, (bins,)).module()
    frames = sampler(bins)
    assert frames.any() and torch.equal(exported(bins), frames)


def test_the_count_is_the_sum_of_all_bins():
    bins = micro_bins()
    assert bins.any() and torch.equal(build_sampler("count")(bins)[0], bins.sum(dim=0))


@pytest.mark.parametrize("readout", ["sum", "last"])
def test_the_leaky_sampler_leaks_sums_and_resets(readout):
    sampler, bins = awake("snn", ksize=1, depth=1, readout=readout, leak=0.7), micro_bins()
    assert sampler.cell.decay.shape == () and math.isclose(sampler.cell.decay.sigmoid().item(), 0.7, rel_tol=1e-6)
    v, total, fired, leak = 0.0, 0.0, 0, sampler.cell.decay.sigmoid()
    for step in bins.flip(0):
        u = leak * v + sampler.embedding_conv.layer[0](step)
        v, total, fired = torch.where(u > 1, 0.0, u), total + u, fired + (u > 1).sum()
    assert fired > 0
    torch.testing.assert_close(sampler(bins)[0], v if readout == "last" else total, rtol=1e-12, atol=1e-12)


def test_a_norm_sees_every_slot():
    sampler, bins = awake(slots=2, steps=6, norm=True), micro_bins(6)
    raw = sampler[0](bins)
    frames = sampler.train()(bins)
    assert all(frame.any() for frame in raw) and frames.shape == raw.shape
    torch.testing.assert_close(frames.transpose(1, 2).transpose(0, 1).flatten(1).mean(dim=1), torch.zeros(2).double())
    assert sampler[1].running_mean.any()


def names(sampler):
    return list(sampler.state_dict())


def test_parameters_have_the_authors_names_and_numbers():
    both = [
        f"{stack}.{i}.{leaf}" for stack in ("gate_conv", "input_conv") for i in (0, 2) for leaf in ("weight", "bias")
    ]
    published = build_sampler("arsnn")
    assert names(published) == both and sum(p.numel() for p in published.parameters()) == 1216
    assert sorted(names(build_sampler("rsnn"))) == sorted(
        name.replace("input_conv", "input_conv.layer") for name in both
    )
    leaky = [f"embedding_conv.layer.{i}.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")]
    assert sorted(names(build_sampler("snn"))) == sorted(["cell.decay", *leaky])
    assert names(build_sampler("count")) == []
    assert {"0.gate_conv.0.weight", "1.running_mean"} <= set(names(build_sampler("arsnn", norm=True)))
    single = build_sampler("arsnn", ksize=7, depth=1, branch="ncaltech-rep")
    assert names(single) == [name for name in both if ".0." in name]
    assert names(single) == names(build_sampler("arsnn", ksize=7, depth=1))
    deep = build_sampler("arsnn", depth=3, branch="ncaltech-rep").state_dict()
    shapes = {name: list(value.shape[:2]) for name, value in deep.items() if name.endswith("weight")}
    assert shapes == {
        "inner_net.0.input_conv.layer.0.weight": [8, 2],
        "inner_net.0.gate_conv.0.weight": [8, 4],
        "inner_net.1.input_conv.layer.0.weight": [8, 4],
        "inner_net.1.gate_conv.0.weight": [8, 4],
        "gate_conv.0.weight": [4, 2],
        "input_conv.0.weight": [4, 4],
    }


def test_initial_weights_are_the_published_ones():
    sampler = build_sampler("arsnn").double()
    for conv in (sampler.input_conv[0], sampler.input_conv[2]):
        rows = conv.weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(4).double(), rtol=0, atol=1e-5)
    for conv in (sampler.gate_conv[0], sampler.gate_conv[2]):
        bound = math.sqrt(3 / conv.weight[0].numel())
        assert 0.9 * bound < conv.weight.abs().max() <= bound
    assert all(conv.bias.any() for conv in (sampler.gate_conv[0], sampler.input_conv[0]))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((3, 2, 2, 6, 8), "Tm at least 4"),
        ((4, 2, 1, 6, 8), "micro-bins"),
        ((4, 2, 6, 8), "micro-bins"),
    ],
)
def test_bins_that_do_not_fit_are_refused(shape, said):
    for name in ("arsnn", "rsnn", "snn", "count"):
        with pytest.raises(ValueError, match=said):
            build_sampler(name)(torch.zeros(shape))


def test_bins_older_than_the_steps_are_ignored():
    bins = micro_bins(6)
    for name in ("arsnn", "rsnn", "snn", "count"):
        sampler = awake(name)
        frames = sampler(bins)
        assert frames.any() and torch.equal(frames, sampler(bins[2:]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "arsn"}, "did you mean 'arsnn'"),
        ({"ksize": 4}, "ksize must be odd"),
        ({"ksize": 0}, "ksize must be a whole number"),
        ({"depth": 0}, "depth must be"),
        ({"steps": 0}, "steps must be"),
        ({"slots": True}, "slots must be"),
        ({"slots": 2.0}, "slots must be"),
        ({"threshold": 0.0}, "threshold must be positive"),
        ({"threshold": math.nan}, "threshold must be positive"),
        ({"reset": math.inf}, "reset must be"),
        ({"readout": "mean"}, "readout must be one of"),
        ({"branch": "master"}, "branch must be one of"),
        ({"readout": "last"}, "every frame would be 0"),
        ({"name": "rsnn", "slots": 3}, "only 'arsnn' has more"),
        ({"name": "rsnn", "readout": "avg"}, "readout must be one of"),
        ({"name": "count", "readout": "last"}, "readout must be one of"),
        ({"name": "count", "absolute": True}, "absolute is for"),
        ({"name": "snn", "reset": None}, "reset must be 0"),
        ({"name": "snn", "leak": 1.0}, "leak must lie between"),
        ({"name": "rsnn", "branch": "ncaltech-rep"}, "deeper form of 'arsnn' alone"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        build_sampler(**{"name": "arsnn", **options})

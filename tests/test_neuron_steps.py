"""The fused neuron step: the plain formula's bits, autograd's gradients, less memory, and no part in what is traced."""

import itertools
import multiprocessing

import pytest
import torch
from snn_perception_plugins.neurons import IF, LIF, ParametricLIF
from torch.fx.experimental.proxy_tensor import make_fx

from snn_perception import kernel_threads, neuron_cpu, neuron_steps
from snn_perception.fusing import can_fuse, plain_operations
from snn_perception.neuron_kernels import BLOCK, CHUNK

NEURONS = {
    "plif": lambda **options: ParametricLIF(tau=2.5, **options),
    "plif_plain_input": lambda **options: ParametricLIF(tau=2.5, decay_input=False, **options),
    "lif": lambda **options: LIF(tau=1.7, **options),
    "lif_plain_input": lambda **options: LIF(tau=1.7, decay_input=False, **options),
    "if": IF,
}
RESETS = [pytest.param(0.0, id="hard"), pytest.param(None, id="soft")]
DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float64, id="float64")]
ENGINES = {"compiled": neuron_cpu.CompiledLoops, "operations": neuron_steps.TensorOperations}


@pytest.fixture
def fused_calls(monkeypatch):
    """Count the calls of the fused step, so that no test compares the plain formula with itself."""
    calls = []
    engine_for = neuron_steps.engine_for
    monkeypatch.setattr(neuron_steps, "engine_for", lambda device: calls.append(device) or engine_for(device))
    return calls


def currents(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 1.5 + 0.5).to(dtype)


def outcome(neuron, x, v, *, parts="both"):
    """Return spikes, membrane and every gradient of a weighted sum of them."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    v = None if v is None else v.detach().clone().requires_grad_()
    neuron.zero_grad()
    spikes, after = neuron(x, v)
    weigh = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(spikes.dtype)
    loss = (spikes * weigh).sum() if parts != "after" else 0.0
    loss = loss + (0.3 * after.square()).sum() if parts != "spikes" else loss
    loss.backward()
    gradients = [x.grad, *([] if v is None else [v.grad]), *(p.grad for p in neuron.parameters())]
    return spikes.detach(), after.detach(), gradients


def assert_same(neuron, x, v, tolerance=1e-12, **options):
    """Assert that the fused step gives the plain formula's bits, and its gradients to rounding, while it fires."""
    spikes, after, gradients = outcome(neuron, x, v, **options)
    with plain_operations():
        plain_spikes, plain_after, plain_gradients = outcome(neuron, x, v, **options)
    assert 0.05 < spikes.mean() < 0.7, "a neuron that is silent or always fires proves nothing"
    assert torch.equal(spikes, plain_spikes) and torch.equal(after, plain_after)
    for one, other in zip(gradients, plain_gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            scale = float(other.abs().max())
            assert scale > 0 and one.shape == other.shape and one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(scale, 1.0))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("surrogate", ["sigmoid", "atan"])
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("name", NEURONS)
def test_bits_and_gradients_are_those_of_the_plain_formula(
    name, v_reset, detach_reset, surrogate, engine, monkeypatch, fused_calls
):
    options = {"v_threshold": 1.1, "v_reset": v_reset, "detach_reset": detach_reset, "surrogate": surrogate}
    neuron = NEURONS[name](**options, alpha=3.0).double().train()
    counting = neuron_steps.engine_for
    monkeypatch.setattr(neuron_steps, "engine_for", lambda device: counting(device) and ENGINES[engine]())
    assert_same(neuron, currents(5, 3, 4, 7), currents(3, 4, 7, seed=1) * 0.5)
    assert len(fused_calls) == 2, "once forward, once backward"


@pytest.mark.parametrize("surrogate", ["sigmoid", "atan"])
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("name", NEURONS)
def test_single_precision(name, v_reset, surrogate, fused_calls):
    neuron = NEURONS[name](v_reset=v_reset, surrogate=surrogate).train()
    x, v = currents(4, 2, 9, 11, dtype=torch.float32), currents(2, 9, 11, dtype=torch.float32, seed=1)
    assert_same(neuron, x, v, tolerance=2e-6)
    assert len(fused_calls) == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("name", NEURONS)
def test_evaluation_has_the_same_bits_without_a_gradient(name, v_reset, dtype, fused_calls):
    neuron = NEURONS[name](v_reset=v_reset).to(dtype).eval()
    x, v = currents(3, 2, BLOCK + 13, dtype=dtype), currents(2, BLOCK + 13, dtype=dtype, seed=1)
    with torch.no_grad():
        spikes, after = neuron(x, v)
        assert len(fused_calls) == 1
        with plain_operations():
            plain_spikes, plain_after = neuron(x, v)
    assert spikes.any() and torch.equal(spikes, plain_spikes) and torch.equal(after, plain_after)


def test_evaluation_with_a_gradient_keeps_that_of_a_comparison():
    """A spike has none, so what reaches the input comes through the membrane alone."""
    neuron, x = IF().eval(), torch.tensor([[[0.5, 2.0]]], requires_grad=True)
    spikes, after = neuron(x, None)
    assert not spikes.requires_grad
    after.sum().backward()
    assert x.grad.tolist() == [[[1.0, 0.0]]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("name", NEURONS)
def test_odd_numbers_have_the_same_bits(name, v_reset, dtype, fused_calls):
    tiny, largest = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
    odd = [0.0, -0.0, 1.0, 1 - 1e-7, 1 + 1e-7, tiny, -tiny / 4, largest, -largest, float("inf"), -float("inf")]
    pairs = torch.tensor(list(itertools.product([*odd, float("nan")], odd)), dtype=dtype)
    neuron = NEURONS[name](v_reset=v_reset).to(dtype).eval()
    with torch.no_grad():
        spikes, after = neuron(pairs[None, :, 0], pairs[:, 1])
        assert fused_calls
        with plain_operations():
            plain_spikes, plain_after = neuron(pairs[None, :, 0], pairs[:, 1])
    assert spikes.any() and torch.equal(spikes, plain_spikes)
    # Equal, with nan for nan and the sign of zeros.
    torch.testing.assert_close(after, plain_after, rtol=0, atol=0, equal_nan=True)
    numbers = ~after.isnan()
    assert torch.equal(torch.signbit(after)[numbers], torch.signbit(plain_after)[numbers])


@pytest.mark.parametrize("surrogate", ["sigmoid", "atan"])
@pytest.mark.parametrize("name", NEURONS)
def test_a_current_that_is_no_number_shows_in_the_gradient(name, surrogate, fused_calls):
    """A training loop stops where the gradient is not finite; a silent membrane would hide it."""
    x = currents(1, 1, 20)
    x[0, 0, 3] = float("nan")
    _, _, gradients = outcome(NEURONS[name](surrogate=surrogate).double().train(), x, None, parts="spikes")
    assert gradients[0].isnan().flatten().nonzero().flatten().tolist() == [3] and len(fused_calls) == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_surrogates_slope_everywhere(dtype, fused_calls):
    """Of the sigmoid, from far below the threshold to far above, where it vanishes."""
    x = torch.cat([torch.linspace(-300, 300, 4001), torch.linspace(0.9, 1.1, 4001)]).to(dtype).view(1, 1, -1)
    neuron = IF(alpha=4.0).to(dtype).train()
    x.requires_grad_()
    neuron(x, None)[0].sum().backward()
    u = 4.0 * (x.detach().double() - 1.0)
    expected = 4.0 * u.sigmoid() * (-u).sigmoid()
    assert fused_calls and expected.max() == 1.0
    error = (x.grad.double() - expected).abs() / torch.finfo(dtype).eps
    assert error.max() < 64 and (error[expected < 1e-30] < 1e-20).all()


@pytest.mark.parametrize("parts", ["spikes", "after"])
def test_a_loss_on_one_output_alone(parts, fused_calls):
    assert_same(ParametricLIF(detach_reset=False).double().train(), currents(3, 2, 40), None, parts=parts)
    assert len(fused_calls) == 2


@pytest.mark.parametrize("frozen", ["leak", "membrane", "current"])
def test_what_needs_no_gradient_gets_none(frozen, fused_calls):
    neuron, x, v = ParametricLIF().double().train(), currents(3, 2, 40), currents(2, 40, seed=1)
    neuron.w.requires_grad_(frozen != "leak")
    x.requires_grad_(frozen != "current")
    v.requires_grad_(frozen != "membrane")
    found = []
    for plain in (False, True):
        leaves = [leaf.detach().clone().requires_grad_(leaf.requires_grad) for leaf in (x, v)]
        neuron.zero_grad()
        if plain:
            with plain_operations():
                spikes, after = neuron(*leaves)
        else:
            spikes, after = neuron(*leaves)
        (spikes.cumsum(-1).sum() + after.square().sum()).backward()
        found.append([None if leaf.grad is None else leaf.grad.clone() for leaf in (*leaves, neuron.w)])
    assert len(fused_calls) == 2 and sum(gradient is None for gradient in found[0]) == 1
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.any()
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)


def test_states_go_through_several_windows(fused_calls):
    """Three windows in one graph, the membrane carried: the gradient of the first comes through all."""
    neuron = ParametricLIF().double().train()
    found = []
    for plain in (False, True):
        x, state, total = currents(3, 1, 2, 50).requires_grad_(), None, 0.0
        neuron.zero_grad()
        for k, window in enumerate(x):
            if plain:
                with plain_operations():
                    spikes, state = neuron(window, state)
            else:
                spikes, state = neuron(window, state)
            total = total + (k + 1) * (spikes * torch.linspace(-1, 1, 50)).sum()
        total.backward()
        found.append((x.grad, neuron.w.grad.clone(), state.detach()))
    assert len(fused_calls) == 6 and found[0][0][0].any()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK, CHUNK + BLOCK + 5])
@pytest.mark.parametrize("steps", [1, 3])
def test_every_neuron_is_reached(size, steps, fused_calls):
    x, v = torch.full((steps, 1, size), 1.5).double(), torch.full((1, size), 0.75).double()
    x[0, 0, 0] = 1.75
    neuron = ParametricLIF().double().train()
    spikes, after, (g_x, g_v, g_w) = outcome(neuron, x, v)
    with plain_operations():
        expected = outcome(neuron, x, v)
    assert spikes.any() and torch.equal(spikes, expected[0]) and torch.equal(after, expected[1])
    for one, other in zip((g_x, g_v, g_w), expected[2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)
    assert len(fused_calls) == 2


def test_memory_in_another_order(fused_calls):
    neuron = ParametricLIF().double().train()
    v = currents(2, 5, 4, 7, seed=1)
    channels_last = currents(3 * 2, 5, 4, 7).to(memory_format=torch.channels_last).unflatten(0, (3, 2))
    assert not channels_last.is_contiguous()
    assert_same(neuron, channels_last, v)
    with torch.no_grad():
        spikes, _ = neuron(channels_last, v)
    assert spikes.stride() == channels_last.stride(), "the next convolution finds its layout"
    repeated = channels_last[:1].expand(3, -1, -1, -1, -1)
    assert_same(neuron, repeated, v)
    with torch.no_grad():
        spikes, _ = neuron(repeated, v)
    assert spikes.stride() == channels_last.stride(), "the same current at every step has its layout too"
    strided = currents(3, 2, 10, 4, 7)[:, :, ::2]
    assert_same(neuron, strided, v)
    assert_same(neuron, currents(3, 2, 1, 4, 7).expand(3, 2, 5, 4, 7), v)
    assert_same(neuron, currents(3, 7, 4, 5, 2).permute(0, 4, 3, 2, 1), v.permute(3, 0, 1, 2).permute(1, 2, 3, 0))
    assert len(fused_calls) == 12


def test_nothing_is_a_batch_too():
    for training in (True, False):
        spikes, after = ParametricLIF().train(training)(torch.zeros(2, 0, 3, 4), None)
        assert spikes.shape == (2, 0, 3, 4) and after.shape == (0, 3, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_currents_have_single_precision_membranes(dtype, fused_calls):
    neuron, x, v = ParametricLIF().train(), currents(4, 2, 300, dtype=torch.float32).to(dtype), None
    with torch.autocast("cpu", torch.bfloat16):
        spikes, after, (g_x, g_w) = outcome(neuron, x, v)
        with plain_operations():
            plain = outcome(neuron, x, v)
    assert spikes.dtype == g_x.dtype == dtype and after.dtype == g_w.dtype == torch.float32 and len(fused_calls) == 2
    assert spikes.any() and torch.equal(spikes, plain[0]) and torch.equal(after, plain[1])
    torch.testing.assert_close(g_x, plain[2][0], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(g_w, plain[2][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(dtype, monkeypatch, fused_calls):
    neuron, x = ParametricLIF().to(dtype).train(), currents(2, 5 * CHUNK + 77, dtype=dtype)[:, None]
    threads, found, used = torch.get_num_threads(), [], []
    pool = kernel_threads._pool
    monkeypatch.setattr(kernel_threads, "_pool", lambda *key: used.append(key[1]) or pool(*key))
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            spikes, after, gradients = outcome(neuron, x, None)
            found.append((spikes, after, *gradients))
    finally:
        torch.set_num_threads(threads)
    assert used == [1, 1, 2, 2] and len(fused_calls) == 6, "forward and backward, in 2 and in 3 shares"
    assert found[0][0].any() and found[0][-1].any()
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def _add_up(first, last, found):
    found[first] = last


def _share(results):
    found, threads = {}, torch.get_num_threads()
    torch.set_num_threads(2)
    kernel_threads.in_threads(_add_up, 5, 2, found)
    torch.set_num_threads(threads)
    results.put(found)


def test_a_forked_process_has_threads_of_its_own():
    """Those of its parent are not in it; work given to them would wait for ever."""
    results = multiprocessing.get_context("fork").Queue()
    _share(results)
    child = multiprocessing.get_context("fork").Process(target=_share, args=(results,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert results.get(timeout=10) == results.get(timeout=10) == {0: 2, 2: 5}


def test_an_error_in_a_thread_comes_out(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        kernel_threads.in_threads(lambda first, last: 1 / first if first == 0 else None, 4, 1)
    with pytest.raises(ZeroDivisionError):
        kernel_threads.in_threads(lambda first, last: 1 // 0 if first else None, 4, 1)


def kept_bytes(run):
    """Return the bytes of distinct memory that the graph of `run()` keeps for the gradient."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = run()
    assert outputs[0].requires_grad
    return sum(kept.values())


def test_the_gradient_keeps_current_and_membrane_alone():
    neuron, x = ParametricLIF().train(), currents(1, 4, 1000, dtype=torch.float32).requires_grad_()
    v = currents(4, 1000, dtype=torch.float32)
    fused = kept_bytes(lambda: neuron(x, v))
    with plain_operations():
        plain = kept_bytes(lambda: neuron(x, v))
    assert fused <= 2 * 16_000 + 64 < 3 * 16_000 <= plain


def test_a_changed_current_is_noticed():
    neuron = ParametricLIF().train()
    x = currents(1, 2, 30, dtype=torch.float32).requires_grad_()
    current = x * 1.0
    spikes, _ = neuron(current, None)
    current.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()


def test_gradients_of_gradients_take_the_plain_formula():
    neuron, x = ParametricLIF().double().train(), currents(2, 2, 30).requires_grad_()
    spikes, after = neuron(x, None)
    (first,) = torch.autograd.grad((spikes.sum() + after.square().sum()), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
    with plain_operations():
        _, after = neuron(x, None)
        (first,) = torch.autograd.grad(after.square().sum(), x, create_graph=True)
        first.sum().backward()
    assert x.grad.any()


class TestTracing:
    """Whatever records operations sees plain ones, whose numbers it can recompute."""

    @staticmethod
    def fused(run, fused_calls):
        before = len(fused_calls)
        run()
        return len(fused_calls) > before

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
    def test_a_recorded_graph_computes(self, fused_calls):
        neuron, x, v = ParametricLIF().eval(), currents(2, 1, 9, dtype=torch.float32), torch.zeros(1, 9)
        with torch.no_grad():
            graph = make_fx(neuron)(x, v)
            trace = torch.jit.trace(neuron, (x, v), check_trace=False)
            assert not fused_calls
            other = currents(2, 1, 9, dtype=torch.float32, seed=5)
            expected = neuron(other, v)
            assert fused_calls and expected[0].any()
            for recorded in (graph(other, v), trace(other, v)):
                assert all(torch.equal(a, b) for a, b in zip(recorded, expected, strict=True))

    def test_an_export_has_known_operations(self, fused_calls):
        neuron, x = ParametricLIF().eval(), currents(2, 1, 9, dtype=torch.float32)
        program = torch.export.export(neuron, (x, torch.zeros(1, 9)))
        called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert "aten.ge.Scalar" in called and all(name.startswith("aten.") or "getitem" in name for name in called)
        assert not fused_calls

    def test_maps_over_a_batch(self, fused_calls):
        neuron, x = ParametricLIF().eval(), currents(6, 2, 1, 9, dtype=torch.float32)
        with torch.no_grad():
            mapped, _ = torch.vmap(lambda x: neuron(x, None))(x)
            assert not fused_calls
            assert mapped.any() and torch.equal(mapped, torch.stack([neuron(row, None)[0] for row in x]))

    def test_shapes_alone(self, fused_calls):
        spikes, after = ParametricLIF().to("meta").eval()(torch.ones(2, 3, 4, device="meta"), None)
        assert spikes.shape == (2, 3, 4) and after.shape == (3, 4) and not fused_calls

    def test_what_can_be_fused(self):
        x = torch.ones(2, 3)
        assert can_fuse(x) and can_fuse(x, torch.nn.Parameter(x))
        with plain_operations():
            assert not can_fuse(x)
        assert can_fuse(x), "plain operations end with their block"
        refused = [x.half(), x.int(), x.to_sparse(), x[:0], x.to("meta")]
        assert not any(can_fuse(other) for other in refused) and not can_fuse(x, x.double())

"""Neurons against spikingjelly's, spike for spike, membrane for membrane and gradient for gradient; and the adapter."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from snn_perception_plugins.neurons import IF, LIF, ParametricLIF, _Neuron
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based import surrogate as sj_surrogate

from snn_perception.errors import PluginError
from snn_perception.testing import check_neuron
from tests.paths import ROOT

SURROGATES = {"sigmoid": sj_surrogate.Sigmoid, "atan": sj_surrogate.ATan}
RESETS = [pytest.param(0.0, id="hard"), pytest.param(None, id="soft")]
DTYPES = [torch.float32, torch.float64]

# Every neuron class of spikingjelly 2.0 (0.0.0.0.14 has some of them): the options it needs for the contract, or the
# reason why it cannot be a neuron here, as the adapter tells it.
OPTIONS = {
    "ActivationAwareIFNode": {},
    "CUBALIFNode": {},
    "ComplementaryLIFNode": {},
    "EIFNode": {"v_reset": 0.0},  # rests at -0.1 otherwise
    "IFNode": {},
    "ILIFNode": {},
    "IzhikevichNode": {},
    "KLIFNode": {},
    "LIFNode": {},
    "MPBNLIFNode": {"out_channels": 4},
    "ParametricLIFNode": {},
    "QIFNode": {"v_reset": 0.0},  # rests at -0.1 otherwise
    "RAFNode": {},
    "SLTTLIFNode": {},
    "SimpleIFNode": {},
    "SimpleLIFNode": {"tau": 2.0, "decay_input": True},
    "TernaryIFNode": {},
    "TernaryLIFNode": {},
}
REASONS = {
    # Whole sequences in one piece, or no state of their own.
    "DSRIFNode": "has no memories: it is no neuron that runs step by step",
    "DSRLIFNode": "has no memories: it is no neuron that runs step by step",
    "GatedLIFNode": "missing 1 required positional argument: 'T'",  # and with it: multi-step only
    "MaskedPSN": "missing 2 required positional arguments: 'k' and 'T'",
    "NonSpikingIFNode": "does not hold its state itself as memories",
    "NonSpikingLIFNode": "does not hold its state itself as memories",
    "PSN": "missing 1 required positional argument: 'T'",
    "SlidingPSN": "missing 1 required positional argument: 'k'",  # and with it: its memory is a list
    # Rest that is not zero.
    "HalfThresholdIFNode": "memory 'v' rests at 0.5, but rest must be 0",
    "OTTTLIFNode": "memory 'trace' rests at None, but rest must be 0",
    "STBIFNode": "missing 2 required positional arguments: 'q_threshold' and 'level'",  # and with it: rests at a half
    # Arguments that no option can hold: functions, tables, sizes of a population.
    "FewSpikeNode": "missing 1 required positional argument: 'table'",
    "FlexSN": "missing 2 required positional arguments: 'core' and 'num_states'",
    "HGNode": "missing 2 required positional arguments: 'tables' and 'gate_thresholds'",
    "ILCCUBALIFNode": "missing 2 required positional arguments: 'act_dim' and 'dec_pop_dim'",
    "ILCIFNode": "missing 2 required positional arguments: 'act_dim' and 'dec_pop_dim'",
    "ILCLIFNode": "missing 2 required positional arguments: 'act_dim' and 'dec_pop_dim'",
    "LIAFNode": "missing 2 required positional arguments: 'act' and 'threshold_related'",
    "NoisyCUBALIFNode": "missing 1 required positional argument: 'num_node'",
    "NoisyILCCUBALIFNode": "missing 2 required positional arguments: 'act_dim' and 'dec_pop_dim'",
    "NoisyNonSpikingIFNode": "missing 1 required positional argument: 'num_node'",
    "OutlierAwareThresholdNode": "missing 3 required positional arguments",
}


def neuron_classes() -> list[str]:
    """Return the names of all modules that spikingjelly's neuron package offers, without abstract bases."""
    found = [name for name, kind in vars(sj_neuron).items() if isinstance(kind, type)]
    return sorted(
        name for name in found if issubclass(getattr(sj_neuron, name), torch.nn.Module) and "Base" not in name
    )


def currents(dtype, steps=25, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(steps, 3, 4, 5, generator=generator, dtype=torch.float64) * 1.5 + 0.5).to(dtype)


def run(step, x):
    """Return spikes, the last membrane, and the gradients of input and parameters of a weighted sum of the spikes."""
    x = x.clone().requires_grad_()
    spikes, v = step(x)
    weights = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1), dtype=spikes.dtype)
    ((spikes * weights).sum() + v.sum()).backward()
    return spikes.detach(), v.detach(), x.grad


def assert_same_neuron(ours, theirs, dtype):
    """Assert that both do the same over 25 steps that carry gradients from each step to all before."""
    ours, theirs, x = ours.to(dtype).train(), theirs.to(dtype).train(), currents(dtype)

    def their_steps(x):
        theirs.reset()
        return torch.stack([theirs(step) for step in x]), theirs.v

    spikes, v, gradient = run(lambda x: ours(x, None), x)
    their_spikes, their_v, their_gradient = run(their_steps, x)
    assert 0.05 < spikes.mean() < 0.6, "a neuron that is silent or always fires proves nothing"
    assert torch.equal(spikes, their_spikes)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(v, their_v, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, their_gradient, rtol=tolerance, atol=tolerance)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=100 * tolerance, atol=100 * tolerance)
    with torch.no_grad():
        quiet, after = ours.eval()(x, None)
    assert torch.equal(quiet, spikes), "evaluation fires as training does"
    torch.testing.assert_close(after, v, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("v_reset", RESETS)
class TestAgainstSpikingjelly:
    def test_if(self, v_reset, detach_reset, surrogate, dtype):
        options = {"v_threshold": 1.2, "v_reset": v_reset, "detach_reset": detach_reset}
        theirs = sj_neuron.IFNode(surrogate_function=SURROGATES[surrogate](alpha=4.0), **options)
        assert_same_neuron(IF(surrogate=surrogate, alpha=4.0, **options), theirs, dtype)

    @pytest.mark.parametrize("decay_input", [True, False])
    def test_lif(self, decay_input, v_reset, detach_reset, surrogate, dtype):
        options = {"tau": 1.7, "decay_input": decay_input, "v_reset": v_reset, "detach_reset": detach_reset}
        theirs = sj_neuron.LIFNode(surrogate_function=SURROGATES[surrogate](alpha=4.0), **options)
        assert_same_neuron(LIF(surrogate=surrogate, alpha=4.0, **options), theirs, dtype)

    @pytest.mark.parametrize("decay_input", [True, False])
    def test_plif(self, decay_input, v_reset, detach_reset, surrogate, dtype):
        options = {"decay_input": decay_input, "v_reset": v_reset, "detach_reset": detach_reset}
        theirs = sj_neuron.ParametricLIFNode(
            init_tau=2.5, surrogate_function=SURROGATES[surrogate](alpha=4.0), **options
        )
        ours = ParametricLIF(tau=2.5, surrogate=surrogate, alpha=4.0, **options)
        assert [name for name, _ in ours.named_parameters()] == ["w"]
        assert_same_neuron(ours, theirs, dtype)


def test_a_membrane_of_exactly_the_threshold_fires():
    for neuron in (IF(), LIF(decay_input=False), ParametricLIF(decay_input=False)):
        for training in (True, False):
            below = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item()
            spikes, v = neuron.train(training)(torch.tensor([[[1.0, below]]]), None)
            assert spikes.tolist() == [[[1.0, 0.0]]]
            assert v.tolist() == [[0.0, below]]


def test_plif_by_hand():
    """With tau 2, ``v += (x - v) / 2``: 0.8, then 1.4, which fires and becomes 0 (hard) or 0.4 (soft)."""
    neuron = ParametricLIF(tau=2.0).eval()
    assert neuron.w.item() == 0.0
    spikes, v = neuron(torch.tensor([1.6, 2.0, 1.0]).view(3, 1, 1), None)
    assert spikes.flatten().tolist() == [0, 1, 0] and v.item() == pytest.approx(0.5)
    soft = ParametricLIF(tau=2.0, v_reset=None).eval()
    spikes, v = soft(torch.tensor([1.6, 2.0, 1.0]).view(3, 1, 1), None)
    assert spikes.flatten().tolist() == [0, 1, 0] and v.item() == pytest.approx((0.4 + 1.0) / 2)


def test_a_single_step_leaves_its_state_alone():
    """A live camera runs one step at a time, on the state of the step before."""
    neuron, x = ParametricLIF().eval(), torch.ones(1, 2, 3)
    with torch.no_grad():
        spikes, v = neuron(x, None)
        again, after = neuron(x, v)
    assert spikes.shape == again.shape == (1, 2, 3)
    assert v.data_ptr() != after.data_ptr() and torch.equal(v, torch.full((2, 3), 0.5)), "the state given is kept"


@pytest.mark.parametrize("make", [IF, LIF, ParametricLIF])
def test_the_step_exports_with_its_state_as_input_and_output(make):
    neuron, x, v = make().eval(), currents(torch.float32, 2), currents(torch.float32, 1, seed=4)[0]
    program = torch.export.export(neuron, (x, v)).module()
    with torch.no_grad():
        for given in (v, torch.zeros_like(v)):
            (spikes, after), (expected, expected_after) = program(x, given), neuron(x, given)
            assert torch.equal(spikes, expected) and torch.equal(after, expected_after) and spikes.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 1.0}, "tau must be finite and exceed 1 time step, got 1.0"),
        ({"tau": float("nan")}, "tau must be finite and exceed 1 time step, got nan"),
        ({"tau": float("inf")}, "tau must be finite and exceed 1 time step, got inf"),
        ({"v_threshold": 0.0}, "v_threshold must be positive, got 0.0"),
        ({"v_threshold": float("nan")}, "v_threshold must be positive, got nan"),
        ({"v_reset": -0.1}, r"v_reset must be 0.0 \(hard\) or None \(soft\), since rest is 0, got -0.1"),
        ({"surrogate": "step"}, r"surrogate must be one of \['atan', 'patan', 'sigmoid'\], got 'step'"),
        ({"alpha": 0.0}, "alpha must be positive, got 0.0"),
        ({"tau": "2"}, "neuron 'plif'"),
        ({"taw": 2.0}, r"unexpected keyword argument 'taw'; options: \(\*, tau=2.0, decay_input=True"),
    ],
)
def test_options_are_checked(options, message, registry):
    with pytest.raises(PluginError, match=message):
        registry.build("neuron", "plif", **options)


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        _Neuron(v_threshold=1.0, v_reset=0.0, detach_reset=True, surrogate="sigmoid", alpha=4.0)


@pytest.mark.parametrize("name", neuron_classes())
def test_every_node_of_spikingjelly(name, registry):
    assert (name in OPTIONS) != (name in REASONS), f"{name} belongs in one of the tables of tests/test_neurons.py"
    if name in OPTIONS:
        check_neuron(registry.factory("neuron", "spikingjelly", node=name, **OPTIONS[name]))
        return
    with pytest.raises(PluginError, match=rf"neuron 'spikingjelly'.*|spikingjelly {name}") as caught:
        registry.build("neuron", "spikingjelly", node=name)
    assert REASONS[name] in str(caught.value)


@pytest.mark.parametrize(
    ("node", "options", "reason"),
    [
        ("GatedLIFNode", {"T": 4}, "GatedLIFNode must run step by step: use step_mode='s', got 'm'"),
        ("SlidingPSN", {"k": 2}, r"memory 'queue' rests at \[\], but rest must be 0"),
        ("STBIFNode", {"q_threshold": 1.0, "level": 4}, "rests at None, but rest must be 0"),
        ("EIFNode", {}, "memory 'v' rests at -0.1, but rest must be 0; use v_reset=0.0 or None"),
        ("LIFNode", {"v_reset": -0.5}, "memory 'v' rests at -0.5"),
        ("LIFNode", {"step_mode": "m"}, "LIFNode must run step by step"),
        ("LIFNode", {"tau": 0.5}, r"spikingjelly LIFNode: the options are refused; options: \(tau=2.0, decay_input"),
        ("LIFNode", {"tua": 3.0}, r"LIFNode: .*unexpected keyword argument 'tua'; options: \(tau=2.0"),
        ("LIFnode", {}, "spikingjelly has no neuron 'LIFnode'; did you mean 'LIFNode'"),
        ("BaseNode", {}, "spikingjelly has no neuron 'BaseNode'"),
        ("torch", {}, "spikingjelly has no neuron 'torch'; known: .*LIFNode"),
    ],
)
def test_what_the_adapter_refuses(node, options, reason, registry):
    if not hasattr(sj_neuron, node) and node in OPTIONS | REASONS:
        pytest.skip(f"spikingjelly {version('spikingjelly')} has no {node}")
    with pytest.raises(PluginError, match=reason):
        registry.build("neuron", "spikingjelly", node=node, **options)


def test_adapted_nodes_do_not_share_anything(registry):
    """Two layers of one factory, each with its own weights, called in turn for two streams."""
    make = registry.factory("neuron", "spikingjelly", node="ParametricLIFNode", init_tau=3.0)
    first, second = make().eval(), make().eval()
    with torch.no_grad():
        second.node.w.fill_(2.0)
        a, b = currents(torch.float32, 6, seed=2), currents(torch.float32, 6, seed=3)
        whole = [first(a, None)[0], second(b, None)[0]]
        states, pieces = [None, None], [[], []]
        for at in range(6):
            for k, (layer, x) in enumerate(((first, a), (second, b))):
                spikes, states[k] = layer(x[at : at + 1], states[k])
                pieces[k].append(spikes)
    assert whole[0].any() and whole[1].any() and not torch.equal(first(a, None)[0], second(a, None)[0])
    assert all(torch.equal(torch.cat(part), one) for part, one in zip(pieces, whole, strict=True))


@pytest.mark.parametrize(
    ("ours", "node", "options"),
    [("lif", "LIFNode", {"tau": 2.5}), ("if", "IFNode", {"v_threshold": 0.7}), ("plif", "ParametricLIFNode", {})],
)
def test_adapted_and_native_neurons_agree(ours, node, options, registry):
    x = currents(torch.float64)
    with torch.no_grad():
        spikes, v = registry.build("neuron", ours, **options).double().eval()(x, None)
        adapted, memories = registry.build("neuron", "spikingjelly", node=node, **options).double().eval()(x, None)
    assert torch.equal(spikes, adapted) and spikes.any()
    torch.testing.assert_close(v, memories["v"], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_the_old_spikingjelly_gives_the_same(tmp_path):
    """Python 3.10 (ROS 2 Humble, JetPack 6) gets spikingjelly 0.0.0.0.14: the same tests must pass on it."""
    if version("spikingjelly") == "0.0.0.0.14":
        pytest.skip("this is it")
    old = "spikingjelly==0.0.0.0.14"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), old]
    fetched = subprocess.run(command, capture_output=True, text=True, timeout=180)
    if fetched.returncode:
        pytest.skip(f"pip cannot fetch {old}: {fetched.stderr.strip().splitlines()[-1]}")
    tests = ["tests/test_neurons.py", "tests/test_contracts.py::test_neuron", "tests/test_nn.py"]
    search = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    where = "import spikingjelly; print(spikingjelly.__file__)"
    found = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, env=environment, timeout=60)
    assert found.stdout.startswith(str(tmp_path)), found.stdout + found.stderr
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not old_spikingjelly", *tests],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
        env=environment,
    )
    assert child.returncode == 0, child.stdout[-4000:] + child.stderr[-2000:]
    assert " passed" in child.stdout and " failed" not in child.stdout

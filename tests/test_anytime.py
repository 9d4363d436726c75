"""Stopping early: fewer network steps, the state after them, deadlines by a clock of the test's own."""

from dataclasses import replace

import pytest
import torch

from snn_perception import DetectionPipeline, build_preset
from snn_perception.anytime import infer_until, possible_steps, with_steps
from snn_perception.data.shapes import moving_shapes
from snn_perception.detector import Detector
from snn_perception.errors import SpecError
from snn_perception.events.windower import Windower
from snn_perception.runtime.deadline import RECENT, Deadline, StepCosts
from snn_perception.runtime.stream import StreamState
from snn_perception.state import named_leaves
from snn_perception.testing import FiringMeter, sparse_input, spiking_layers, wake
from snn_perception.types import SensorSize

MODES = ("use_spike", "full_spike", "full_spike_v2")
SMALL = {"width_factor": 0.125, "height": 64, "width": 96, "network_size": None}
SIZE = SensorSize(64, 96)
MS = 1_000_000
_AWAKE: dict[tuple[str, str], Detector] = {}


def awake(registry, mode, policy="per_window"):
    """Return a small detector in float64 that fires in every layer and reports every box."""
    if (mode, policy) not in _AWAKE:
        spec = registry.build("preset", "eas_snn_s_use_spike", mode=mode, state_policy=policy, **SMALL)
        head = replace(spec.head, options={**spec.head.options, "score_threshold": 0.0})
        torch.manual_seed(0)
        detector = Detector(replace(spec, head=head), registry).double().eval()
        wake(detector, [bins(seed) for seed in range(3)])
        _AWAKE[mode, policy] = detector
    return _AWAKE[mode, policy]


def bins(seed=0, batch=2):
    return 2.0 * sparse_input(4, batch, 2, SIZE.height, SIZE.width, seed=seed)


def until(steps):
    return lambda done: done >= steps


def same(found, expected, tolerance=1e-5):
    for one, two in zip(found, expected, strict=True):
        assert len(one) == len(two) > 5
        torch.testing.assert_close(torch.tensor(one.xyxy), torch.tensor(two.xyxy), rtol=tolerance, atol=1e-3)
        torch.testing.assert_close(torch.tensor(one.score), torch.tensor(two.score), rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_after_some_steps_it_is_the_network_of_so_many(mode, steps, registry):
    detector, x = awake(registry, mode), bins()
    with torch.no_grad(), FiringMeter(spiking_layers(detector, x)) as meter:
        detector(x)
    assert min(meter.rates().values()) > 0
    found, state = infer_until(detector, x, None, until(steps))
    assert [one.steps for one in found] == [steps, steps]
    expected, after = with_steps(detector, steps, registry).infer(x)
    assert all(one.steps is None for one in expected)
    same(found, expected)
    torch.testing.assert_close(state, after, rtol=1e-10, atol=1e-10)


def test_membranes_go_on_from_where_it_stopped(registry):
    detector = awake(registry, "full_spike_v2", "carry")
    one, after_one = infer_until(detector, bins(1), None, until(1))
    three, after_three = infer_until(detector, bins(1), None, until(3))
    assert one != three
    leaves = dict(named_leaves(after_one))
    assert len(leaves) > 60 and any(not torch.equal(leaf, leaves[name]) for name, leaf in named_leaves(after_three))
    carried, _ = infer_until(detector, bins(2), after_one, until(2))
    afresh, _ = infer_until(detector, bins(2), None, until(2))
    again, _ = infer_until(detector, bins(2), after_one, until(2))
    assert carried != afresh and carried == again, "the same steps give the same bits"


def test_a_head_with_neurons_behind_averaged_maps_runs_once(registry):
    spec = registry.build("preset", "eas_snn_s_use_spike", **SMALL)
    head = replace(spec.head, options={**spec.head.options, "spiking": True, "score_threshold": 0.0})
    torch.manual_seed(0)
    detector = Detector(replace(spec, head=head), registry).double().eval()
    wake(detector, [bins(seed) for seed in range(3)])
    found, state = infer_until(detector, bins(), None, until(3))
    expected, after = detector.infer(bins())
    same(found, expected)
    torch.testing.assert_close(state, after, rtol=1e-10, atol=1e-10)


def test_who_may_stop_early_is_known(registry):
    assert possible_steps(awake(registry, "use_spike")) == 3
    plain = build_preset("st_vgg_ssd_16", registry=registry)
    assert possible_steps(plain) == 0
    with pytest.raises(SpecError, match="deadline_ms: .* backbone 'st_vgg' with its options does not"):
        DetectionPipeline(plain, deadline_ms=20.0)
    with pytest.raises(SpecError, match="steps: .* backbone 'st_vgg'"):
        with_steps(plain, 1, registry)
    analogue = Detector(registry.build("preset", "eas_snn_s_use_spike", mode="none", **SMALL), registry)
    assert possible_steps(analogue) == 0, "one step has nothing to leave out"
    for steps in (0, 4):
        with pytest.raises(SpecError, match=f"steps: expected 1 to 3, the model's network steps, got {steps}"):
            with_steps(awake(registry, "use_spike"), steps, registry)


class Clock:
    """Time that goes on when the test says so."""

    def __init__(self):
        self.ns = 5_000 * MS

    def __call__(self):
        return self.ns

    def window(self, costs, deadline_ms, *, waited_ms=0, step_ms=10, rest_ms=5, most=3):
        """Return the steps that one window takes under a deadline."""
        since_ns = self.ns
        self.ns += waited_ms * MS
        deadline = Deadline(costs, deadline_ms * MS, since_ns, self)
        deadline.begin()
        for done in range(1, most + 1):
            self.ns += step_ms * MS
            if deadline.enough(done):
                break
        self.ns += rest_ms * MS
        deadline.end()
        return done


def test_a_deadline_allows_the_steps_that_fit():
    clock, costs = Clock(), StepCosts()
    assert clock.window(costs, 100) == 3
    assert (costs.step_ns, costs.rest_ns) == (10 * MS, 5 * MS)
    assert [clock.window(costs, ms) for ms in (35, 34, 25, 24, 15, 1)] == [3, 2, 2, 1, 1, 1]
    assert clock.window(costs, 35, waited_ms=10) == 2, "what the window has waited counts"
    assert clock.window(costs, 35, waited_ms=500) == 1


def test_a_slow_window_makes_the_next_ones_careful_for_a_while():
    clock, costs = Clock(), StepCosts()
    for _ in range(RECENT):
        assert clock.window(costs, 40) == 3
    assert clock.window(costs, 40, step_ms=25) == 1, "the step just made tells of the next"
    assert [clock.window(costs, 40) for _ in range(RECENT)] == [2] * RECENT
    assert clock.window(costs, 40) == 3


def test_without_any_figure_a_window_runs_until_time_is_up():
    clock = Clock()
    assert clock.window(StepCosts(), 25, most=9) == 2


def windows(count=4, window_us=200_000):
    windower = Windower(window_us, SIZE, t_start_us=0)
    pieces = moving_shapes(SIZE, count * window_us, seed=3)
    return [*(window for piece in pieces for window in windower.push(piece)), *windower.flush()][:count]


def through(pipeline, **options):
    stream, found = StreamState(), []
    for window in windows():
        one, stream = pipeline.step(window, stream, **options)
        found.append(one)
    return found, stream


def test_a_pipeline_under_a_deadline_can_be_repeated_from_the_steps_that_it_took(registry):
    detector = awake(registry, "full_spike_v2", "carry").float()
    hurried, stream = through(DetectionPipeline(detector, deadline_ms=0.001))
    assert [one.steps for one in hurried] == [1, 1, 1, 1] and min(map(len, hurried)) > 5
    repeated, again = through(DetectionPipeline(detector), steps=1)
    assert repeated == hurried and [one.steps for one in repeated] == [1, 1, 1, 1]
    torch.testing.assert_close(again.model, stream.model, rtol=0, atol=0)
    at_ease, _ = through(DetectionPipeline(detector, deadline_ms=60_000.0))
    assert [one.steps for one in at_ease] == [3, 3, 3, 3] and at_ease != hurried
    assert through(DetectionPipeline(detector), steps=3)[0] == at_ease
    whole, _ = through(DetectionPipeline(detector))
    assert [one.steps for one in whole] == [None] * 4
    same(at_ease, whole, 1e-3)
    detector.double()


def test_the_deadline_may_change_at_any_time(registry):
    pipeline = DetectionPipeline(awake(registry, "use_spike"), deadline_ms=0.001)
    window = windows(1)[0]
    assert pipeline.step(window, StreamState())[0].steps == 1
    pipeline.deadline_ms = 60_000.0
    assert pipeline.step(window, StreamState())[0].steps == 3
    pipeline.deadline_ms = 0.0
    assert pipeline.step(window, StreamState())[0].steps is None

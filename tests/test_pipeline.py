import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from snn_perception.detector import build_preset
from snn_perception.errors import EventDataError
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.replay import replay
from snn_perception.runtime.stream import Continuity, StreamState, continuity
from snn_perception.state import clone, named_leaves
from snn_perception.testing import FiringMeter, spiking_layers
from snn_perception.testing.firing import wake
from snn_perception.types import EventArray, EventWindow, SensorSize
from tests.runtime_support import SIZE, random_windows, same_detections, tiny_detector, tiny_pipeline, tiny_registry

WINDOW_US = 10_000
FAMILY = "st_vgg_ssd_16"


def run(pipeline, windows, stream=None):
    """Return the detections of each window and the state after the last."""
    steps = list(replay(iter(windows), pipeline, stream))
    return [step.detections for step in steps], steps[-1].stream


def leaves(state):
    return {name: leaf.numpy().tobytes() for name, leaf in named_leaves(state)}


def assert_fires(pipeline, windows):
    x = pipeline.detector.represent(windows[0]).to(pipeline.detector.dtype)
    with FiringMeter(spiking_layers(pipeline.detector, x)) as meter:
        run(pipeline, windows)
    rates = meter.rates()
    assert rates and min(rates.values()) > 0.01, f"a silent network proves nothing: {rates}"


@pytest.fixture(scope="module", params=["tiny", FAMILY])
def firing(request):
    """Return a pipeline whose network fires, and windows for it: the test's own model, and a published one."""
    registry = tiny_registry()
    small = {"height": 64, "width": 96, "window_us": WINDOW_US} if request.param == FAMILY else {}
    detector = build_preset(request.param, registry=registry, **small)
    windows = random_windows(15, detector.spec.sensor_size, per_window=1500 if small else 400)
    if small:
        wake(detector.backbone, torch.cat([detector.represent(window) for window in windows]))
    pipeline = DetectionPipeline(detector)
    assert_fires(pipeline, windows)
    found, _ = run(pipeline, windows)
    assert all(len(detections) for detections in found), "no detections to compare"
    return pipeline, windows


def test_two_runs_are_equal_bit_for_bit(firing):
    pipeline, windows = firing
    (first, after_first), (second, after_second) = run(pipeline, windows), run(pipeline, windows)
    assert same_detections(first, second)
    assert leaves(after_first.model) == leaves(after_second.model)


def test_state_matters(firing):
    pipeline, windows = firing
    carried, _ = run(pipeline, windows)
    alone = [run(pipeline, [window])[0][0] for window in windows]
    assert carried[0] == alone[0]
    assert not same_detections(carried[1:], alone[1:]), (
        "the membranes make no difference: nothing below proves anything"
    )


def test_a_reset_equals_a_fresh_stream(firing):
    pipeline, windows = firing
    resumed = [replace(windows[7], after_gap=True), *windows[8:]]
    _, before = run(pipeline, windows[:7])
    after_reset, end = run(pipeline, resumed, before)
    fresh, end_of_fresh = run(pipeline, windows[7:])
    assert same_detections(after_reset, fresh)
    assert leaves(end.model) == leaves(end_of_fresh.model)
    assert (end.resets, end.gaps, end.windows) == (1, 1, len(windows))


def test_missing_windows_within_the_limit_hold_the_membranes(firing):
    pipeline, windows = firing
    _, before = run(pipeline, windows[:5])
    (held,), after = run(pipeline, [windows[9]], before)
    moved_up = replace(windows[9], t_start_us=before.t_end_us, t_end_us=before.t_end_us + WINDOW_US)
    shifted = replace(moved_up, events=_shift(windows[9].events, before.t_end_us - windows[9].t_start_us))
    (followed,), _ = run(pipeline, [shifted], before)
    assert replace(held, t_us=0) == replace(followed, t_us=0)
    assert (after.gaps, after.resets) == (1, 0)


def _shift(events, by_us):
    return EventArray(events.x, events.y, events.p, events.t + by_us, events.size)


def test_missing_windows_beyond_the_limit_reset(firing):
    pipeline, windows = firing
    strict = DetectionPipeline(pipeline.detector, max_gap_us=2 * WINDOW_US)
    _, before = run(strict, windows[:5])
    (found,), after = run(strict, [windows[8]], before)
    (fresh,), _ = run(strict, [windows[8]])
    assert found == fresh
    assert (after.gaps, after.resets) == (1, 1)


def test_a_second_camera_does_not_change_the_first(firing):
    pipeline, windows = firing
    size = pipeline.spec.sensor_size
    others = random_windows(len(windows), size, per_window=900, seed=99)
    alone, _ = run(pipeline, windows)
    left, right = StreamState(), StreamState()
    interleaved, of_right = [], []
    for window, other in zip(windows, others, strict=True):
        found, left = pipeline.step(window, left)
        interleaved.append(found)
        found, right = pipeline.step(other, right)
        of_right.append(found)
    assert same_detections(interleaved, alone)
    assert same_detections(of_right, run(pipeline, others)[0])
    assert not same_detections(of_right, alone)


def test_a_step_leaves_the_given_state_untouched(firing):
    pipeline, windows = firing
    _, stream = run(pipeline, windows[:4])
    before = leaves(clone(stream.model))
    fields = copy.copy(stream)
    pipeline.step(windows[4], stream)
    assert leaves(stream.model) == before
    assert stream == fields


def test_a_kept_state_goes_on_bit_for_bit(firing):
    pipeline, windows = firing
    whole, end = run(pipeline, windows)
    states = [StreamState()]
    for window in windows:
        states.append(pipeline.step(window, states[-1])[1])
    for at in (1, 6, 14):
        rest, after = run(pipeline, windows[at:], states[at])
        assert same_detections(rest, whole[at:])
        assert leaves(after.model) == leaves(end.model)


def test_the_network_keeps_nothing_between_calls(firing):
    pipeline, windows = firing
    before = {name: tensor.clone() for name, tensor in pipeline.detector.state_dict().items()}
    run(pipeline, windows)
    assert all(torch.equal(before[name], tensor) for name, tensor in pipeline.detector.state_dict().items())


def test_silence_decays_the_membranes():
    pipeline, windows = tiny_pipeline(), random_windows(3)
    _, busy = run(pipeline, windows)
    empty = [
        EventWindow(EventArray.empty(SIZE), busy.t_end_us + k * WINDOW_US, busy.t_end_us + (k + 1) * WINDOW_US)
        for k in range(30)
    ]
    _, quiet = run(pipeline, empty, busy)
    largest = [max(float(leaf.abs().max()) for _, leaf in named_leaves(stream.model)) for stream in (busy, quiet)]
    assert 0 < largest[1] < 1e-6 < largest[0]


def test_per_window_models_start_each_window_at_rest():
    pipeline = tiny_pipeline(tiny_detector(state_policy="per_window"))
    windows = random_windows(6)
    found, stream = run(pipeline, windows)
    assert same_detections(found, [run(pipeline, [window])[0][0] for window in windows])
    assert stream.model is None
    assert stream.windows == 6


def test_detections_are_the_best_above_the_threshold():
    detector, (window,) = tiny_detector(), random_windows(1)
    (every,), _ = run(tiny_pipeline(detector), [window])
    threshold = float(np.median(every.score))
    (some,), _ = run(tiny_pipeline(detector, score_threshold=threshold), [window])
    assert 0 < len(some) < len(every)
    assert some == every[: len(some)]
    assert some.score.min() >= threshold > every.score[len(some)]
    (few,), _ = run(tiny_pipeline(detector, max_detections=3), [window])
    assert few == every[:3]
    (none,), _ = run(tiny_pipeline(detector, score_threshold=1.0), [window])
    assert len(none) == 0 and none.xyxy.shape == (0, 4)


def test_time_of_detections_is_the_end_of_the_window():
    found, _ = run(tiny_pipeline(), random_windows(3, first=100))
    assert [detections.t_us for detections in found] == [1_010_000, 1_020_000, 1_030_000]


def test_boxes_come_back_in_pixels_of_the_sensor():
    pipeline, sensor = tiny_pipeline(), SensorSize(height=96, width=128)
    found, _ = run(pipeline, random_windows(2, sensor, per_window=3000))
    assert max(detections.xyxy[:, 2].max() for detections in found) == 128
    assert max(detections.xyxy[:, 3].max() for detections in found) == 96
    same, _ = run(pipeline, random_windows(2))
    assert max(detections.xyxy[:, 2].max() for detections in same) == 64


def test_another_sensor_size_resets():
    pipeline = tiny_pipeline()
    _, before = run(pipeline, random_windows(3))
    other = random_windows(1, SensorSize(96, 128), first=3)
    found, after = run(pipeline, other, before)
    assert same_detections(found, run(pipeline, other)[0])
    assert after.resets == 1


def test_strict_geometry_refuses_another_size():
    with pytest.raises(EventDataError, match="sensor is 128x96, the model expects 64x48"):
        run(tiny_pipeline(geometry="strict"), random_windows(1, SensorSize(96, 128)))


WINDOW = random_windows(1, first=10)[0]
STREAM = StreamState(t_end_us=100_000, windows=5, size=SIZE)


@pytest.mark.parametrize(
    ("window", "stream", "expected"),
    [
        (WINDOW, StreamState(), Continuity.FIRST),
        (WINDOW, STREAM, Continuity.FOLLOWS),
        (WINDOW, replace(STREAM, t_end_us=80_000), Continuity.HELD),
        (WINDOW, replace(STREAM, t_end_us=50_000), Continuity.HELD),
        (WINDOW, replace(STREAM, t_end_us=49_999), Continuity.RESET),
        (WINDOW, replace(STREAM, t_end_us=100_001), Continuity.RESET),
        (WINDOW, replace(STREAM, t_end_us=900_000), Continuity.RESET),
        (WINDOW, replace(STREAM, size=SensorSize(1, 1)), Continuity.RESET),
        (replace(WINDOW, after_gap=True), STREAM, Continuity.RESET),
        (replace(WINDOW, after_gap=True), StreamState(), Continuity.FIRST),
        (replace(WINDOW, lossy=True), STREAM, Continuity.FOLLOWS),
    ],
)
def test_how_a_window_follows_on(window, stream, expected):
    assert continuity(window, stream, stride_us=WINDOW_US, max_gap_us=50_000) is expected

"""Looking into a network that works: the numbers stay, the rates are right, dead and saturated layers are named."""

import numpy as np
import pytest
import torch

from snn_perception.evaluation.activity import ActivityMeter
from snn_perception.runtime.activity_watch import FINE, SILENT_LOOKS, WARNING, ActivityWatch, CameraActivity
from snn_perception.runtime.stream import StreamState
from snn_perception.testing import FiringMeter, spiking_layers
from tests.runtime_support import random_windows, same_detections, tiny_detector, tiny_pipeline

FIRST, SECOND = "backbone.neurons.0", "backbone.neurons.1"


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return round(self.now_s * 1e9)


def busy_windows(count):
    return [window for window in random_windows(2 * count) if window.event_count][:count]


def steps(pipeline, windows, watch=None, camera="left", clock=None):
    """Return the detections of windows that follow each other, 10 ms apart."""
    found, stream = [], StreamState()
    for window in windows:
        if watch is None:
            detections, stream = pipeline.step(window, stream)
        else:
            clock.now_s += 0.01
            with watch.around(camera, window, pipeline.detector):
                detections, stream = pipeline.step(window, stream)
        found.append(detections)
    return found


def watch_every(period_s):
    clock = Clock()
    return ActivityWatch(lambda: period_s, clock), clock


def silence(detector, index):
    with torch.no_grad():
        detector.backbone.convs[index].weight.zero_()


def test_looking_changes_no_number():
    windows = random_windows(12)
    plain = steps(tiny_pipeline(tiny_detector(seed=3)), windows)
    watch, clock = watch_every(0.01)
    looked_at = steps(tiny_pipeline(tiny_detector(seed=3)), windows, watch, clock=clock)
    assert watch.reports()["left"].values["looks"] == "12"
    assert same_detections(plain, looked_at) and sum(map(len, plain))


def test_rates_are_those_of_the_window_that_was_looked_at():
    pipeline, windows = tiny_pipeline(), busy_windows(3)
    watch, clock = watch_every(0.02)  # the first window, and the third
    steps(pipeline, windows, watch, clock=clock)
    stream = StreamState()
    for window in windows[:2]:
        _, stream = pipeline.step(window, stream)
    layers = spiking_layers(pipeline.detector, pipeline.detector.represent(windows[0]))
    with FiringMeter(layers) as meter:
        pipeline.step(windows[2], stream)
    report = watch.reports()["left"]
    assert report.level == FINE and report.message == "every layer fires"
    assert report.values["looks"] == "2"
    assert list(meter.rates()) == [FIRST, SECOND]
    for name, rate in meter.rates().items():
        assert rate > 0 and report.values[f"firing rate {name}"] == f"{rate:.4f}"
    assert report.values["firing rate"] == f"{meter.overall():.4f}"


def test_operations_are_counted_by_layer():
    pipeline, [window] = tiny_pipeline(), busy_windows(1)
    watch, clock = watch_every(1.0)
    steps(pipeline, [window], watch, clock=clock)
    values = watch.reports()["left"].values
    x = pipeline.detector.represent(window)
    with torch.no_grad(), FiringMeter(spiking_layers(pipeline.detector, x)):
        first, _ = pipeline.detector.backbone.neurons[0](
            torch.stack([pipeline.detector.backbone.convs[0](step) for step in x]), None
        )
    # Kernel and stride are 2: each spike meets the weights of one place, for every output channel.
    caused = int(first.count_nonzero()) * pipeline.detector.backbone.convs[1].out_channels
    assert caused and int(values["synaptic operations backbone.convs.1"]) == caused
    by_layer = [int(count) for name, count in values.items() if name.startswith("synaptic operations ")]
    assert 0 < sum(by_layer) == int(values["synaptic operations"]) < int(values["dense operations"])


@pytest.mark.parametrize(("index", "dead"), [(1, [SECOND]), (0, [FIRST, SECOND])])
def test_a_dead_layer_is_named_after_some_looks(index, dead):
    detector = tiny_detector()
    silence(detector, index)
    pipeline, (watch, clock) = tiny_pipeline(detector), watch_every(0.01)
    steps(pipeline, busy_windows(SILENT_LOOKS - 1), watch, clock=clock)
    early = watch.reports()["left"]
    assert early.level == FINE and early.message == f"silent in the last look: {', '.join(dead)}"
    steps(pipeline, busy_windows(1), watch, clock=clock)
    late = watch.reports()["left"]
    assert late.level == WARNING and late.message == f"silent in {SILENT_LOOKS} looks or more: {', '.join(dead)}"
    assert late.values[f"firing rate {dead[0]}"] == "0.0000"


def test_a_scene_without_events_kills_no_layer():
    pipeline, (watch, clock) = tiny_pipeline(), watch_every(0.01)
    empty = [window for window in random_windows(40) if not window.event_count]
    steps(pipeline, empty[: 2 * SILENT_LOOKS], watch, clock=clock)
    report = watch.reports()["left"]
    assert report.values["firing rate"] == "0.0000" and report.level == FINE


def test_a_layer_that_fires_again_is_forgiven():
    detector = tiny_detector()
    weight = detector.backbone.convs[1].weight.detach().clone()
    silence(detector, 1)
    pipeline, (watch, clock) = tiny_pipeline(detector), watch_every(0.01)
    steps(pipeline, busy_windows(SILENT_LOOKS), watch, clock=clock)
    assert watch.reports()["left"].level == WARNING
    with torch.no_grad():
        detector.backbone.convs[1].weight.copy_(weight)
    steps(pipeline, busy_windows(1), watch, clock=clock)
    assert watch.reports()["left"].level == FINE


def test_a_saturated_layer_is_named():
    pipeline, (watch, clock) = tiny_pipeline(), watch_every(0.01)
    steps(pipeline, random_windows(2, per_window=60_000), watch, clock=clock)
    report = watch.reports()["left"]
    assert float(report.values[f"firing rate {SECOND}"]) >= 0.95
    assert report.level == WARNING and report.message.startswith("saturated: ") and SECOND in report.message


def test_cameras_are_looked_at_each_in_its_turn():
    pipeline, (watch, clock) = tiny_pipeline(), watch_every(10.0)
    for camera in ("left", "right"):
        steps(pipeline, busy_windows(2), watch, camera, clock)
    assert {name: report.values["looks"] for name, report in watch.reports().items()} == {"left": "1", "right": "1"}


def test_zero_never_looks_and_says_nothing():
    period, clock = [0.01], Clock()
    watch = ActivityWatch(lambda: period[0], clock)
    pipeline = tiny_pipeline()
    steps(pipeline, busy_windows(2), watch, clock=clock)
    period[0] = 0.0
    steps(pipeline, busy_windows(2), watch, clock=clock)
    assert watch.reports() == {}
    period[0] = 0.01
    assert watch.reports()["left"].values["looks"] == "2", "two of the four windows were looked at"


def test_another_model_begins_anew():
    (watch, clock), dead = watch_every(0.01), tiny_detector()
    silence(dead, 1)
    steps(tiny_pipeline(dead), busy_windows(SILENT_LOOKS), watch, clock=clock)
    steps(tiny_pipeline(), busy_windows(1), watch, clock=clock)
    report = watch.reports()["left"]
    assert report.level == FINE and report.values["looks"] == "1"


def test_a_window_that_fails_is_not_counted_and_leaves_no_hook():
    pipeline, (watch, clock) = tiny_pipeline(), watch_every(0.01)
    [window] = busy_windows(1)
    with pytest.raises(RuntimeError, match="broken"), watch.around("left", window, pipeline.detector):
        raise RuntimeError("broken")
    assert watch.reports() == {}
    assert not any(module._forward_hooks for module in pipeline.detector.modules())
    clock.now_s += 1
    steps(pipeline, [window], watch, clock=clock)
    assert watch.reports()["left"].values["looks"] == "1"


def test_a_network_that_cannot_be_counted_detects_all_the_same(monkeypatch, caplog):
    def refuse(self, rows):
        raise ValueError("its first axis is not time and rows")

    monkeypatch.setattr(ActivityMeter, "expect", refuse)
    pipeline, (watch, clock) = tiny_pipeline(), watch_every(0.01)
    found = steps(pipeline, busy_windows(3), watch, clock=clock)
    assert sum(map(len, found)) and watch.reports() == {}
    assert caplog.text.count("cannot be looked into: its first axis") == 1


def test_nothing_is_said_before_the_first_look():
    assert CameraActivity().report().message == "no window was looked at yet"


def test_a_detector_under_a_deadline_is_counted_over_its_steps():
    from snn_perception import load_registry
    from tests.test_anytime import awake

    detector = awake(load_registry(), "use_spike")
    pipeline, (watch, clock) = tiny_pipeline(detector, deadline_ms=60_000.0), watch_every(0.01)
    size = detector.spec.sensor_size
    [window] = random_windows(1, size, window_us=detector.spec.window_us, per_window=20_000)
    assert np.ptp(window.events.t) > 0
    steps(pipeline, [window], watch, clock=clock)
    values = watch.reports()["left"].values
    assert float(values["firing rate"]) > 0 and int(values["synaptic operations"]) > 0


def test_a_network_that_was_prepared_is_not_searched_again(monkeypatch):
    searched = []

    class Meter(ActivityMeter):
        def __init__(self, detector):
            searched.append(detector)
            super().__init__(detector)

    monkeypatch.setattr("snn_perception.runtime.activity_watch.ActivityMeter", Meter)
    (watch, clock), pipelines = watch_every(0.01), [tiny_pipeline(), tiny_pipeline()]
    for pipeline in pipelines:
        watch.prepare(pipeline.detector)
    for pipeline in pipelines:
        steps(pipeline, busy_windows(2), watch, clock=clock)
    assert searched == [pipeline.detector for pipeline in pipelines]
    assert watch.reports()["left"].values["looks"] == "2", "those of the second one"

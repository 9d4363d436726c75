"""A model under a deadline in the live node: steps used are told, repeated offline, and the deadline may change."""

from dataclasses import replace

import pytest
import torch
from diagnostic_msgs.msg import DiagnosticArray
from std_msgs.msg import Header

from snn_perception import DetectionPipeline
from snn_perception.checkpoint import save_checkpoint
from snn_perception.detector import Detector
from snn_perception.errors import SnnPerceptionError
from snn_perception.events.recording import open_recording
from snn_perception.events.window_source import WindowSource
from snn_perception.ros.live import LiveRun
from snn_perception.ros.messages import ns_to_stamp, to_detection2d_array
from snn_perception.runtime.stream import StreamState
from snn_perception.runtime.waking import wake_on_recording
from tests.ros.test_live_equals_offline import FAMILIES, assert_nothing_lost, content

PRESET = "eas_snn_s_full_spike_v2"


@pytest.fixture
def model(registry, shapes_dat, tmp_path):
    """Return a small model that carries its membranes and fires everywhere, and its file."""
    spec = registry.build("preset", PRESET, **FAMILIES[PRESET])
    head = replace(spec.head, options={**spec.head.options, "score_threshold": 0.0})
    torch.manual_seed(0)
    detector = Detector(replace(spec, head=head), registry).eval()
    assert min(wake_on_recording(detector, shapes_dat, registry, windows=6).values()) > 0
    save_checkpoint(tmp_path / "model.safetensors", detector)
    return detector, tmp_path / "model.safetensors"


def values(timing):
    return {pair.key: pair.value for pair in timing.status[0].values}


def repeated(detector, recording_file, registry, steps):
    """Return the messages of an offline run that takes these steps, window by window."""
    pipeline, stream, messages = DetectionPipeline(detector), StreamState(), []
    source = WindowSource(open_recording(recording_file, registry), registry, pipeline.spec.window_us)
    for window, taken in zip(source, steps, strict=True):
        found, stream = pipeline.step(window, stream, steps=taken)
        header = Header(stamp=ns_to_stamp(window.t_end_us * 1000), frame_id="")
        messages.append(to_detection2d_array(found, header, pipeline.spec.classes))
    return messages


def test_a_live_run_under_a_deadline_can_be_repeated_offline(model, shapes_dat, registry, tmp_path):
    detector, checkpoint = model
    parameters = {
        "checkpoint": str(checkpoint),
        "score_threshold": 0.0,
        "max_detections": 10_000,
        "deadline_ms": 0.001,  # no second step ever fits
    }
    with LiveRun(parameters, tmp_path / "live.log") as run:
        timings = run.listen(DiagnosticArray, "detections/timing")
        run.activate()
        result = run.play(shapes_dat, interval_us=5_000, rate=1.0)
    assert_nothing_lost(result)
    messages = result.decoded()
    assert [t.header.stamp for t in timings] == [m.header.stamp for m in messages], "told apart by their stamps"
    told = [values(timing) for timing in timings]
    assert [one["network_steps"] for one in told] == ["1"] * len(messages)
    for one in told:
        parts = float(one["waiting_ms"]) + float(one["inference_ms"])
        assert float(one["latency_ms"]) == pytest.approx(parts, abs=0.002) and parts > 0.001
    assert result.diagnostics["network steps mean"] == "1.00"
    assert int(result.diagnostics["late windows"]) == len(messages), "even one step takes longer"
    expected = repeated(detector, shapes_dat, registry, [1] * len(messages))
    assert sum(len(m.detections) for m in messages) > 100
    assert [content(m) for m in messages] == [content(m) for m in expected]
    assert [content(m) for m in messages] != [content(m) for m in repeated(detector, shapes_dat, registry, [3] * 10)]


def test_a_deadline_that_no_step_can_be_left_out_for_is_refused(checkpoint, tmp_path):
    with (
        LiveRun({"checkpoint": str(checkpoint), "deadline_ms": 20.0}, tmp_path / "live.log") as run,
        pytest.raises(SnnPerceptionError, match="refused to start: .*deadline_ms: .* leave deadline_ms out"),
    ):
        run.activate()

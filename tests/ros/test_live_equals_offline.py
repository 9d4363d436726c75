"""The node, in its own process and over real DDS, publishes byte for byte what an offline replay computes."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from std_msgs.msg import Header

from snn_perception import DetectionPipeline, load_checkpoint
from snn_perception.checkpoint import save_checkpoint
from snn_perception.detector import Detector
from snn_perception.events.recording import open_recording
from snn_perception.ros.live import LiveRun
from snn_perception.ros.messages import ns_to_stamp, to_detection2d_array
from snn_perception.runtime.replay import WindowSource, replay
from snn_perception.runtime.waking import wake_on_recording
from tests.paths import recording_path

MAX_GAP_MS = 1000
THRESHOLD = 0.5


def content(msg) -> bytes:
    """Return every byte of a message's fields, in order.

    These are the bytes of its serialized form but for the padding between fields, which Fast DDS leaves undefined.
    """
    if hasattr(msg, "get_fields_and_field_types"):
        return b"".join(content(getattr(msg, name)) for name in msg.get_fields_and_field_types())
    if isinstance(msg, str):
        return msg.encode() + b"\0"
    if isinstance(msg, (int, float)):
        return struct.pack("<q" if isinstance(msg, int) else "<d", msg)
    if isinstance(msg, np.ndarray):
        return msg.tobytes()
    return len(msg).to_bytes(4, "little") + b"".join(map(content, msg))


def offline_messages(
    checkpoint: Path, recording_file: Path, registry, *, frame_id: str, threshold: float = THRESHOLD
) -> list[bytes]:
    """Return the contents of the messages that an offline replay makes."""
    pipeline = DetectionPipeline(
        load_checkpoint(checkpoint, registry=registry), max_gap_us=MAX_GAP_MS * 1000, score_threshold=threshold
    )
    recording = open_recording(recording_file, registry)
    source = WindowSource(recording, registry, pipeline.spec.window_us, max_gap_us=pipeline.max_gap_us)
    messages = []
    for step in replay(source, pipeline):
        header = Header(stamp=ns_to_stamp(step.window.t_end_us * 1000), frame_id=frame_id)
        messages.append(content(to_detection2d_array(step.detections, header, pipeline.spec.classes)))
    return messages


def live(checkpoint: Path, recording_file: Path, tmp_path: Path, threshold: float = THRESHOLD, **player):
    """Return what the node published for a recording played to it."""
    parameters = {
        "checkpoint": str(checkpoint),
        "max_gap_ms": MAX_GAP_MS,
        "score_threshold": threshold,
        "max_detections": 10_000,
    }
    with LiveRun(parameters, tmp_path / "live.log") as run:
        run.activate()
        return run.play(recording_file, **player)


def assert_nothing_lost(result) -> None:
    assert int(result.diagnostics["packets"]) == result.published > 10
    for key in (
        "lost packets",
        "bad packets",
        "duplicate packets",
        "dropped windows",
        "failed windows",
        "undecodable data",
    ):
        assert result.diagnostics[key] == "0", f"{key}: {result.diagnostics[key]}"


@pytest.mark.parametrize("interval_us", [pytest.param(1_000, marks=pytest.mark.slow), 7_300])
def test_live_equals_offline_for_any_packetisation(interval_us, checkpoint, shapes_dat, registry, tmp_path):
    expected = offline_messages(checkpoint, shapes_dat, registry, frame_id="")
    result = live(checkpoint, shapes_dat, tmp_path, interval_us=interval_us, rate=1.0)
    assert_nothing_lost(result)
    assert result.published >= 2_000_000 // interval_us - 1
    assert sum(len(m.detections) for m in result.decoded()) > 20, "a detector that sees nothing proves nothing"
    assert len({tuple(d.bbox.center.position.x for d in m.detections) for m in result.decoded()}) > 10
    assert [content(msg) for msg in result.decoded()] == expected


@pytest.mark.parametrize("interval_us", [pytest.param(0, marks=pytest.mark.slow), 3_000])
def test_live_equals_offline_on_a_real_recording(interval_us, checkpoint, registry, tmp_path):
    recording = recording_path("evt3_triggers_640x480_a")
    expected = offline_messages(checkpoint, recording, registry, frame_id="0293")
    result = live(checkpoint, recording, tmp_path, interval_us=interval_us)
    assert int(result.diagnostics["packets"]) == result.published
    assert sum(len(m.detections) for m in result.decoded()) > 20
    assert [content(msg) for msg in result.decoded()] == expected


FAMILIES = {
    "eas_snn_s_use_spike": {"width_factor": 0.125, "network_size": [96, 128]},
    "eas_snn_s_full_spike_v2": {"width_factor": 0.125, "network_size": [96, 128], "state_policy": "carry"},
    "spikeyolo_s_gen1": {"width_factor": 0.125, "depth_factor": 0.17, "network_size": [96, 128]},
}


@pytest.mark.parametrize("preset", FAMILIES)
def test_live_equals_offline_for_every_family(preset, shapes_dat, registry, tmp_path):
    spec = registry.build("preset", preset, **FAMILIES[preset])
    head = replace(spec.head, options={**spec.head.options, "score_threshold": 0.0})  # untrained scores are near 0
    torch.manual_seed(0)
    detector = Detector(replace(spec, head=head), registry).eval()
    assert min(wake_on_recording(detector, shapes_dat, registry, windows=6).values()) > 0
    save_checkpoint(tmp_path / "model.safetensors", detector)
    expected = offline_messages(tmp_path / "model.safetensors", shapes_dat, registry, frame_id="", threshold=0.0)
    result = live(tmp_path / "model.safetensors", shapes_dat, tmp_path, 0.0, interval_us=5_000, rate=1.0)
    assert_nothing_lost(result)
    assert len({tuple(d.bbox.center.position.x for d in m.detections) for m in result.decoded()}) >= 8
    assert [content(msg) for msg in result.decoded()] == expected

"""Two nodes with the same names in two ROS domains, each with its own player: each hears and tells its own alone."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from snn_perception import DetectionPipeline, load_checkpoint, save_checkpoint
from snn_perception.data.shapes import MovingShapes
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import open_recording
from snn_perception.ros.messages import ns_to_stamp, to_detection2d_array
from snn_perception.runtime.replay import WindowSource, replay
from tests.paths import ROOT
from tests.ros.small_support import SETTINGS
from tests.ros.test_detector_node import Bench
from tests.ros.test_live_equals_offline import content
from tests.small_network import SIZE, WINDOW_US, small_detector

WINDOWS = 12


def domains():
    """Return two domains other than that of the other tests."""
    own = int(os.environ["ROS_DOMAIN_ID"])
    return [str(own % 100 + 1), str((own + 1) % 100 + 1)]


@contextmanager
def player(recording, domain):
    """Play a recording in a domain, from a process of its own."""
    settings = {"recording": recording, "interval_us": 5_000, "rate": 1.0, "reliability": "reliable"}
    arguments = [part for name, value in settings.items() for part in ("-p", f"{name}:={value}")]
    process = subprocess.Popen(
        [sys.executable, "-m", "snn_perception.ros.player_node", "--ros-args", *arguments],
        cwd=ROOT,
        env={**os.environ, "ROS_DOMAIN_ID": domain},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def expected_of(checkpoint, recording, registry):
    """Return what an offline replay of a recording makes, as the node would tell it."""
    pipeline = DetectionPipeline(load_checkpoint(checkpoint, registry=registry), max_detections=10)
    source = WindowSource(open_recording(recording, registry), registry, WINDOW_US, max_gap_us=pipeline.max_gap_us)
    found = [step.detections for step in replay(source, pipeline)]
    headers = [Header(stamp=ns_to_stamp(one.t_us * 1000)) for one in found]
    classes = pipeline.spec.classes
    return [content(to_detection2d_array(one, header, classes)) for one, header in zip(found, headers, strict=True)]


@pytest.fixture
def nodes(registry, tmp_path, monkeypatch):
    """Return a node in each domain, active, and one checkpoint that both of them run."""
    save_checkpoint(tmp_path / "small.safetensors", small_detector(registry))
    benches = []
    for domain in domains():
        monkeypatch.setenv("ROS_DOMAIN_ID", domain)
        benches.append(Bench(checkpoint=str(tmp_path / "small.safetensors"), **SETTINGS))
        assert benches[-1].context.get_domain_id() == int(domain)
        benches[-1].start()
    yield benches
    for bench in benches:
        bench.close()


def test_each_domain_gets_its_own_detections(nodes, registry, tmp_path):
    recordings = [tmp_path / f"{seed}.dat" for seed in (1, 2)]
    for seed, recording in enumerate(recordings, start=1):
        write_dat(recording, MovingShapes(SIZE, WINDOWS * WINDOW_US, seed=seed, pause=None), SIZE)
    expected = [expected_of(tmp_path / "small.safetensors", recording, registry) for recording in recordings]
    assert all(len(set(messages)) == len(messages) >= WINDOWS for messages in expected)
    assert not set(expected[0]) & set(expected[1]), "told apart they must be"
    found = [node.listen(Detection2DArray, "detections") for node in nodes]
    first, second = (str(node.context.get_domain_id()) for node in nodes)
    with player(recordings[0], first) as one, player(recordings[1], second) as other:
        deadline = time.monotonic() + 60
        while one.poll() is None or other.poll() is None or any(len(had) < WINDOWS - 1 for had in found):
            assert time.monotonic() < deadline, [len(had) for had in found]
            for node in nodes:
                node.executor.spin_once(timeout_sec=0.01)
    for node in nodes:
        node.spin(0.3)  # what the other's player sent would be here by now
        assert node.detector._cameras[""].packets.stream.counts.packets == WINDOWS * WINDOW_US // 5_000
        node.detector.trigger_deactivate()
        node.spin(0.3)
    assert [[content(msg) for msg in had] for had in found] == expected

"""The benchmark of the node measures what it says, on a small network; its figures are not judged here."""

import os
from types import SimpleNamespace

import pytest

from snn_perception.types import SensorSize
from tools import node_stages
from tools.bench_node import page
from tools.node_cameras import CameraLatency
from tools.node_stages import NETWORK, STAGES, Stopwatch, measure_stages
from tools.node_support import checkpoint, messages, scene
from tools.node_transport import RAW, measure_transport

SIZE = {"height": 48, "width": 64}


def test_a_stopwatch_counts_a_stage_without_those_within_it(monkeypatch):
    now = {"cpu": 0.0, "wall": 0.0}

    def spend(cpu, wall):
        now["cpu"], now["wall"] = now["cpu"] + cpu, now["wall"] + wall

    clock = SimpleNamespace(thread_time=lambda: now["cpu"], perf_counter=lambda: now["wall"])
    monkeypatch.setattr(node_stages, "time", clock)
    watch = Stopwatch()
    inner = watch.around("inner", lambda: spend(1.0, 2.0))

    def steps():
        for _ in range(2):
            inner()
            spend(0.25, 0.25)
            yield
            spend(100.0, 100.0)  # runs in the next step

    timed = watch.over("steps", steps)
    watch.around("outer", lambda: (spend(0.5, 8.0), list(timed())))()
    assert watch.take() == {"inner": (2.0, 4.0), "steps": (200.5, 200.5), "outer": (0.5, 8.0)}
    assert watch.take() == {}
    watch.only_whole = True
    watch.around("outer", lambda: (spend(0.5, 8.0), list(timed())), whole=True)()
    assert watch.take() == {"outer": (203.0, 212.5)}, "with all that is in it"


def test_a_scene_has_the_rate_that_was_asked_for():
    found = scene(SensorSize(48, 64), 200_000, duration_us=500_000)
    assert sum(map(len, found)) == pytest.approx(100_000, rel=0.1)
    assert len(messages(SensorSize(48, 64), 200_000, 1_000, 200_000)) == 200


def test_every_stage_is_measured_and_told(tmp_path):
    path = tmp_path / "model.safetensors"
    size = checkpoint("st_vgg_ssd_16", path, 100_000, 5, selective=True, **SIZE)
    row = measure_stages(path, size, 100_000, 10_000, 10, int(os.environ["ROS_DOMAIN_ID"]))
    assert (row.packets, row.interval_us) == (5, 10_000) and row.events == pytest.approx(5_000, rel=0.2)
    assert 0 < row.detections <= 20
    assert set(row.cpu_ms) == set(STAGES) and all(value > 0 for value in row.cpu_ms.values())
    assert row.whole_ms > row.wall_ms[NETWORK] > 0
    assert row.ratio({**dict.fromkeys(STAGES, 1.0), NETWORK: 4.0}) == (len(STAGES) - 1) / 4
    assert row.share > 0 and row.wall_share > 0
    text = page({"stages": [row]})
    assert f"| **{row.share:.2f}** ({row.wall_share:.2f}) |" in text
    assert "| network | " in text and f"{row.detections:.0f} detections" in text


def test_transport_and_cameras_are_told():
    row = measure_transport(RAW, SensorSize(48, 64), 20_000, 100, 0.5, int(os.environ["ROS_DOMAIN_ID"]))
    assert row.per_second == 100 and row.sent >= row.received > 0 and row.receive_cpu_us > 0
    cameras = [
        CameraLatency("64x48", "native", 0.0, 100, 10.0, 20.0, 0, 0, 0, 1.0, 4.0),
        CameraLatency("64x48", "native", 10.0, 99, 15, 36, 1, 9, 8, 4, 4),
    ]
    text = page({"transport": [row], "cameras": cameras})
    assert f"| {RAW} | 100 |" in text
    assert "* 64x48, `native`: 1.80, not kept" in text

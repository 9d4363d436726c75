"""The monitor as a process of its own, over DDS, beside a real node."""

import json
import signal
import subprocess
import sys
import time

import pytest
from rclpy.lifecycle import TransitionCallbackReturn as Result

from tests.paths import ROOT
from tests.ros.test_detector_node import Bench, packets

MONITOR = [sys.executable, "-m", "snn_perception", "monitor"]


@pytest.fixture
def bench(checkpoint):
    bench = Bench(
        checkpoint=str(checkpoint), overload_policy="block", qos_reliability="reliable", qos_depth=0,
        score_threshold=0.5, diagnostics_period_s=0.2,
    )  # fmt: skip
    yield bench
    bench.close()


def monitor(*arguments):
    return subprocess.Popen(
        [*MONITOR, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def drive(bench, until, timeout_s=60.0, sent=0):
    """Send packets, 50 ms of them at a time, until something has come of it; `sent`: so many were sent before."""
    publisher, messages = bench.publisher(), packets(10_000_000)
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "nothing came of it"
        for msg in messages[sent : sent + 10]:
            publisher.publish(msg)
        sent += 10
        bench.spin(0.3)  # the node is not spun meanwhile, and what has come by then is taken first
    return sent


def test_once_prints_one_object_about_a_running_node(bench):
    bench.start()
    figures = bench.detector._cameras[""].figures
    begun = drive(bench, lambda: figures.published)
    process = monitor("--once", "--json", "--node", "detector", "--timeout", "30")
    sent = drive(bench, lambda: process.poll() is not None, sent=begun)
    out, err = process.communicate()
    assert process.returncode == 0, err
    [row] = json.loads(out)["cameras"]
    assert (row["node"], row["camera"], row["state"], row["level"]) == ("/detector", "camera", "active", "OK"), row
    rates = [row[f"{what}_per_s"] for what in ("packets", "events", "windows", "detections")]
    assert None not in rates, "two reports came"
    assert row["latency_p95_ms"] >= row["latency_p50_ms"] > 0
    assert row["dropped"] == row["lost"] == row["failed"] == 0
    assert sent <= 2_000, "the drive was over before the monitor looked"


def test_lines_follow_a_node_into_silence_until_interrupted(bench):
    """The node is not spun at the end, so its reports stop, as those of a dead one would."""
    bench.start()
    process = monitor("--json", "--period", "0.3")
    assert process.stdout is not None
    seen = []

    def look():
        seen.append(json.loads(process.stdout.readline()))
        rates = ("packets_per_s", "events_per_s", "windows_per_s", "detections_per_s")
        return any(all(row[rate] for rate in rates) for row in seen[-1]["cameras"])

    drive(bench, look)
    for _ in range(60):
        seen.append(json.loads(process.stdout.readline()))
        if any(row["level"] == "STALE" for row in seen[-1]["cameras"]):
            break
    [row] = seen[-1]["cameras"]
    assert row["level"] == "STALE" and row["message"].startswith("no report for") and row["windows_per_s"] is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in err


def test_without_a_terminal_it_prints_plain_tables(bench):
    assert bench.detector.trigger_configure() == Result.SUCCESS
    process = monitor("--period", "0.3")
    assert process.stdout is not None
    lines = []

    def look():
        lines.append(process.stdout.readline())
        return "inactive" in lines[-1]

    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline
        bench.spin(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert lines[0].split()[:4] == ["node", "camera", "state", "level"]
    assert lines[-1].split()[:4] == ["/detector", "-", "inactive", "-"]
    assert "\x1b" not in "".join(lines)


def test_without_a_node_it_says_what_it_listened_for(bench):
    process = monitor("--once", "--timeout", "2", "--node", "nobody")
    while process.poll() is None:
        bench.spin(0.05)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert "named 'nobody' has reported on /diagnostics" in err and "/detector (unconfigured)" in err

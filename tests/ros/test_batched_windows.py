"""The inference thread runs windows of several cameras as one batch, and alone what must run alone."""

import logging
import time
from dataclasses import replace

import pytest

from snn_perception import DetectionPipeline, build_preset
from snn_perception.ros.jobs import LoadJob, ResetJob, SwapJob, WindowJob
from snn_perception.ros.queue import JobQueue
from snn_perception.ros.results import Told
from snn_perception.ros.worker import Batching, InferenceThread
from snn_perception.runtime.activity_watch import ActivityWatch
from snn_perception.runtime.repeat import Sources, repeat
from snn_perception.runtime.serving import Serving
from snn_perception.runtime.soak import awake
from snn_perception.runtime.state_file import SavedStream
from snn_perception.runtime.stream import StreamState
from snn_perception.types import SensorSize
from tests.batch_support import correspond
from tests.runtime_support import random_windows
from tests.test_serving import STREAMS as SHAPES
from tests.test_serving import anytime_detector

CAMERAS, COUNT = ("left", "right", "rear"), 10


@pytest.fixture(scope="module")
def detectors(registry):
    """Return small models whose every layer fires; in float64 rounding decides about no spike."""
    return {
        name: awake(
            build_preset("st_vgg_ssd_16", registry=registry, seed=seed, height=48, width=64), registry, 6
        ).double()
        for seed, name in enumerate(("first", "second"))
    }


@pytest.fixture(scope="module")
def streams(detectors):
    spec = detectors["first"].spec
    return {
        name: random_windows(COUNT, spec.sensor_size, window_us=spec.window_us, per_window=1200, seed=50 * k)
        for k, name in enumerate(CAMERAS)
    }


def job(camera, window, closed_ns=None):
    closed_ns = time.monotonic_ns() if closed_ns is None else closed_ns
    return WindowJob(camera, window, window.t_end_us * 1000, "", closed_ns)


class Run:
    """An inference thread, and what came of its jobs."""

    def __init__(self, pipeline, most=4, *, size=100, policy="block", watch=None):
        self.entries, self.results, self.caught_up, self.failed, self.swapped = [], [], [], [], []
        told = Told(
            self.results.append,
            self.caught_up.append,
            lambda *told: self.failed.append(told),
            lambda *told: self.swapped.append(told),
            lambda *told: None,
        )
        self.serving, self.queue = Serving(pipeline, self.entries.append), JobQueue(size, policy)
        self.serving.begin()
        self.worker = InferenceThread(self.serving, self.queue, told, watch)
        self.worker.batching = Batching(most)

    def do(self, jobs):
        """Queue all of the jobs and run them; what is batched does not depend on the machine."""
        for one in jobs:
            self.queue.put(one)
        self.worker.start()
        assert self.worker.stop(60) is None
        return self

    def of(self, camera):
        return [result.detections for result in self.results if result.job.camera == camera]

    def batches(self):
        """Return the cameras of every turn in which windows were run as a whole."""
        turns, left = [], list(self.results)
        while left:
            turn, left = left[: left[0].batch], left[left[0].batch :]
            assert {result.batch for result in turn} == {len(turn)}
            turns.append("+".join(result.job.camera for result in turn))
        return turns

    def repeated(self, detectors, streams):
        sources = Sources(streams, lambda name: DetectionPipeline(detectors[name]), {}.get)
        return [(one.camera, one.detections) for one in repeat(self.entries, fresh(detectors), sources)]

    def published(self):
        return [(result.job.camera, result.detections) for result in self.results]


def fresh(detectors, name="first"):
    return DetectionPipeline(detectors[name])


def alone(detectors, windows):
    pipeline, stream, found = fresh(detectors), StreamState(), []
    for window in windows:
        one, stream = pipeline.step(window, stream)
        found.append(one)
    return found


def all_correspond(found, expected):
    return len(found) == len(expected) > 0 and all(map(correspond, found, expected)) and min(map(len, found)) > 0


def test_batches_are_formed_and_each_camera_sees_what_it_sees_alone(detectors, streams):
    run = Run(fresh(detectors)).do(job(camera, streams[camera][k]) for k in range(COUNT) for camera in CAMERAS)
    assert run.batches() == ["left+right+rear"] * COUNT
    assert [entry.kind for entry in run.entries] == ["journal", *["batch"] * COUNT]
    for camera in CAMERAS:
        assert all_correspond(run.of(camera), alone(detectors, streams[camera]))
    assert run.repeated(detectors, streams) == run.published()
    saved = run.worker.streams()
    assert {saved[name].stamp_ns for name in CAMERAS} == {streams["left"][-1].t_end_us * 1000}
    assert {saved[name].stream.windows for name in CAMERAS} == {COUNT}


def test_a_batch_took_as_long_for_each_of_its_windows(detectors, streams):
    run = Run(fresh(detectors)).do([job("left", streams["left"][0]), job("right", streams["right"][0])])
    one, other = run.results
    assert one.inference_ns == other.inference_ns > 0
    for result in run.results:
        begun_ns = result.job.closed_ns + result.waited_ns
        assert begun_ns == run.results[0].job.closed_ns + run.results[0].waited_ns
        stages = result.stages(begun_ns + result.inference_ns + 5)
        assert (stages.waiting, stages.inference, stages.publish) == (result.waited_ns, result.inference_ns, 5)
        assert stages.whole == result.latency_ns + 5


def test_without_the_parameter_each_runs_by_itself(detectors, streams):
    run = Run(fresh(detectors), most=1).do(job(c, streams[c][k]) for k in range(3) for c in CAMERAS)
    assert run.batches() == list(CAMERAS) * 3
    assert all(run.of(camera) == alone(detectors, streams[camera][:3]) for camera in CAMERAS), "the same bits"


def test_cameras_join_and_leave(detectors, streams):
    jobs = []
    for k in range(8):
        here = [camera for camera in CAMERAS if camera == "left" or 2 <= k < 5 or (camera == "rear" and k >= 5)]
        jobs += [job(camera, streams[camera][k]) for camera in here]
        if k == 4:
            jobs.append(ResetJob("right"))  # as the node does when a camera leaves
    run = Run(fresh(detectors)).do(jobs)
    assert run.batches()[:3] == ["left+right+rear"] * 3, "what is there is taken, whenever it ended"
    assert all_correspond(run.of("left"), alone(detectors, streams["left"][:8]))
    assert all_correspond(run.of("right"), alone(detectors, streams["right"][2:5]))
    assert all_correspond(run.of("rear"), alone(detectors, streams["rear"][2:8]))
    assert {result.batch for result in run.results} == {1, 2, 3}
    assert run.repeated(detectors, streams) == run.published()


def test_a_new_model_sees_its_windows_one_by_one_and_then_batches_go_on(detectors, streams):
    run = Run(fresh(detectors))
    put = run.queue.put

    def swapping(one):  # a swap goes before all windows in line, so it is asked for from within
        run.results.append(one)
        if len(run.results) == 6:
            put(SwapJob(fresh(detectors, "second"), 100_000, "second"))

    run.worker._told = replace(run.worker._told, result=swapping)
    run.do(job(camera, streams[camera][k]) for k in range(COUNT) for camera in ("left", "right"))
    turns = run.batches()
    assert turns[:3] == turns[-3:] == ["left+right"] * 3 and set(turns[3:-3]) >= {"left", "right"}
    assert [(name, error) for name, _, error in run.swapped] == [("second", None)]
    kinds = [entry.kind for entry in run.entries]
    assert "batch" not in kinds[kinds.index("shadow") : kinds.index("swap")]
    assert run.serving.pipeline.detector is detectors["second"]
    assert run.repeated(detectors, streams) == run.published() and len(run.results) == 2 * COUNT


def test_a_bad_window_fails_alone(detectors, streams):
    pipeline = DetectionPipeline(detectors["first"], geometry="strict")
    bad = random_windows(1, SensorSize(40, 40), window_us=50_000, first=1)[0]
    given = {**streams, "right": [streams["right"][0], bad, *streams["right"][2:]]}
    run = Run(pipeline).do(job(camera, given[camera][k]) for k in range(4) for camera in CAMERAS)
    assert [(failed.camera, failed.window is bad, in_step) for failed, _, in_step in run.failed] == [
        ("right", True, True)]  # fmt: skip
    assert run.batches() == ["left+right+rear", "left", "rear", *["left+right+rear"] * 2]
    for camera in ("left", "rear"):
        assert all_correspond(run.of(camera), alone(detectors, streams[camera][:4]))
    kinds = [entry.kind for entry in run.entries]
    assert kinds == ["journal", "batch", "window", "failed", "window", "batch", "batch"]
    assert run.repeated(detectors, given) == run.published()


def test_batches_that_fail_by_themselves_are_given_up_and_said_so(detectors, streams, caplog):
    pipeline = fresh(detectors)
    tried = []

    def too_much(windows, states):
        tried.append(len(windows))
        raise RuntimeError("no memory for so many rows")

    pipeline.step_batch = too_much
    with caplog.at_level(logging.ERROR, "snn_perception"):
        run = Run(pipeline).do(job(camera, streams[camera][k]) for k in range(3) for camera in CAMERAS)
    assert tried == [3] and not run.failed and {result.batch for result in run.results} == {1}
    assert all(run.of(camera) == alone(detectors, streams[camera][:3]) for camera in CAMERAS)
    [record] = caplog.records
    assert "a batch of 3 windows failed, and none of them alone: RuntimeError: no memory" in record.getMessage()


def test_under_a_deadline_each_runs_by_itself(registry):
    run = Run(DetectionPipeline(anytime_detector(registry)))
    run.worker.change({"deadline_ms": 60_000.0})
    run.do(job(camera, SHAPES[camera][k]) for k in range(2) for camera in SHAPES)
    assert run.batches() == ["left", "right"] * 2 and min(result.detections.steps for result in run.results) > 0


def test_a_window_that_is_looked_into_runs_alone(detectors, streams):
    watch = ActivityWatch(lambda: 3600.0)
    run = Run(fresh(detectors), watch=watch).do(job(c, streams[c][k]) for k in range(3) for c in ("left", "right"))
    assert run.batches() == ["left", "right", "left+right", "left+right"]
    assert set(watch.reports()) == {"left", "right"}
    assert all("firing rate" in report.values for report in watch.reports().values())


def test_a_window_that_goes_on_from_a_saved_state_runs_alone(detectors, streams):
    pipeline, stream = fresh(detectors), StreamState()
    for window in streams["left"][:4]:
        _, stream = pipeline.step(window, stream)
    jobs = [LoadJob("left", SavedStream(stream), "", None)]
    jobs += [job(camera, streams[camera][k]) for k in (4, 5) for camera in ("left", "right")]
    run = Run(fresh(detectors)).do(jobs)
    assert run.batches() == ["right", "left", "right+left"]
    assert all_correspond(run.of("left"), alone(detectors, streams["left"][:6])[4:])


def test_a_late_window_is_caught_up_with_while_the_others_are_run(detectors, streams):
    run = Run(fresh(detectors))
    run.worker.max_age_ms = 3_600_000
    jobs = [job(camera, streams[camera][0]) for camera in CAMERAS]
    jobs[1] = replace(jobs[1], closed_ns=jobs[1].closed_ns - 2 * 3600 * 10**9)
    run.do([*jobs, *(job(camera, streams[camera][1]) for camera in CAMERAS)])
    assert run.batches() == ["left+rear", "left+right+rear"] and [one.camera for one in run.caught_up] == ["right"]
    assert all_correspond(run.of("right"), alone(detectors, streams["right"][:2])[1:])


def test_a_camera_that_sends_too_much_takes_one_turn_in_each_batch_and_drops_its_own(detectors, streams):
    run = Run(fresh(detectors), size=4, policy="catch_up")
    jobs = [job("right", window) for window in streams["right"]]
    jobs += [job("left", window) for window in streams["left"][:2]]
    run.do(jobs)
    assert run.of("left") and all_correspond(run.of("left"), alone(detectors, streams["left"][:2]))
    assert len(run.of("right")) + len(run.caught_up) == 4 and {one.camera for one in run.caught_up} == {"right"}
    assert "left+right" in run.batches() or "right+left" in run.batches()

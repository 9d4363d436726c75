"""The node in this process: states kept, saved and loaded, overload by the book, settings that change while it runs."""

import threading
import time
from dataclasses import replace

import pytest
from rclpy.lifecycle import TransitionCallbackReturn as Result
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2DArray

from snn_perception import build_preset
from snn_perception.checkpoint import save_checkpoint
from snn_perception.ros.jobs import LoadJob, ResetJob
from snn_perception.ros.memory import Memory
from snn_perception.runtime.journal import read_journal
from snn_perception.runtime.state_file import SavedStream, load_stream
from snn_perception.runtime.stream import StreamState
from tests.ros.test_detector_node import packets, play

WINDOWS = 10  # of 50 ms in half a second


def served(b, count):
    return lambda: sum(camera.figures.published for camera in b.detector._cameras.values()) >= count


def call(b, name):
    client = b.peer.create_client(Trigger, f"detector/{name}")
    b.spin_until(client.service_is_ready)
    future = client.call_async(Trigger.Request())
    b.spin_until(future.done)
    return future.result()


def model_of(b, stream=""):
    return b.detector._worker.streams()[stream].stream


def test_states_are_saved_and_loaded_on_request(bench, tmp_path):
    b = bench(state_dir=str(tmp_path), snapshot_period_s=0.0)
    b.start()
    assert "no such saved state" in call(b, "load_state").message
    publisher = b.publisher()
    play(b, publisher, packets())
    b.spin_until(served(b, WINDOWS - 1))
    answer = call(b, "save_state")
    assert answer.success and "saved 1 stream(s)" in answer.message
    saved = load_stream(tmp_path / "camera.safetensors", b.detector._model.pipeline.spec)
    assert saved.stream.windows >= WINDOWS - 1 and saved.stream.model is not None
    assert call(b, "reset_state").success
    b.spin_until(lambda: model_of(b).model is None)
    assert call(b, "load_state").success
    play(b, publisher, packets(seed=4))  # sensor time begins again, and the state is taken up all the same
    b.spin_until(served(b, 2 * WINDOWS - 2))
    assert model_of(b).gaps >= 1


def test_without_a_folder_there_is_nothing_to_save(bench):
    b = bench()
    assert b.detector.trigger_configure() == Result.SUCCESS
    for name in ("save_state", "load_state"):
        answer = call(b, name)
        assert not answer.success and "state_dir is empty" in answer.message


@pytest.mark.parametrize("keeps", [True, False])
def test_a_deactivation_keeps_or_drops_the_state(keeps, bench):
    b = bench(keep_state=keeps, stamp_source="sensor", restore_max_gap_ms=86_400_000)
    b.start()
    publisher = b.publisher()
    both = packets(1_000_000)
    half = len(both) // 2
    play(b, publisher, both[:half])
    b.spin_until(served(b, WINDOWS - 1))
    assert b.detector.trigger_deactivate() == Result.SUCCESS
    kept = b.detector._kept
    assert (set(kept) == {""} and kept[""].stream.model is not None) if keeps else not kept
    assert b.detector.trigger_activate() == Result.SUCCESS
    b.spin_until(lambda: publisher.get_subscription_count() > 0)
    taken = []
    load = b.detector._worker._serving.load
    b.detector._worker._serving.load = lambda *arguments: (taken.append(arguments), load(*arguments))
    play(b, publisher, both[half:])
    b.spin_until(served(b, 3))
    assert [arguments[0] for arguments in taken] == ([""] if keeps else [])


def held(b):
    """Let inference wait; return what sets it free."""
    release, step = threading.Event(), b.detector._model.pipeline.step

    def waiting(window, stream, **options):
        release.wait(30)
        return step(window, stream, **options)

    b.detector._model.pipeline.step = waiting
    return release


def test_windows_that_wait_are_caught_up_with_before_any_is_dropped(bench):
    b = bench(queue_size=6, overload_policy="catch_up", gap_policy="leak")
    found = b.listen(Detection2DArray, "detections")
    b.start()
    release = held(b)
    publisher = b.publisher()
    play(b, publisher, packets(1_000_000))
    figures = b.detector._cameras[""].figures
    b.spin_until(lambda: figures.dropped_windows >= 1)
    b.spin(0.3)
    release.set()
    b.spin_until(lambda: len(b.detector._queue) == 0 and figures.published >= 3)
    b.spin(0.3)
    assert figures.caught_up_windows >= 2, "those that more than half a queue waits behind"
    assert len(found) == figures.published
    assert figures.published + figures.caught_up_windows + figures.dropped_windows >= 2 * WINDOWS - 1
    assert model_of(b).gaps >= 1 and model_of(b).resets == 0


def test_windows_too_old_are_run_for_their_state_alone(bench):
    b = bench(queue_size=50, max_age_ms=1)
    b.start()
    release = held(b)
    publisher = b.publisher()
    play(b, publisher, packets())
    figures = b.detector._cameras[""].figures
    b.spin(0.5)
    release.set()
    b.spin_until(lambda: figures.published + figures.caught_up_windows >= WINDOWS - 1)
    assert figures.caught_up_windows >= WINDOWS - 3 and figures.dropped_windows == 0
    [change] = b.detector.set_parameters([Parameter("max_age_ms", value=0)])
    assert change.successful and b.detector._worker.max_age_ms == 0


def test_looks_that_come_too_late_are_skipped_and_counted(bench):
    b = bench(queue_size=50, max_age_ms=1, rate_times=2, rate_mode="peek")
    b.start()
    release = held(b)
    publisher = b.publisher()
    play(b, publisher, packets())
    b.spin(0.5)
    release.set()
    camera = b.detector._cameras[""]
    b.spin_until(lambda: camera.figures.published + camera.figures.caught_up_windows >= WINDOWS - 1)
    b.spin_until(lambda: len(b.detector._queue) == 0)
    assert camera.received()["skipped looks"] >= WINDOWS - 3


def test_policies_change_while_it_runs(bench):
    b = bench()
    b.start()
    for name, value in (("overload_policy", "catch_up"), ("gap_policy", "leak"), ("max_detections", 7)):
        [change] = b.detector.set_parameters([Parameter(name, value=value)])
        assert change.successful, change.reason
    [change] = b.detector.set_parameters([Parameter("gap_policy", value="forget")])
    assert not change.successful
    publisher = b.publisher()
    play(b, publisher, packets(200_000))
    b.spin_until(served(b, 3))
    pipeline = b.detector._model.pipeline
    assert (pipeline.gap_policy, pipeline.max_detections, b.detector._queue.policy) == ("leak", 7, "catch_up")


def test_a_journal_is_not_written_over(bench, tmp_path):
    (tmp_path / "run.jsonl").write_text("kept\n")
    b = bench(journal=str(tmp_path / "run.jsonl"))
    assert b.detector.trigger_configure() == Result.SUCCESS
    assert b.detector.trigger_activate() == Result.FAILURE
    assert (tmp_path / "run.jsonl").read_text() == "kept\n"
    [change] = b.detector.set_parameters([Parameter("checkpoint", value="other.safetensors")])
    assert not change.successful and "while the node is active, or unconfigured" in change.reason


def test_a_damaged_state_is_told_and_left(bench, tmp_path):
    (tmp_path / "camera.safetensors").write_bytes(b"nonsense")
    b = bench(state_dir=str(tmp_path))
    b.start()
    publisher = b.publisher()
    play(b, publisher, packets())
    b.spin_until(served(b, WINDOWS - 1))
    stream = model_of(b)
    assert replace(stream, model=None, t_end_us=None, size=None).resets == 0 and stream.windows >= WINDOWS - 1


# What must not end detection


def test_a_journal_on_a_full_disk_ends_and_detection_goes_on(bench, tmp_path):
    b = bench(journal=str(tmp_path / "run.jsonl"))
    b.start()
    publisher = b.publisher()
    play(b, publisher, packets())
    b.spin_until(served(b, WINDOWS - 1))
    b.detector._memory._journal._file = open("/dev/full", "w", buffering=1)  # noqa: SIM115  (the journal closes it)
    [change] = b.detector.set_parameters([Parameter("max_detections", value=7)])
    assert change.successful and call(b, "reset_state").success
    play(b, publisher, packets(seed=4))
    b.spin_until(served(b, 2 * WINDOWS - 2))
    assert model_of(b).resets >= 1 and b.detector._model.pipeline.max_detections == 7
    assert b.detector._cameras[""].figures.failed_windows == 0
    assert b.detector.trigger_deactivate() == Result.SUCCESS
    assert [entry.kind for entry in read_journal(tmp_path / "run.jsonl")][:2] == ["journal", "window"]


def test_a_folder_for_states_that_cannot_be_written_is_told_once(bench, tmp_path, caplog):
    (tmp_path / "states").write_text("no folder")
    b = bench(state_dir=str(tmp_path / "states"), snapshot_period_s=0.02)
    b.start()
    publisher = b.publisher()
    play(b, publisher, packets())
    b.spin_until(served(b, WINDOWS - 1))
    b.spin(0.2)
    told = [record for record in caplog.records if "nothing is saved" in record.getMessage()]
    assert len(told) == 1 and b.detector._cameras[""].figures.failed_windows == 0
    assert not call(b, "save_state").success
    (tmp_path / "states").unlink()
    b.spin_until((tmp_path / "states" / "camera.safetensors").is_file)


def test_a_camera_may_leave_while_its_windows_are_at_work(bench):
    b = bench(cameras=["left", "right"])
    b.start()
    release = held(b)
    publisher = b.publisher("left/events")
    play(b, publisher, packets(200_000))
    b.spin_until(lambda: len(b.detector._queue) >= 2)
    left, worker = b.detector._cameras["left"], b.detector._worker
    stop = left.stop

    def while_windows_come_out(end_s, room_s):
        release.set()
        end = time.monotonic() + 10
        while left.figures.published < 2 and worker.is_running and time.monotonic() < end:
            time.sleep(0.01)
        stop(end_s, room_s)

    left.stop = while_windows_come_out
    [change] = b.detector.set_parameters([Parameter("cameras", value=["right"])])
    assert change.successful and worker.is_running and left.figures.published >= 2
    assert left.figures.failed_messages == 0


def test_whatever_goes_wrong_beside_a_window_the_inference_thread_lives(bench):
    b = bench()
    b.start()
    serving = b.detector._worker._serving
    reset, serving.reset = serving.reset, lambda name: 1 / 0
    assert call(b, "reset_state").success
    b.spin_until(lambda: len(b.detector._queue) == 0)
    publisher = b.publisher()
    play(b, publisher, packets())
    b.spin_until(served(b, WINDOWS - 1))
    serving.reset = reset


def test_a_node_that_cannot_be_activated_stays_and_can_be_later(bench, monkeypatch):
    b = bench()
    assert b.detector.trigger_configure() == Result.SUCCESS
    with monkeypatch.context() as patched:
        patched.setattr(Memory, "restore", lambda *_: 1 / 0)  # before the inference thread has begun
        assert b.detector.trigger_activate() == Result.FAILURE
    assert b.detector._worker is None and b.detector._memory is None
    assert b.detector.trigger_activate() == Result.SUCCESS
    play(b, b.publisher(), packets())
    b.spin_until(served(b, WINDOWS - 1))


def test_a_reset_drops_the_state_that_a_phase_was_about_to_take_up(bench):
    b = bench(rate_times=2)
    b.start()
    for stream in ("", "@1"):
        b.detector._queue.put(LoadJob(stream, SavedStream(StreamState())))
    b.spin_until(lambda: set(b.detector._worker._waiting) == {"", "@1"})
    b.detector._queue.put(ResetJob(""))
    b.spin_until(lambda: not b.detector._worker._waiting)


# Settings and models that change


def test_a_setting_that_changed_after_the_last_window_holds_for_the_next_activation(bench):
    b = bench()
    b.start()
    [change] = b.detector.set_parameters([Parameter("max_detections", value=1)])
    assert change.successful and b.detector.trigger_deactivate() == Result.SUCCESS
    assert b.detector.trigger_activate() == Result.SUCCESS
    assert b.detector._model.pipeline.max_detections == 1


@pytest.fixture(scope="module")
def others(tmp_path_factory, registry, checkpoint):
    """Return a model of another width, for the same windows, and a damaged one."""
    folder = tmp_path_factory.mktemp("others")
    save_checkpoint(folder / "other.safetensors", build_preset("st_vgg_ssd_32", registry=registry, seed=1))
    whole = bytearray(checkpoint.read_bytes())
    whole[-1] ^= 1
    (folder / "damaged.safetensors").write_bytes(whole)
    return {name: str(folder / f"{name}.safetensors") for name in ("other", "damaged")}


def ask(b, name):
    [change] = b.detector.set_parameters([Parameter("checkpoint", value=str(name))])
    assert change.successful, change.reason


def checkpoint_of(b):
    return b.detector.get_parameter("checkpoint").value


def is_swapping(b):
    return b.detector._worker._serving.is_swapping


def test_a_swap_that_is_called_off_does_not_take_place(bench, checkpoint, others):
    b = bench(swap_warm_ms=100)
    b.start()
    ask(b, others["other"])
    b.spin_until(lambda: is_swapping(b))
    ask(b, checkpoint)
    b.spin_until(lambda: not is_swapping(b))
    ask(b, others["other"])
    ask(b, checkpoint)  # while it is loaded
    loading = [thread for thread in threading.enumerate() if thread.name == "swapping"]
    b.spin_until(lambda: not any(thread.is_alive() for thread in loading))
    publisher = b.publisher()
    play(b, publisher, packets())
    b.spin_until(served(b, WINDOWS - 1))
    assert (checkpoint_of(b), b.detector._model.checkpoint) == (str(checkpoint), str(checkpoint))
    assert b.detector._worker._serving.pipeline is b.detector._model.pipeline and not is_swapping(b)


def test_a_damaged_model_does_not_lend_its_name_to_the_one_before_it(bench, checkpoint, others):
    b = bench(swap_warm_ms=100)
    b.start()
    ask(b, others["other"])
    b.spin_until(lambda: is_swapping(b))
    ask(b, others["damaged"])
    b.spin_until(lambda: checkpoint_of(b) == str(checkpoint))
    publisher = b.publisher()
    play(b, publisher, packets())
    b.spin_until(served(b, WINDOWS - 1))
    b.spin(0.3)
    assert checkpoint_of(b) == b.detector._model.checkpoint == str(checkpoint)
    assert b.detector._worker._serving.pipeline is b.detector._model.pipeline and not is_swapping(b)


def test_a_swap_that_a_deactivation_overtakes_is_told_and_set_back(bench, checkpoint, others, tmp_path):
    b = bench(journal=str(tmp_path / "run.jsonl"))
    b.start()
    ask(b, others["other"])
    assert b.detector.trigger_deactivate() == Result.SUCCESS
    (tmp_path / "run.jsonl").unlink()
    assert b.detector.trigger_activate() == Result.SUCCESS
    assert next(read_journal(tmp_path / "run.jsonl")).values["checkpoint"] == str(checkpoint)
    b.spin_until(lambda: checkpoint_of(b) == str(checkpoint))
    publisher = b.publisher()
    play(b, publisher, packets())
    b.spin_until(served(b, WINDOWS - 1))
    assert b.detector._model.checkpoint == str(checkpoint)


def test_states_are_those_of_the_model_that_they_are_told_of(bench, others):
    b = bench(cameras=["left", "right"], swap_warm_ms=100)
    seen, swapped = [], b.detector._on_swapped

    def look(*arguments):
        worker = b.detector._worker
        seen.append((worker.snapshot(), worker._serving.pipeline.spec, dict(worker._serving.streams)))
        swapped(*arguments)

    b.detector._on_swapped = look
    b.start()
    publishers = [b.publisher(f"{name}/events") for name in ("left", "right")]
    ask(b, others["other"])
    b.spin_until(lambda: is_swapping(b))
    for publisher in publishers:
        b.spin_until(lambda publisher=publisher: publisher.get_subscription_count() > 0)
    for message in packets():
        for publisher in publishers:
            publisher.publish(message)
        b.executor.spin_once(timeout_sec=0)
    b.spin_until(lambda: b.detector._model.checkpoint == others["other"])
    [((spec, saved), now, streams)] = seen
    assert spec == now and set(saved) == {"left", "right"}
    assert all(saved[name].stream is streams[name] for name in saved)

"""State, models and decisions of a live node: killed and restarted, another model in mid-stream, repeated offline."""

import signal

import pytest
from std_msgs.msg import Header

from snn_perception import DetectionPipeline, build_preset, load_checkpoint
from snn_perception.checkpoint import save_checkpoint
from snn_perception.cli.replay import main as replay_command
from snn_perception.data.shapes import MovingShapes
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import open_recording
from snn_perception.events.window_source import WindowSource
from snn_perception.ros.live import LiveRun
from snn_perception.ros.messages import ns_to_stamp, to_detection2d_array
from snn_perception.runtime.detections_file import read_detections
from snn_perception.runtime.journal import read_journal
from snn_perception.runtime.rates import FasterRate
from snn_perception.runtime.repeat import Sources, repeat
from snn_perception.runtime.state_file import load_stream
from snn_perception.runtime.stream import StreamState
from snn_perception.runtime.waking import wake_on_recording
from snn_perception.types import SensorSize
from tests.ros.test_live_equals_offline import content

SIZE = SensorSize(240, 304)
PARAMETERS = {"score_threshold": 0.5, "max_detections": 50, "restore_max_gap_ms": 5_000}


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory, registry, shapes_dat):
    """Return weights of the same kind as `checkpoint`, of another seed."""
    path = tmp_path_factory.mktemp("models") / "other.safetensors"
    detector = build_preset("st_vgg_ssd_16", registry=registry, seed=1)
    assert min(wake_on_recording(detector, shapes_dat, registry, windows=6).values()) > 0
    save_checkpoint(path, detector)
    return path


def windows_of(recording_file, registry):
    return WindowSource(open_recording(recording_file, registry), registry, 50_000, max_gap_us=1_000_000)


def message(detections, classes):
    return content(to_detection2d_array(detections, Header(stamp=ns_to_stamp(detections.t_us * 1000)), classes))


def pipeline_of(path, registry):
    return DetectionPipeline(
        load_checkpoint(path, registry=registry),
        score_threshold=PARAMETERS["score_threshold"],
        max_detections=PARAMETERS["max_detections"],
    )


def test_a_journaled_run_with_drops_a_change_a_reset_and_a_swap_is_repeated_byte_for_byte(
    checkpoint, other_checkpoint, shapes_dat, registry, tmp_path
):
    parameters = {
        **PARAMETERS,
        "checkpoint": str(checkpoint),
        "overload_policy": "drop_oldest",
        "queue_size": 1,
        "journal": str(tmp_path / "run.jsonl"),
        "swap_warm_ms": 150,
    }
    done = set()

    def interfere(messages):
        for least, name, act in (
            (3, "change", lambda: run.set("max_detections", 7)),
            (6, "reset", lambda: run.trigger("reset_state")[0] and ""),
            (8, "swap", lambda: run.set("checkpoint", str(other_checkpoint))),
        ):
            if messages >= least and name not in done:
                done.add(name)
                assert act() == ""

    with LiveRun(parameters, tmp_path / "live.log") as run:
        run.activate()
        result = run.play(shapes_dat, interfere, interval_us=5_000, rate=0.25, loop=False)
    entries = list(read_journal(tmp_path / "run.jsonl"))
    kinds = [entry.kind for entry in entries]
    assert done == {"change", "reset", "swap"} and {"set", "reset", "shadow", "swap"} <= set(kinds), kinds
    sources = Sources(
        {"": windows_of(shapes_dat, registry)},
        lambda name: pipeline_of(name, registry),
        lambda name, spec: StreamState(),
    )
    classes = load_checkpoint(checkpoint, registry=registry).spec.classes
    again = [message(one.detections, classes) for one in repeat(entries, pipeline_of(checkpoint, registry), sources)]
    assert [content(msg) for msg in result.decoded()] == again
    assert_the_command_repeats_it(checkpoint, shapes_dat, tmp_path, again, classes)
    assert len(again) == kinds.count("window") > 20 and sum(len(m.detections) for m in result.decoded()) > 50


def assert_the_command_repeats_it(checkpoint, recording, tmp_path, expected, classes):
    """``replay --journal`` writes the same numbers."""
    output = tmp_path / "again.jsonl"
    arguments = [str(checkpoint), str(recording), "--journal", str(tmp_path / "run.jsonl"), "--detections", str(output)]
    assert replay_command(arguments) == 0
    assert [message(line.detections, classes) for line in read_detections(output)] == expected


def test_killed_and_restarted_it_goes_on_from_its_saved_state(checkpoint, registry, tmp_path):
    scene = MovingShapes(SIZE, 2_000_000, seed=5)
    cut = {"first": (0, 1_000_000), "second": (1_000_000, 2_000_000)}
    for name, (begin, end) in cut.items():
        pieces = (piece[(piece.t >= begin) & (piece.t < end)] for piece in scene)
        write_dat(tmp_path / f"{name}.dat", [piece for piece in pieces if len(piece)], SIZE)
    parameters = {
        **PARAMETERS,
        "checkpoint": str(checkpoint),
        "state_dir": str(tmp_path / "states"),
        "snapshot_period_s": 0.05,
    }
    saved_file = tmp_path / "states" / "camera.safetensors"
    with LiveRun(parameters, tmp_path / "first.log") as run:
        run.activate()
        run.play_until(tmp_path / "first.dat", 15, interval_us=5_000, rate=1.0)
        assert run.trigger("save_state")[0]
        run.send(signal.SIGKILL)
        assert run.wait(10) == -signal.SIGKILL
    pipeline = pipeline_of(checkpoint, registry)
    saved = load_stream(saved_file, pipeline.spec)
    assert saved.stream.windows >= 15 and saved.stream.model is not None
    assert saved.stamp_ns == saved.stream.t_end_us * 1000
    with LiveRun(parameters, tmp_path / "second.log") as run:
        run.activate()
        result = run.play(tmp_path / "second.dat", interval_us=5_000, rate=1.0)
    serving, rest, expected, from_rest = StreamState(model=saved.stream.model), StreamState(), [], []
    for window in windows_of(tmp_path / "second.dat", registry):
        found, serving = pipeline.step(window, serving)
        expected.append(message(found, pipeline.spec.classes))
        found, rest = pipeline.step(window, rest)
        from_rest.append(message(found, pipeline.spec.classes))
    assert [content(msg) for msg in result.decoded()] == expected
    assert expected != from_rest, "what was before the kill counts"


@pytest.mark.slow
def test_a_state_that_is_too_old_or_of_another_model_is_left_alone(checkpoint, shapes_dat, registry, tmp_path):
    """Sensor time begins again, as after a camera's restart: a saved state from later than the first window is none."""
    parameters = {**PARAMETERS, "checkpoint": str(checkpoint), "state_dir": str(tmp_path / "states")}
    for attempt in ("first", "second"):
        with LiveRun(parameters, tmp_path / f"{attempt}.log") as run:
            run.activate()
            result = run.play(shapes_dat, interval_us=5_000, rate=1.0)
    assert "starts from rest: its saved state is" in (tmp_path / "second.log").read_text()
    pipeline, stream, expected = pipeline_of(checkpoint, registry), StreamState(), []
    for window in windows_of(shapes_dat, registry):
        found, stream = pipeline.step(window, stream)
        expected.append(message(found, pipeline.spec.classes))
    assert [content(msg) for msg in result.decoded()] == expected


def test_a_model_that_cannot_take_over_is_refused_or_rolled_back(checkpoint, shapes_dat, registry, tmp_path):
    other_windows = tmp_path / "fast.safetensors"
    save_checkpoint(other_windows, build_preset("st_vgg_ssd_16", registry=registry, window_us=40_000))
    damaged = tmp_path / "damaged.safetensors"
    whole = bytearray(checkpoint.read_bytes())
    whole[-1] ^= 1
    damaged.write_bytes(whole)
    answers = {}

    def ask(messages):
        if messages >= 3 and not answers:
            answers["windows"] = run.set("checkpoint", str(other_windows))
            answers["absent"] = run.set("checkpoint", str(tmp_path / "absent.safetensors"))
            answers["damaged"] = run.set("checkpoint", str(damaged))

    with LiveRun({**PARAMETERS, "checkpoint": str(checkpoint)}, tmp_path / "live.log") as run:
        run.activate()
        result = run.play(shapes_dat, ask, interval_us=5_000, rate=0.5)
        assert "window_us, expected 50000 us, got 40000 us" in answers["windows"]
        assert "absent.safetensors" in answers["absent"]
        assert answers["damaged"] == "", "it is read in the background"
        log = (tmp_path / "live.log").read_text()
        assert "cannot take over" in log and "is damaged" in log
    expected, stream, pipeline = [], StreamState(), pipeline_of(checkpoint, registry)
    for window in windows_of(shapes_dat, registry):
        found, stream = pipeline.step(window, stream)
        expected.append(message(found, pipeline.spec.classes))
    assert [content(msg) for msg in result.decoded()] == expected


@pytest.mark.parametrize("mode", ["phase_banks", pytest.param("peek", marks=pytest.mark.slow)])
def test_detections_more_often_than_windows(mode, checkpoint, shapes_dat, registry, tmp_path):
    """At the grid's times they are those of the plain rate, byte for byte; all of them can be repeated."""
    parameters = {
        **PARAMETERS,
        "checkpoint": str(checkpoint),
        "rate_times": 4,
        "rate_mode": mode,
        "journal": str(tmp_path / "run.jsonl"),
    }
    with LiveRun(parameters, tmp_path / "live.log") as run:
        run.activate()
        result = run.play(shapes_dat, interval_us=5_000, rate=0.5)
    messages = {int(m.header.stamp.sec * 1e6 + m.header.stamp.nanosec / 1e3): content(m) for m in result.decoded()}
    assert list(messages) == list(range(12_500, 2_000_001, 12_500))[: len(messages)] and len(messages) > 150
    pipeline, stream = pipeline_of(checkpoint, registry), StreamState()
    for window in list(windows_of(shapes_dat, registry))[:-1]:  # the last one is cut off at another time
        found, stream = pipeline.step(window, stream)
        assert messages[window.t_end_us] == message(found, pipeline.spec.classes)
    rate = FasterRate(50_000, 4, mode)
    recording = open_recording(shapes_dat, registry)
    windows = WindowSource(recording, registry, 50_000, stride_us=rate.stride_us, max_gap_us=1_000_000)
    sources = Sources({"": map(rate.part, windows)}, {}.get, {}.get)
    again = repeat(read_journal(tmp_path / "run.jsonl"), pipeline_of(checkpoint, registry), sources)
    assert [message(one.detections, pipeline.spec.classes) for one in again] == list(messages.values())

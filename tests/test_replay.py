import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from snn_perception import build_preset
from snn_perception.checkpoint import save_checkpoint
from snn_perception.cli.replay import main
from snn_perception.data.shapes import MovingShapes
from snn_perception.discovery import load_registry
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import open_recording
from snn_perception.runtime.detections_file import read_detections
from snn_perception.runtime.replay import WindowSource, replay
from snn_perception.runtime.video import count_distinct_frames
from snn_perception.types import EventArray, SensorSize
from tests.paths import ROOT, recording_path
from tests.runtime_support import (
    SIZE,
    TINY,
    file_size_limit,
    tiny_detector,
    tiny_pipeline,
    tiny_registry,
)

REGISTRY = tiny_registry()
WINDOW_US = 10_000
SCENE = MovingShapes(SIZE, 400_000, seed=3, noise_hz=0)  # the pause makes windows without events


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch):
    """Commands bound the threads of their process; the next test has its own."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Return the path of a DAT file of moving shapes."""
    path = tmp_path_factory.mktemp("recording") / "shapes.dat"
    write_dat(path, SCENE, SIZE)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the path of a checkpoint."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, tiny_detector())
    return path


def command(*arguments, plugin=TINY):
    """Return the exit code of ``replay`` with these arguments."""
    return main(["--plugin", str(plugin), *map(str, arguments)])


def told(capsys, *arguments):
    """Return the JSON that the command prints, and its log."""
    code = command(*arguments, "--json")
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out), err


# What the command writes


def test_the_file_holds_what_the_pipeline_sees_bit_for_bit(shapes, model, tmp_path, capsys):
    result, _ = told(capsys, model, shapes, "--detections", tmp_path / "d.jsonl")
    pipeline = tiny_pipeline()
    source = WindowSource(open_recording(shapes, REGISTRY), REGISTRY, WINDOW_US, max_gap_us=1_000_000)
    expected = list(replay(source, pipeline))
    lines = list(read_detections(tmp_path / "d.jsonl"))
    assert len(lines) == len(expected) == 40
    for number, (line, step) in enumerate(zip(lines, expected, strict=True)):
        window = step.window
        assert line.window == number
        assert (line.t_start_us, line.t_end_us, line.events) == (window.t_start_us, window.t_end_us, len(window.events))
        assert (line.lossy, line.after_gap) == (window.lossy, window.after_gap)
        assert line.detections == step.detections
    assert sum(len(line.detections) for line in lines) > 1000
    assert any(line.events == 0 for line in lines), "windows without events have their line too"
    assert result["windows"] == 40
    assert result["events"] == sum(line.events for line in lines) == sum(len(chunk) for chunk in SCENE)
    assert result["empty_windows"] == sum(line.events == 0 for line in lines)
    per_class = np.bincount(np.concatenate([line.detections.class_id for line in lines]), minlength=2)
    assert result["detections"] == dict(zip(("square", "circle"), per_class.tolist(), strict=True))
    assert (result["t_start_us"], result["t_end_us"], result["covered_s"]) == (0, 400_000, 0.4)


def test_two_runs_give_equal_bytes_in_this_process_and_in_another(shapes, model, tmp_path):
    paths = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for path in paths[:2]:
        assert command(model, shapes, "--detections", path) == 0
    arguments = [model, shapes, "--detections", paths[2], "--plugin", TINY, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "snn_perception", "replay", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["windows"] == 40
    assert paths[0].read_bytes() == paths[1].read_bytes() == paths[2].read_bytes()


def test_a_preset_runs_with_a_note_and_the_same_weights_each_time(shapes, tmp_path, capsys):
    result, log = told(capsys, "tiny", shapes, "--detections", tmp_path / "a.jsonl")
    assert log.count("untrained weights (seed 0)") == 1
    assert result["model"]["trained"] is False and "untrained" in result["model"]["note"]
    told(capsys, "tiny", shapes, "--detections", tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_checkpoint_runs_without_a_note(shapes, model, capsys):
    result, log = told(capsys, model, shapes)
    assert log == ""
    assert result["model"]["trained"] is True and result["model"]["note"] == ""


def test_the_table_tells_the_same_as_the_json(shapes, model, capsys):
    result, _ = told(capsys, model, shapes)
    assert command(model, shapes) == 0
    table = capsys.readouterr().out
    for text in (
        "shapes.dat",
        "64x48",
        f"{result['events']:,}",
        f"40 of 10 ms, {result['empty_windows']} empty",
        "0.400 s",
    ):
        assert text in table
    assert "losses" in table and "none" in table
    assert f"square {result['detections']['square']:,}" in table


def test_latency_is_told_by_the_clock_and_in_processor_time(shapes, model, capsys):
    latency = told(capsys, model, shapes)[0]["latency_ms"]
    assert set(latency) == {"wall_p50", "wall_p95", "cpu_p50", "cpu_p95"}
    assert 0 < latency["wall_p50"] <= latency["wall_p95"]
    assert 0 < latency["cpu_p50"] <= latency["cpu_p95"]


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_the_video_has_a_frame_per_window(suffix, shapes, model, tmp_path, capsys):
    pytest.importorskip("av")
    path = tmp_path / f"out{suffix}"
    result, _ = told(capsys, model, shapes, "--video", path, "--max-detections", "2")
    assert result["files"] == {"detections": None, "video": str(path), "bag": None}
    assert count_distinct_frames(path) == 40


def test_options_choose_what_is_kept(shapes, model, tmp_path, capsys):
    told(capsys, model, shapes, "--detections", tmp_path / "all.jsonl")
    every = list(read_detections(tmp_path / "all.jsonl"))
    threshold = float(np.median(np.concatenate([line.detections.score for line in every])))
    options = ("--score-threshold", threshold, "--max-detections", 4, "--max-windows", 11)
    result, _ = told(capsys, model, shapes, "--detections", tmp_path / "some.jsonl", *options)
    some = list(read_detections(tmp_path / "some.jsonl"))
    assert result["windows"] == len(some) == 11
    for line, whole in zip(some, every, strict=False):
        kept = min(4, int((whole.detections.score >= np.float32(threshold)).sum()))
        assert line.detections == whole.detections[:kept]
    assert any(len(line.detections) == 4 for line in some)


def test_a_deadline_tells_the_network_steps_taken(tmp_path, capsys):
    registry = load_registry()
    small = {"width_factor": 0.125, "height": SIZE.height, "width": SIZE.width, "network_size": [32, 32]}
    save_checkpoint(tmp_path / "eas.safetensors", build_preset("eas_snn_s_use_spike", registry=registry, **small))
    write_dat(tmp_path / "shapes.dat", MovingShapes(SIZE, 1_000_000, seed=3), SIZE)
    files = [str(tmp_path / "eas.safetensors"), str(tmp_path / "shapes.dat"), "--detections", str(tmp_path / "f.jsonl")]
    for deadline, steps in (("0.001", 1), ("60000", 3)):
        assert main([*files, "--deadline-ms", deadline, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["network_steps"] == {str(steps): 5}
        assert [line.detections.steps for line in read_detections(tmp_path / "f.jsonl")] == [steps] * 5
    assert main([*files, "--deadline-ms", "60000"]) == 0
    assert "network steps: 3 in 5 windows" in capsys.readouterr().out
    assert main([*files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["network_steps"] is None
    assert [line.detections.steps for line in read_detections(tmp_path / "f.jsonl")] == [None] * 5
    assert main([*files, "--deadline-ms", "-1"]) == 2


def test_a_deadline_for_a_model_that_cannot_stop_early_is_refused(shapes, capsys):
    assert main(["st_vgg_ssd_16", str(shapes), "--deadline-ms", "5"]) == 1
    assert "leave deadline_ms out" in capsys.readouterr().err


def test_wake_makes_an_untrained_network_fire(shapes, capsys):
    arguments = ("st_vgg_ssd_16", shapes, "--firing-rates", "--max-windows", 4)
    asleep, _ = told(capsys, *arguments)
    awake, _ = told(capsys, *arguments, "--wake", 3)
    assert min(asleep["firing_rates"]["layers"].values()) == 0
    assert min(awake["firing_rates"]["layers"].values()) > 0.005
    assert 0.01 < awake["firing_rates"]["overall"] < 0.6


def test_firing_rates_are_measured_only_on_request(shapes, model, capsys):
    assert told(capsys, model, shapes)[0]["firing_rates"] is None
    rates = told(capsys, model, shapes, "--firing-rates")[0]["firing_rates"]
    assert set(rates["layers"]) == {"backbone.neurons.0", "backbone.neurons.1"}
    low, high = min(rates["layers"].values()), max(rates["layers"].values())
    assert 0 < low <= rates["overall"] <= high < 1


# What it refuses, in one line and before the work


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny", "none.dat"), "none.dat: no such file"),
        (("tiny", "{shapes}", "--video", "{tmp}/out.avi"), "a video ends in .mp4 or .gif"),
        (("tiny", "none.dat", "--video", "{tmp}/none/out.mp4"), "does not exist"),
        (("tiny", "none.dat", "--detections", "{tmp}/none/out.jsonl"), "does not exist"),
        (("tiny", "none.dat", "--detections", "{tmp}"), "is a folder"),
        (("tiny", "{shapes}", "--detections", "{shapes}"), "is an input of this command"),
        (("{model}", "{shapes}", "--detections", "{model}"), "is an input of this command"),
        (("tiny", "{shapes}", "--detections", "{tmp}/a.mp4", "--video", "{tmp}/a.mp4"), "named for both"),
        (("tinny", "{shapes}"), "model 'tinny': no such file, and unknown preset 'tinny'; did you mean 'tiny'?"),
        (("none.safetensors", "{shapes}"), "none.safetensors: no such checkpoint"),
        (("{shapes}", "{shapes}"), "not a readable safetensors file"),
        (("tiny", "{model}"), "not a recording that is known here"),
        (("tiny", "{shapes}", "--reader", "datt"), "unknown event_reader 'datt'; did you mean 'dat'?"),
        (("tiny", "{shapes}", "--topic", "/events"), "topic"),
        (("tiny", "{shapes}", "--device", "toaster"), "device 'toaster' cannot be used"),
        (("{model}", "{shapes}", "--wake", "3"), "--wake is for presets"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(arguments, message, shapes, model, tmp_path, capsys):
    filled = [text.format(shapes=shapes, model=model, tmp=tmp_path) for text in arguments]
    assert command(*filled) == 1
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if not line.startswith("WARNING")]
    assert len(errors) == 1 and errors[0].startswith("error: ")
    assert message in errors[0]
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--score-threshold", "1.5"),
        ("--score-threshold", "much"),
        ("--max-detections", "0"),
        ("--geometry", "stretch"),
        ("--threads", "0"),
        ("--no-such-option",),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, shapes, capsys):
    assert command("tiny", shapes, *arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_another_sensor_size_is_scaled_with_a_warning_or_refused(tmp_path, capsys):
    size = SensorSize(96, 128)
    write_dat(tmp_path / "large.dat", MovingShapes(size, 50_000, seed=1), size)
    result, log = told(capsys, "tiny", tmp_path / "large.dat")
    assert "sensor is 128x96, the model was made for 64x48: scale" in log
    assert sum(result["detections"].values()) > 0
    assert command("tiny", tmp_path / "large.dat", "--geometry", "strict") == 1
    assert "set geometry to 'scale' or 'crop'" in capsys.readouterr().err


def test_a_recording_without_events_has_no_windows_and_no_video(tmp_path, capsys):
    pytest.importorskip("av")
    write_dat(tmp_path / "empty.dat", [], SIZE)
    result, log = told(
        capsys, "tiny", tmp_path / "empty.dat", "--detections", tmp_path / "d.jsonl", "--video", tmp_path / "v.mp4"
    )
    assert (result["windows"], result["events"], result["latency_ms"]) == (0, 0, None)
    assert "there is no video" in log
    assert result["files"]["video"] is None and not (tmp_path / "v.mp4").exists()
    assert (tmp_path / "d.jsonl").read_bytes() == b""


def test_a_failure_in_the_middle_leaves_no_files(shapes, model, tmp_path, capsys):
    with file_size_limit(4_000):
        code = command(model, shapes, "--detections", tmp_path / "d.jsonl")
    assert code == 1
    assert "cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def copies(tmp_path):
    """Return the path of a DAT file with an event every millisecond of 200, thrice each."""
    t = np.repeat(np.arange(1_000_000, 1_200_000, 1_000, dtype=np.int64), 3)
    columns = (np.full(len(t), value, kind) for value, kind in ((3, "u2"), (4, "u2"), (1, "u1")))
    write_dat(tmp_path / "copies.dat", [EventArray(*columns, t, SIZE)], SIZE)
    return tmp_path / "copies.dat"


@pytest.mark.parametrize(
    ("cut", "windows"),
    [((), 20), (("--from-s", "1.05", "--to-s", "1.1"), 5), (("--max-windows", 3), 3), (("--to-s", "1.055"), 6)],
)
def test_removed_duplicates_are_those_of_the_windows_and_no_loss(cut, windows, copies, capsys):
    result, _ = told(capsys, "tiny", copies, "--drop-duplicates", *cut)
    assert (result["windows"], result["events"], result["duplicate_events"]) == (windows, 10 * windows, 20 * windows)
    assert not any(result["losses"].values()) and "duplicate_events" not in result["losses"]
    assert command("tiny", copies, "--drop-duplicates", *cut) == 0
    out = capsys.readouterr().out
    assert f"duplicates removed: {20 * windows}\n" in out and "losses: none\n" in out


def test_the_cut_is_rounded_outwards_to_whole_windows(copies, capsys):
    result, _ = told(capsys, "tiny", copies, "--from-s", "1.0555", "--to-s", "1.071")
    assert (result["t_start_us"], result["t_end_us"]) == (1_050_000, 1_080_000)
    assert main(["--help"]) == 0
    assert " ".join(capsys.readouterr().out.split()).count("whole window that holds") == 2


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (
            ("--from-s", "5"),
            "no event from 5.0 s to the end of sensor time; the recording spans 1.000000 to 1.199000 s",
        ),
        (("--to-s", "0.5"), "no event from the start to 0.5 s of sensor time; the recording spans 1.000000 to"),
        (("--from-s", "2", "--to-s", "1"), "nothing lies from 2.0 s to 1.0 s; give a later end"),
        (("--from-s", "1", "--to-s", "1"), "nothing lies from 1.0 s to 1.0 s; give a later end"),
        (("--size", "10x10"), "copies.dat: its header says 64x48; --size is for recordings that state none"),
        (("--topic", "/events"), "copies.dat: --topic is not for recordings of format dat; leave it out"),
        (("--encoding", "evt3"), "copies.dat: --encoding is not for recordings of format dat; leave it out"),
    ],
)
def test_a_part_that_is_not_there_is_refused(cut, message, copies, tmp_path, capsys):
    assert command("tiny", copies, "--detections", tmp_path / "d.jsonl", *cut) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "d.jsonl").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "x"])
def test_a_time_that_is_no_number_is_wrong_usage(value, copies, capsys):
    assert command("tiny", copies, "--from-s", value) == 2
    assert "--from-s" in capsys.readouterr().err


def test_a_negative_start_is_a_time_like_others(copies, capsys):
    assert told(capsys, "tiny", copies, "--from-s", "-1")[0]["windows"] == 20


def test_a_folder_of_recordings_tells_their_names(copies, tmp_path, capsys):
    assert command("tiny", tmp_path) == 1
    assert "is a folder with one recording (copies.dat): name it" in capsys.readouterr().err


# Real recordings


@pytest.mark.parametrize(
    "name", ["evt3_triggers_640x480_a", "evt3_trigger_b", "libcaer_cmp_mcap", "libcaer_rollover", "mono_cd"]
)
def test_real_recordings_replay_with_every_event_accounted_for(name, tmp_path, capsys):
    path = recording_path(name)
    expected = json.loads((path.parent / "expected_results.json").read_text())[name]
    result, _ = told(capsys, "tiny", path, "--detections", tmp_path / "d.jsonl")
    lines = list(read_detections(tmp_path / "d.jsonl"))
    assert sum(line.events for line in lines) == expected["cd_events"]
    assert result["recording"]["encoding"] == expected["encoding"]
    assert {(b.t_start_us - a.t_end_us) for a, b in pairwise(lines) if not b.after_gap} <= {0}

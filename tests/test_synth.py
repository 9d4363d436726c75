"""``synth``: the files of a set, what they hold, the manifest, and what happens when something goes wrong."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from snn_perception.cli import synth as command
from snn_perception.data.dataset import open_dataset
from snn_perception.data.labels import LAYOUTS, read_labels
from snn_perception.data.provenance import synthetic_version
from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.synth import drive as drive_module
from snn_perception.synth.drive import Drive, Unit, file_names, make_recording
from snn_perception.synth.generate import check, generate, regenerate
from snn_perception.synth.labelling import Annotator
from snn_perception.synth.manifest import read_manifest
from snn_perception.synth.sizes import FORMATS, SIZES, RecordingPlan, SetRequest, bytes_needed, plan_set
from snn_perception.synth.style import SPLITS, draw_style
from snn_perception.types import SensorSize
from tests.paths import ROOT
from tests.synth_support import KnownActor, KnownView, KnownWorld

GEN1 = SensorSize(240, 304)
TINY = SetRequest("tiny")
BRIEF = SetRequest("tiny", frames_per_s=50)
SHORT = RecordingPlan("train", 3, 0, 600_000)
SHORT_RUN = """
import dataclasses, sys
from snn_perception.cli import synth
from snn_perception.synth.sizes import SIZES
if __name__ == "__main__":  # workers import this too
    SIZES["tiny"] = dataclasses.replace(SIZES["tiny"], duration_us=500_000)
    sys.exit(synth.main(["-o", sys.argv[1], "--size", "tiny", "--frames-per-s", "50", "--workers", "2"]))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny set, made by two processes."""
    folder = tmp_path_factory.mktemp("tiny") / "set"
    return generate(folder, TINY, workers=2)


def shorten(patch, duration_us):
    """Let recordings of the tiny set be shorter; workers are told by their plan."""
    patch.setitem(SIZES, "tiny", replace(SIZES["tiny"], duration_us=duration_us))


@pytest.fixture
def short(monkeypatch):
    shorten(monkeypatch, 500_000)


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """A set with recordings of half a second of coarse steps, by two processes."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, 500_000)
        return generate(tmp_path_factory.mktemp("brief") / "set", BRIEF, workers=2)


@pytest.fixture
def known_world(monkeypatch):
    monkeypatch.setattr(drive_module, "World", KnownWorld)


def contents(folder):
    """Return what lies in a folder, hidden files included: path -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The set as its users see it


def test_the_set_opens_as_gen1_with_every_split(tiny, registry):
    for split, count in SIZES["tiny"].recordings.items():
        dataset = open_dataset(f"gen1:{tiny.folder}", split, registry)
        assert len(dataset) == count and dataset.classes == ("car", "pedestrian")
        assert not dataset.report.missing and not dataset.report.faulty and not dataset.report.notes
        for recording in dataset:
            events, labels = recording.events(registry).validate(), recording.labels()
            entry = next(entry for entry in tiny.manifest.recordings if entry.name == recording.name)
            assert (len(events), int(events.p.sum())) == (entry.events, entry.on)
            assert len(labels) == sum(entry.boxes.values())
            assert events.t[0] > 0 and 2_900_000 < events.t[-1] < 3_000_000


def test_events_look_like_a_drive(tiny, registry):
    labelled = 0
    for split in SIZES["tiny"].recordings:
        for recording in open_dataset(f"gen1:{tiny.folder}", split, registry):
            events, labels = recording.events(registry), recording.labels()
            rate = len(events) / 3e6
            assert 0.05 < rate < 3.0
            assert 0.3 < events.p.mean() < 0.7
            counts = np.bincount(events.y.astype(np.int64) * 304 + events.x, minlength=240 * 304)
            assert (counts > 0).mean() > 0.3
            assert counts.max() > 10 * counts.mean()  # hot pixels, and edges
            assert (np.histogram(events.t, 30, (0, 3_000_000))[0] > 0).all()
            labelled += len(labels)
            assert (labels.xywh == np.round(labels.xywh)).all() and (labels.xywh[:, 2:] >= 1).all()
            low, high = labels.xywh[:, :2], labels.xywh[:, :2] + labels.xywh[:, 2:]
            assert (low >= 0).all() and (high <= [304, 240]).all()
            assert ((labels.t_us + 1) % 2000 == 0).all() and set(labels.confidence.tolist()) <= {1.0}
    assert labelled > 10


def test_files_have_the_form_of_gen1(tiny):
    events, labels = (tiny.folder / name for name in file_names(plan_set(TINY)[0]))
    head = events.read_bytes()[:200]
    assert head.startswith(b"% Data file containing Event2D events.\n% Version 2\n")
    assert b"% Height 240\n% Width 304\n" in head and b"% end\n\x00\x08" in head
    assert np.load(labels).dtype == LAYOUTS["gen1"] and np.load(labels).dtype.itemsize == 33


@pytest.mark.parametrize(("executor", "workers"), [("serial", None), ("processes", 3)])
def test_the_set_is_the_same_for_any_executor(brief, short, tmp_path, executor, workers):
    again = generate(tmp_path / "set", BRIEF, executor=executor, workers=workers)
    assert again.new == 4 and again.manifest.complete
    assert all(entry.events > 5000 for entry in again.manifest.recordings)
    assert contents(again.folder) == contents(brief.folder)


def test_a_set_is_made_again_from_its_manifest(brief, short, tmp_path):
    again = regenerate(brief.folder / "manifest.json", tmp_path / "again", workers=2)
    assert again.new == 4 and contents(again.folder) == contents(brief.folder)


def test_seeds_and_splits_share_no_drive():
    seeds = [plan_set(SetRequest("full", seed=seed)) for seed in (0, 1, SetRequest().seeds - 1)]
    seen = [{(plan.split, plan.drive) for plan in plans} for plans in seeds]
    assert not seen[0] & seen[1] and not seen[1] & seen[2]
    assert len({plan.name for plans in seeds for plan in plans}) == 3 * 280
    for plans in seeds:
        styles = {plan.split: set() for plan in plans}
        for plan in plans:
            assert plan.drive < SPLITS[plan.split][1]
            styles[plan.split].add(SPLITS[plan.split][0] + plan.drive)
        assert not styles["train"] & styles["val"] and not styles["val"] & styles["test"]


def test_small_sets_are_the_beginning_of_larger_ones():
    drives = [{(plan.split, plan.drive, plan.recording) for plan in plan_set(SetRequest(size))} for size in SIZES]
    assert {(split, drive) for split, drive, _ in drives[0]} <= {(split, drive) for split, drive, _ in drives[1]}
    assert drives[1] <= drives[2]
    assert [len(one) for one in drives] == [4, 30, 280]
    assert max(recording for _, _, recording in drives[1]) == 1  # two of a drive, and both in one split


# Labels


def _scene(actors, boxes):
    """Return a view in which each actor covers its part of the image as `boxes` says, the last one on top."""
    ids = np.full((240, 304), -1, np.int32)
    for index, (left, top, right, bottom) in enumerate(boxes):
        ids[top:bottom, left:right] = index
    return KnownView(np.ones((240, 304), np.float32), ids, tuple(actors))


def _car(track_id, xyxy, distance_m=10.0, kind="car", drawn_px=0):
    class_id = {"car": 0, "pedestrian": 1}.get(kind)
    return KnownActor(track_id, kind, class_id, tuple(map(float, xyxy)), distance_m, drawn_px=drawn_px)


def _labelled(actors, boxes, *, form="gen1", key="a"):
    annotator = Annotator(FORMATS[form].numbers, GEN1, (1,), key)
    annotator.look(_scene(actors, boxes), 999)
    return annotator.labels()


def test_the_annotator_leaves_out_what_can_hardly_be_seen():
    whole = (100, 100, 160, 150)
    cars = [_car(1, whole)]
    assert _labelled(cars, [whole]).track_id.tolist() == [1]
    assert not len(_labelled(cars, [(100, 100, 160, 110)])), "a wall hides four fifths of the box"
    assert len(_labelled(cars, [(100, 100, 160, 118)]))
    assert not len(_labelled([_car(1, whole, drawn_px=3000)], [(100, 100, 160, 117)])), "a third of what is drawn"
    assert not len(_labelled([_car(1, whole, distance_m=76.0)], [whole])), "too far"
    assert not len(_labelled([_car(1, whole, kind="truck")], [whole])), "not a class of GEN1"
    assert not len(_labelled([_car(1, (-50, 100, 10, 150))], [(0, 100, 10, 150)])), "a sixth lies in the image"
    half = _labelled([_car(1, (-30, 100, 30, 150))], [(0, 100, 30, 150)])
    assert len(half) == 1 and half.xywh[0, 0] >= 0 and abs(half.xywh[0, 2] - 30) < 5
    occluded = _labelled([_car(1, whole), _car(2, (110, 90, 170, 160))], [whole, (110, 90, 170, 160)])
    assert occluded.track_id.tolist() == [2], "a sixth of the first is seen"


def test_the_annotators_hand_shakes_as_told():
    xyxy = (100, 60, 200, 110)
    boxes = np.concatenate([_labelled([_car(1, xyxy)], [xyxy], key=f"k{k}").xywh for k in range(800)])
    assert (boxes == np.round(boxes)).all()
    assert boxes.mean(axis=0) == pytest.approx([100, 60, 100, 50], abs=0.2)
    across, down = boxes[:, 0].std(), boxes[:, 1].std()
    assert across == pytest.approx(np.hypot(0.6 + 0.012 * 100, 0.29), rel=0.08)
    assert down == pytest.approx(np.hypot(0.6 + 0.012 * 50, 0.29), rel=0.08)
    assert np.array_equal(_labelled([_car(1, xyxy)], [xyxy]).xywh, _labelled([_car(1, xyxy)], [xyxy]).xywh)


def test_label_times_lie_just_below_a_grid_and_keep_their_rate():
    rates = set()
    for k in range(40):
        annotator = Annotator(FORMATS["gen1"].numbers, GEN1, (1, 2, 4), f"r{k}", grid_us=4000)
        times = np.array(list(annotator.times(60_000_000)))
        assert (
            abs(len(times) - 60 * annotator.label_hz) <= 1 and (np.diff(times) == 1_000_000 // annotator.label_hz).all()
        )
        assert 0 <= times[0] < 1_000_000 // annotator.label_hz and (times[0] + 1) % 4000 == 0
        rates.add(annotator.label_hz)
    assert rates == {1, 2, 4}


def test_what_stands_still_stays_labelled_and_emits_nothing(known_world):
    """The known scene: a car moves, another and a pedestrian stand; the truck is not labelled."""
    drive = Drive(replace(SHORT, duration_us=1_000_000), _without_noise(draw_style("train", 3)))
    pieces = list(drive.pieces())
    labels = drive.annotator.labels()
    assert {7, 8, 9} == set(labels.track_id.tolist()) and labels.class_id[labels.track_id == 9].tolist()[0] == 1
    times = np.unique(labels.t_us)
    assert all((labels.track_id[labels.t_us == t] == [7, 8, 9]).all() for t in times)
    x, y, t = (np.concatenate([getattr(piece, name) for piece in pieces]).astype(int) for name in "xyt")
    inside = {}
    for track in (7, 8, 9):
        row = np.flatnonzero(labels.track_id == track)[-1]
        left, top, w, h = labels.xywh[row]
        near = (t > labels.t_us[row] - 100_000) & (t <= labels.t_us[row])
        inside[track] = int((near & (x >= left + 4) & (x < left + w - 4) & (y >= top) & (y < top + h)).sum())
    assert len(t) == drive.events > 1000
    assert inside[8] == inside[9] == 0
    near_car = (y >= 88) & (y < 132) & (x < 180)
    assert near_car.all(), "only the moving car's surroundings emit"


def _without_noise(style):
    return replace(style, noise_hz=0.0, hot_pixel_share=0.0)


def test_one_mpx_has_its_size_layout_and_class_numbers(known_world, tmp_path, registry):
    plan = replace(SHORT, format="one_mpx", duration_us=200_000)
    (tmp_path / "train").mkdir()
    made = make_recording(Unit(plan, tmp_path))
    n = made.entry.label_times
    assert n >= 5 and made.entry.boxes == {"pedestrian": n, "cyclist": 0, "car": 2 * n, "truck": n, "bus": 0}
    dataset = open_dataset(f"one_mpx:{tmp_path}", "train", registry)
    (recording,) = dataset
    assert recording.events(registry).size == SensorSize(720, 1280)
    labels = recording.labels()
    assert set(labels.class_id.tolist()) == {0, 2} and dataset.classes[2] == "car"
    rows = np.load(tmp_path / file_names(plan)[1])
    assert rows.dtype == LAYOUTS["one_mpx"] and set(rows["class_id"].tolist()) == {0, 2, 3}


# Going on, and what can go wrong


def test_what_is_there_is_left_alone_and_what_is_damaged_is_made_again(known_world, tmp_path, monkeypatch):
    shorten(monkeypatch, 300_000)
    first = generate(tmp_path / "set", TINY, executor="serial", limit=1)
    assert first.new == 3 and not first.manifest.complete
    before = contents(first.folder)
    stamps = {name: (first.folder / name).stat().st_mtime_ns for name in before}
    grown = generate(first.folder, TINY, executor="serial")
    assert grown.new == 1 and grown.manifest.complete
    assert all(stamps[name] == (grown.folder / name).stat().st_mtime_ns for name in before if name != "manifest.json")
    whole = contents(grown.folder)
    victim = grown.folder / file_names(plan_set(TINY)[0])[0]
    damaged = bytearray(victim.read_bytes())
    damaged[-5] ^= 1
    victim.write_bytes(damaged)
    with pytest.raises(EventDataError, match=f"{victim.name}: differs from the manifest; 1 of 8 files"):
        check(grown.folder)
    victim.unlink()
    with pytest.raises(EventDataError, match=f"{victim.name}: is missing"):
        check(grown.folder)
    assert generate(grown.folder, TINY, executor="serial").new == 1
    assert contents(grown.folder) == whole
    assert check(grown.folder) == grown.manifest


def test_a_manifest_that_does_not_hold_names_the_first_file_and_keeps_nothing(known_world, tmp_path, monkeypatch):
    shorten(monkeypatch, 300_000)
    made = generate(tmp_path / "set", TINY, executor="serial", limit=1)
    content = json.loads((made.folder / "manifest.json").read_text())
    file = content["recordings"][1]["files"][0]
    file["sha256"] = "0" * 64
    other = tmp_path / "manifest.json"
    other.write_text(json.dumps(content))
    with pytest.raises(EventDataError, match=f"{Path(file['path']).name}: differs from the manifest: expected"):
        regenerate(other, tmp_path / "again", executor="serial")
    left = contents(tmp_path / "again")
    assert sorted(left) == sorted(["manifest.json", *file_names(plan_set(TINY)[0])])
    assert left[file_names(plan_set(TINY)[0])[0]] == (made.folder / file_names(plan_set(TINY)[0])[0]).read_bytes()


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing_half_written(known_world, tmp_path, monkeypatch, capsys):
    """A limit on the size of files stands in for the disk: the system refuses a write in the middle all the same."""
    shorten(monkeypatch, 300_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        code = command.main(["-o", str(tmp_path / "set"), "--size", "tiny", "--executor", "serial"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert code == 1 and "_td.dat: cannot be written: File too large" in error.splitlines()[-1]
    assert contents(tmp_path / "set") == {}


def test_a_disk_that_is_too_small_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_000_000_000})())
    with pytest.raises(SnnPerceptionError, match=r"needs about [\d.]+ GB more and 1.0 GB are free"):
        generate(tmp_path / "set", SetRequest("full"))
    assert contents(tmp_path / "set") == {}
    assert bytes_needed(plan_set(SetRequest("full"))) > 20e9
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3_000_000})())
    with pytest.raises(SnnPerceptionError, match="needs about 48 MB more and 3 MB are free"):
        generate(tmp_path / "set", SetRequest("tiny"))


def test_a_failing_world_leaves_no_half_recording(tmp_path, monkeypatch):
    class Failing(KnownWorld):
        def view(self, t_us):
            if t_us > 200_000:
                raise KeyboardInterrupt
            return super().view(t_us)

    monkeypatch.setattr(drive_module, "World", Failing)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", TINY, executor="serial")
    assert contents(tmp_path / "set") == {}


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_no_half_file_and_goes_on(tmp_path, brief, short, kill):
    folder = tmp_path / "set"
    child = subprocess.Popen([sys.executable, "-c", SHORT_RUN, str(folder)], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 120
    while not [path for path in folder.glob("*/.*") if path.stat().st_size > 20_000]:  # in the middle of a recording
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(child.pid, kill)
    child.wait(timeout=60)
    assert child.returncode != 0
    shown = {name for name in contents(folder) if not Path(name).name.startswith(".")}
    assert shown < set(contents(brief.folder)), "something of the set is missing, or the kill came too late"
    for name in shown - {"manifest.json"}:
        assert (folder / name).read_bytes() == (brief.folder / name).read_bytes()
    if kill == signal.SIGINT:
        assert shown == set(contents(folder)), "nothing temporary stays after Ctrl-C"
    generate(folder, BRIEF, workers=2)
    assert contents(folder) == contents(brief.folder)


def test_a_folder_holds_one_set(known_world, tmp_path, monkeypatch):
    shorten(monkeypatch, 100_000)
    made = generate(tmp_path / "set", TINY, executor="serial", limit=1)
    with pytest.raises(SnnPerceptionError, match="holds another set .*seed 0.*seed 1"):
        generate(made.folder, replace(TINY, seed=1), executor="serial")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    with pytest.raises(SnnPerceptionError, match="holds other files"):
        generate(tmp_path / "notes", TINY, executor="serial")


def test_two_runs_do_not_write_to_one_folder(known_world, tmp_path):
    from snn_perception.held_folder import held_folder

    (tmp_path / "set").mkdir()
    with held_folder(tmp_path / "set", "a test"), pytest.raises(SnnPerceptionError, match="another synth is at work"):
        generate(tmp_path / "set", TINY, executor="serial")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "no JSON"),
        (lambda text: "[]", "something else"),
        (
            lambda text: text.replace("synthetic-gen1/1", "synthetic-gen1/999"),
            "synthetic-gen1/999.*do not make the same",
        ),
        (lambda text: text.replace('"size": "tiny"', '"size": "huge"'), "unknown size 'huge'"),
        (lambda text: text.replace('"path": "train/', '"path": "../train/'), "something else"),
        (lambda text: text.replace('"split": "val"', '"split": "other"'), "something else"),
    ],
)
def test_damaged_manifests_are_refused(tiny, tmp_path, change, message):
    path = tmp_path / "manifest.json"
    text = (tiny.folder / "manifest.json").read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(SnnPerceptionError, match=message):
        read_manifest(path)


def test_bad_requests_are_refused():
    for wrong in ({"size": "huge"}, {"format": "coco"}, {"seed": -1}, {"seed": 10_000}, {"frames_per_s": 3}):
        with pytest.raises(SnnPerceptionError, match=next(iter(wrong)).split("_")[0]):
            SetRequest(**wrong)


# Provenance


def test_readers_can_tell_that_the_set_is_synthetic(tiny, tmp_path):
    recording = tiny.folder / file_names(plan_set(TINY)[0])[0]
    for place in (tiny.folder, tiny.folder / "train", recording):
        assert synthetic_version(place) == "synthetic-gen1/1"
    assert synthetic_version(tmp_path) is None
    for text in ("{}", "[1]", '{"generator": "webpack"}', "not JSON"):
        (tmp_path / "manifest.json").write_text(text)
        assert synthetic_version(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"generator": "synthetic-gen1/1", ')
    with pytest.raises(EventDataError, match="damaged"):
        synthetic_version(tmp_path)


def test_the_manifest_tells_what_the_set_was_made_from(tiny):
    manifest = read_manifest(tiny.folder)
    assert manifest == tiny.manifest and manifest.complete and manifest.request == TINY
    assert set(manifest.styles) == {"train/0", "train/1", "val/0", "test/0"}
    assert manifest.styles["train/0"]["illumination"] == draw_style("train", 0).illumination
    for entry in manifest.recordings:
        labels, _ = read_labels(tiny.folder / entry.files[1].path)
        assert entry.boxes == {"car": (labels.class_id == 0).sum(), "pedestrian": (labels.class_id == 1).sum()}
        w, h = labels.xywh[:, 2], labels.xywh[:, 3]
        assert entry.passing == ((w >= 10) & (h >= 10) & (w * w + h * h >= 900)).sum()
        assert entry.robustness == draw_style(entry.split, entry.drive).robustness


# The command


def test_without_arguments_the_command_explains_itself(capsys):
    assert command.main([]) == 2
    told = capsys.readouterr()
    assert "--size tiny" in told.err and not told.out and len(told.err.splitlines()) < 15


@pytest.mark.parametrize(
    "line",
    [
        ["--size", "tiny"],
        ["-o", "x", "--size", "huge"],
        ["--check", "x", "-o", "y"],
        ["--from", "m", "-o", "x", "--seed", "1"],
    ],
)
def test_usage_errors_give_2(line, capsys):
    assert command.main(line) == 2
    assert "error" in capsys.readouterr().err


def test_the_command_tells_what_it_made(tiny, capsys):
    assert command.main(["-o", str(tiny.folder), "--size", "tiny", "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["dataset"] == "synthetic-gen1/1" and told["made"] == 0 and told["complete"] and "48 MB" in err
    train = told["splits"]["train"]
    entries = [entry for entry in tiny.manifest.recordings if entry.split == "train"]
    assert train["recordings"] == 2 and train["seconds"] == 6.0
    assert train["events"] == sum(entry.events for entry in entries)
    assert train["boxes"]["car"] == sum(entry.boxes["car"] for entry in entries)
    assert command.main(["--check", str(tiny.folder)]) == 0
    table = capsys.readouterr().out
    assert "8 files are as the manifest says" in table and "pedestrian" in table
    assert command.main(["-o", str(tiny.folder), "--size", "tiny"]) == 0
    assert "all 4 recordings were there already" in capsys.readouterr().out


def test_the_tables_of_the_help_are_those_of_the_code():
    assert tuple(SIZES) == command.SIZES and tuple(FORMATS) == command.FORMATS

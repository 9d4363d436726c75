"""Batches of several cameras' windows in a journal: repeated as the same batches, number for number."""

from dataclasses import replace

import pytest

from snn_perception import DetectionPipeline
from snn_perception.detector import build_preset
from snn_perception.errors import EventDataError
from snn_perception.runtime.journal import Entry, JournalWriter, batch_of, read_journal, windows_in
from snn_perception.runtime.repeat import Sources, repeat
from snn_perception.runtime.serving import Serving
from snn_perception.runtime.soak import awake
from snn_perception.runtime.stream import CarriedGaps, StreamState
from tests.batch_support import correspond
from tests.runtime_support import random_windows, tiny_registry

CAMERAS, COUNT = ("left", "right", "rear"), 16
SMALL = {"height": 48, "width": 64}


@pytest.fixture(scope="module")
def detectors():
    registry = tiny_registry()
    return {
        name: awake(build_preset("st_vgg_ssd_16", registry=registry, seed=seed, **SMALL), registry, 6)
        for seed, name in enumerate(("first", "second"))
    }


@pytest.fixture(scope="module")
def streams(detectors):
    spec = detectors["first"].spec
    return {
        name: random_windows(COUNT, spec.sensor_size, window_us=spec.window_us, per_window=1200, seed=50 * k)
        for k, name in enumerate(CAMERAS)
    }


def fresh(detectors, name="first"):
    return DetectionPipeline(detectors[name], max_detections=20)


def counted(pipeline):
    """Return the sizes of the batches that a pipeline runs from now on, as they come."""
    sizes, run = [], pipeline.step_batch

    def step_batch(windows, states):
        sizes.append(len(windows))
        return run(windows, states)

    pipeline.step_batch = step_batch
    return sizes


def live(detectors, streams, journal):
    """Return what a run of batches and single windows gives, with drops, a gap, a reset and a swap in between."""
    serving = Serving(fresh(detectors), journal)
    sizes = counted(serving.pipeline)
    serving.begin()
    published, told = [], CarriedGaps()
    for k in range(COUNT):
        rows = []
        for camera in CAMERAS:
            window = streams[camera][k]
            if (k, camera) == (3, "right"):
                window = replace(window, after_gap=True)
            if (k, camera) in {(3, "right"), (5, "left")} or (k < 2 and camera == "rear"):
                told.leave_out(camera, window)  # dropped, or its camera has not joined yet
                continue
            rows.append((camera, told.tell(camera, window)))
        if k == 6:
            serving.reset("left")
        if k == 9:
            serving.swap(fresh(detectors, "second"), 150_000, "second")
        if k in (7, 8):
            found = [serving.window(*row) for row in rows]
        else:
            found = serving.batch(rows)
        for row, one in zip(rows, found, strict=True):
            published.append((row[0], one))
        for row in rows:
            serving.follow(*row)
    return published, sizes, serving


def sources(detectors, streams):
    gap = {**streams, "right": [replace(w, after_gap=k == 3) for k, w in enumerate(streams["right"])]}
    return Sources(gap, lambda name: fresh(detectors, name), {}.get)


def test_batches_are_repeated_as_they_were(detectors, streams, tmp_path):
    writer = JournalWriter(tmp_path / "run.jsonl")
    published, sizes, serving = live(detectors, streams, writer.write)
    writer.close()
    entries = list(read_journal(tmp_path / "run.jsonl"))
    kinds = [entry.kind for entry in entries]
    assert kinds.count("batch") == COUNT - 2 and kinds.count("window") == 6 and kinds.count("swap") == 1
    assert [len(windows_in(entry)) for entry in entries if entry.kind == "batch"][:6] == [2, 2, 3, 2, 3, 2]
    assert serving.pipeline.detector is detectors["second"] and serving.streams["right"].resets == 1
    pipeline = fresh(detectors)
    again_in = counted(pipeline)
    again = [(one.camera, one.detections) for one in repeat(entries, pipeline, sources(detectors, streams))]
    assert again == published and sum(len(found) for _, found in published) > 100
    assert again_in == sizes and set(sizes) == {2, 3}, "the same batches, since their size may decide about rounding"


def test_a_batch_sees_what_each_camera_sees_alone(detectors, streams):
    serving, stream = Serving(fresh(detectors)), StreamState()
    for k in range(4):  # of one state, since rounding may decide about a spike, and that about the next window
        stream = serving.streams.get("left", StreamState())
        found = serving.batch([(camera, streams[camera][k]) for camera in CAMERAS])
        alone, _ = fresh(detectors).step(streams["left"][k], stream)
        assert len(found[0]) and correspond(found[0], alone)


def test_a_batch_that_fails_has_not_happened(detectors, streams):
    entries = []
    serving = Serving(fresh(detectors), entries.append)
    rows = [(camera, streams[camera][0]) for camera in CAMERAS]
    serving.batch(rows)
    before, written = dict(serving.streams), len(entries)
    serving.pipeline.step_batch = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        serving.batch([(camera, streams[camera][1]) for camera in CAMERAS])
    assert len(entries) == written and all(serving.streams[name] is before[name] for name in CAMERAS)
    with pytest.raises(ValueError, match="one window of each camera"):
        serving.batch([rows[0], rows[0]])


def test_a_batch_of_one_is_written_as_a_window(detectors, streams):
    entries, alone = [], []
    for journal, run in ((entries, "batch"), (alone, "window")):
        serving, row = Serving(fresh(detectors), journal.append), ("left", streams["left"][0])
        found = serving.batch([row])[0] if run == "batch" else serving.window(*row)
        assert len(found)
    assert entries == alone and entries[0].kind == "window"


def test_a_line_of_a_batch_tells_its_windows():
    rows = [Entry("window", "left", {"t_us": [0, 5], "events": 3}), Entry("window", "right", {"t_us": [1, 6]})]
    assert windows_in(batch_of(rows)) == rows
    assert windows_in(rows[0]) == [rows[0]] and windows_in(Entry("reset", "left")) == []


@pytest.mark.parametrize(
    "windows",
    [
        "3",
        "[]",
        '[{"camera":"left","t_us":[0,5]}]',
        '[{"camera":"left","t_us":[0,5]},{"camera":"left","t_us":[5,9]}]',
        '[{"camera":"left","t_us":[0,5]},{"t_us":[0,5]}]',
        '[{"camera":"left","t_us":[0,5]},{"camera":["right"],"t_us":[0,5]}]',
        '[{"camera":"left","t_us":[0,5]},{"camera":"right"}]',
        '[{"camera":"left","t_us":[0,5]},7]',
    ],
)
def test_what_is_no_batch_is_told_with_its_line(windows, tmp_path):
    path = tmp_path / "j.jsonl"
    head = '{"journal":"","format":1,"spec":"","score_threshold":0,"max_detections":1,"geometry":"","max_gap_us":1}\n'
    path.write_text(f'{head}{{"batch":"","windows":{windows}}}\n')
    with pytest.raises(EventDataError, match="line 2: expected the windows of a batch"):
        list(read_journal(path))


def test_a_batch_of_which_a_window_is_missing_in_the_recording_is_told(detectors, streams):
    entries = []
    live(detectors, streams, entries.append)
    given = sources(detectors, {**streams, "rear": streams["rear"][:4]})
    with pytest.raises(EventDataError, match="camera 'rear': window .* is not in the recording"):
        list(repeat(entries, fresh(detectors), given))

"""The demo's drive: made once, its labels at any time, what detections score on it, and how they are drawn."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from snn_perception.errors import SnnPerceptionError
from snn_perception.runtime.demo_video import Look, Seen, pictures, write_video
from snn_perception.runtime.detections_file import DetectionsWriter
from snn_perception.runtime.labelled_drive import CHECK_DRIVE, DEMO_DRIVE, labelled_drive
from snn_perception.runtime.render import THEMES
from snn_perception.runtime.replay import WindowSource
from snn_perception.synth.sizes import SIZES, SetRequest, plan_set
from snn_perception.synth.style import draw_style
from snn_perception.types import Detections

CLASSES = ("car", "pedestrian")
SHORT = replace(DEMO_DRIVE, duration_us=1_600_000)


@pytest.fixture(scope="module")
def drive(tmp_path_factory, registry):
    return labelled_drive(tmp_path_factory.mktemp("demo") / "drive", SHORT, registry)


@pytest.fixture(scope="module")
def windows(drive, registry):
    return list(WindowSource(drive.labelled.open(registry), registry, 50_000))


def test_no_set_of_any_size_and_seed_holds_the_drives():
    used = {
        (plan.split, plan.drive)
        for size in SIZES
        for seed in range(20)
        for plan in plan_set(SetRequest(size, seed=seed))
    }
    for plan in (DEMO_DRIVE, CHECK_DRIVE):
        assert plan.split == "test" and (plan.split, plan.drive) not in used
        assert not draw_style(plan.split, plan.drive).robustness


def test_it_is_made_once_and_again_where_it_is_damaged(drive, registry):
    told = []
    again = labelled_drive(drive.drive.folder, SHORT, registry, told.append)
    assert drive.drive.is_new and not again.drive.is_new and not told
    assert again.drive.digest == drive.drive.digest
    data = bytearray(drive.drive.events.read_bytes())
    data[-3] ^= 1
    drive.drive.events.write_bytes(data)
    mended = labelled_drive(drive.drive.folder, SHORT, registry, told.append)
    assert mended.drive.is_new and mended.drive.digest == drive.drive.digest
    assert told == sorted(told) and len(told) > 5 and told[-1] <= SHORT.duration_us


def test_a_manifest_of_another_version_is_no_obstacle(drive, registry):
    manifest = drive.drive.folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace(drive.generator, "synthetic-gen1/0"))
    again = labelled_drive(drive.drive.folder, SHORT, registry)
    assert again.drive.is_new and manifest.read_text() == text


def test_a_folder_that_cannot_be_made_is_named(tmp_path, registry):
    (tmp_path / "file").write_text("")
    with pytest.raises(SnnPerceptionError, match="file/drive: the folder cannot be made"):
        labelled_drive(tmp_path / "file" / "drive", SHORT, registry)


def test_labels_at_their_times_and_between(drive):
    labels = drive.labels
    assert len(labels) > 3
    times = np.unique(labels.t_us).tolist()
    for t_us in times:
        rows = np.flatnonzero(labels.t_us == t_us)
        found = drive.labels_at(t_us, CLASSES)
        xyxy = np.concatenate([labels.xywh[rows, :2], labels.xywh[rows, :2] + labels.xywh[rows, 2:]], axis=1)
        assert sorted(map(tuple, found.xyxy.tolist())) == sorted(map(tuple, xyxy.tolist()))
    assert not len(drive.labels_at(times[0] - 1, CLASSES)) and not len(drive.labels_at(times[-1] + 1, CLASSES))


def test_between_two_labels_a_box_is_on_the_straight_line(drive):
    labels = drive.labels
    by_track = [np.flatnonzero(labels.track_id == track) for track in np.unique(labels.track_id)]
    period_us = 1_000_000 // drive.drive.entry.label_hz
    pairs = [pair for rows in by_track for pair in pairwise(rows.tolist())]
    first, second = next((a, b) for a, b in pairs if labels.t_us[b] - labels.t_us[a] < 1.1 * period_us)
    t_us = int(labels.t_us[first] + (labels.t_us[second] - labels.t_us[first]) // 4)
    middle = labels.xywh[first] * 0.75 + labels.xywh[second] * 0.25
    expected = np.concatenate([middle[:2], middle[:2] + middle[2:]])
    found = drive.labels_at(t_us, CLASSES)
    assert np.abs(found.xyxy - expected).max(axis=1).min() < 0.01


def test_labels_of_classes_that_a_model_lacks_are_left_out(drive):
    t_us = int(drive.labels.t_us[-1])
    everything = drive.labels_at(t_us, CLASSES)
    swapped = drive.labels_at(t_us, CLASSES[::-1])
    assert sorted(1 - swapped.class_id) == sorted(everything.class_id)
    assert len(drive.labels_at(t_us, ("car",))) == (everything.class_id == 0).sum()


def write_found(path, drive, windows, classes, *, shift_px=0.0):
    """Write the labels of each labelled window as detections."""
    with DetectionsWriter(path) as file:
        for window in windows:
            inside = drive.labels.t_us[(drive.labels.t_us >= window.t_start_us) & (drive.labels.t_us < window.t_end_us)]
            there = drive.labels_at(int(inside[0]), classes) if len(inside) else Detections.empty()
            found = replace(there, xyxy=there.xyxy + np.float32(shift_px), t_us=window.t_end_us)
            file.write(window, found)
    return path


@pytest.mark.parametrize("classes", [CLASSES, ("pedestrian", "bicycle", "car")])
def test_right_boxes_score_one_and_wrong_ones_nothing(drive, windows, registry, tmp_path, classes):
    right = drive.score(write_found(tmp_path / "right.jsonl", drive, windows, classes), classes, registry)
    assert right.protocol.name.startswith("gen1") and right.scores.ground_truths > 1
    assert right.scores["AP50"] == pytest.approx(1.0) and right.scores["AP"] == pytest.approx(1.0)
    wrong = write_found(tmp_path / "wrong.jsonl", drive, windows, classes, shift_px=150.0)
    assert drive.score(wrong, classes, registry).scores["AP50"] < 0.2


def test_the_video_shows_labels_dashed_and_leaves_weak_boxes_out(drive, windows, tmp_path):
    weak = Detections(np.array([[10, 10, 40, 40]], np.float32), np.array([0.2], np.float32), np.array([0]), 0)
    received = {window.t_end_us: replace(weak, t_us=window.t_end_us) for window in windows}
    seen = [Seen(window, Detections.empty()) for window in windows]
    look = Look(CLASSES, 0.3, "a note", drive)
    shown = list(pictures(seen, received, look))
    assert len(shown) >= 80 and not any(len(one.detections) for one in shown)
    assert any(len(one.labels) for one in shown)
    all_shown = list(pictures(seen, received, replace(look, drawn_from=0.1, drive=None)))
    assert all(len(one.detections) == 1 and one.labels is None for one in all_shown)
    assert look.legend == f"a note; dashed: labels ({drive.generator}); boxes: score from 0.3"
    assert write_video(tmp_path / "demo.mp4", shown, look) > 50


def test_a_dashed_box_is_drawn_at_its_place():
    from snn_perception.runtime.render import draw_window
    from snn_perception.types import EventArray, EventWindow, SensorSize

    window = EventWindow(EventArray.empty(SensorSize(60, 80)), 0, 50_000)
    box = Detections(np.array([[20, 10, 60, 40]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), 0)
    plain = draw_window(window, Detections.empty(), CLASSES, scale=4)
    with_box = draw_window(window, Detections.empty(), CLASSES, scale=4, labels=box)
    rows, columns = np.nonzero((plain != with_box).any(axis=2))
    header = with_box.shape[0] - 60 * 4
    assert (rows.min() - header, rows.max() - header, columns.min(), columns.max()) == (40, 160, 80, 240)
    assert {tuple(pixel) for pixel in with_box[rows, columns].tolist()} == {THEMES["dark"].text}
    edge = (with_box[header + 40, 80:241] == THEMES["dark"].text).all(axis=1)
    assert 0.4 < edge.mean() < 0.7, "dashed"

"""Scores against plain loops and stock pycocotools, and every edge of the protocols."""

from dataclasses import fields, replace

import numpy as np
import pytest

from snn_perception.data.label_filters import FILTERS
from snn_perception.data.targets import window_targets
from snn_perception.errors import SnnPerceptionError
from snn_perception.evaluation.coco import STATS, coco_scores
from snn_perception.evaluation.grouping import group
from snn_perception.evaluation.matching import IOUS
from snn_perception.evaluation.protocol import PROTOCOLS, Protocol, named_protocol
from tests.evaluation_support import CLASSES, GEN1, plain_ap, random_results, recording, stock_stats, without_labels

ALL = PROTOCOLS["none"]
BOX = (100, 80, 60, 40)


def score(results, protocol=ALL, **options):
    return coco_scores(results if isinstance(results, list) else [results], CLASSES, GEN1, protocol, **options)


# --- against other judges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_ap_equals_plain_loops(seed):
    results, protocol = random_results(seed), PROTOCOLS["gen1"]
    scores = score(results, protocol)
    for class_id, name in enumerate(CLASSES):
        expected = [plain_ap(results, class_id, protocol, min_iou) for min_iou in IOUS]
        assert 0 < np.mean(expected) < 1, "a trivial case proves nothing"
        assert scores.per_class[name]["AP"] == pytest.approx(np.mean(expected), abs=1e-12)
        assert scores.per_class[name]["AP50"] == pytest.approx(expected[0], abs=1e-12)
        assert scores.per_class[name]["AP75"] == pytest.approx(expected[5], abs=1e-12)
    assert scores["AP"] == pytest.approx(np.mean([scores.per_class[name]["AP"] for name in CLASSES]), abs=1e-12)


@pytest.mark.parametrize("step_us", [250_000, 40_000], ids=["apart", "overlapping"])
@pytest.mark.parametrize("name", ["gen1", "toolbox", "one_mpx_half", "none"])
def test_all_figures_equal_stock_pycocotools(name, step_us):
    results = random_results(7, step_us=step_us)
    protocol = PROTOCOLS[name] if step_us == 250_000 else replace(PROTOCOLS[name], skip_us=60_000)
    scores = score(results, protocol)
    expected = stock_stats(results, protocol, len(CLASSES))
    assert 0.05 < expected[0] < 1
    np.testing.assert_allclose([scores[stat] for stat in STATS], expected, rtol=0, atol=1e-12)


def test_more_detections_than_count_and_ties_equal_stock_pycocotools():
    rng = np.random.default_rng(3)
    truth = [(500_000, 20 * i, 10 * i, 40, 50, i % 2) for i in range(6)]
    boxes = np.concatenate([rng.uniform(0, 150, (260, 2)), rng.uniform(30, 60, (260, 2))], axis=1)
    found = [(500_000, *box, i % 2, 0.5) for i, box in enumerate(boxes)]
    results = [recording(truth, found)]
    scores = score(results)
    assert scores.detections == 260
    assert len(group(results, 2, GEN1, ALL).found) == 200
    expected = stock_stats(results, ALL, len(CLASSES))
    assert expected[0] > 0
    np.testing.assert_allclose([scores[stat] for stat in STATS], expected, rtol=0, atol=1e-12)


def test_the_order_of_detections_in_a_recording_does_not_matter_without_ties():
    result = random_results(1)[0]
    shuffled = np.random.default_rng(0).permutation(len(result.t_us))
    distinct = replace(result, score=np.linspace(0.1, 0.9, len(result.t_us)).astype(np.float32))
    again = replace(
        distinct,
        t_us=distinct.t_us[shuffled],
        xywh=distinct.xywh[shuffled],
        score=distinct.score[shuffled],
        class_id=distinct.class_id[shuffled],
    )
    assert score(distinct).stats == score(again).stats
    assert score(distinct)["AP"] > 0


def test_nothing_is_printed(capsys):
    assert score(random_results(2))["AP"] > 0
    assert capsys.readouterr().out == ""


# --- edges ----------------------------------------------------------------------------------------------------------


def test_perfect_detections_score_one_first_box_included():
    """Annotation ids from 0 would lose one match: AP 0.25 of two perfect detections."""
    truth = [(600_000, 10, 20, 60, 40, 0), (600_000, 150, 20, 30, 60, 0)]
    scores = score(recording(truth, [(*row, 0.9) for row in truth]))
    assert scores["AP"] == scores["AR_100"] == pytest.approx(1.0)
    assert scores["AR_1"] == pytest.approx(0.5)


def test_no_detections_is_zero_and_a_class_without_truth_does_not_count():
    scores = score(recording([(600_000, *BOX, 0)]))
    assert scores["AP"] == scores.per_class["car"]["AP"] == 0
    assert scores["AR_100"] == 0
    assert scores["AP_small"] == -1 and scores["AP_medium"] == 0
    assert set(scores.per_class["pedestrian"].values()) == {-1}
    assert set(scores.curves) == {"car"}


@pytest.mark.parametrize("results", [[], [recording([])], [without_labels(random_results(0)[0])]])
def test_no_labels_is_no_figure(results):
    scores = coco_scores(results, CLASSES, GEN1, ALL)
    assert set(scores.stats.values()) == {-1} and scores.images == 0
    assert scores.moving is None and scores.detections_per_empty_frame is None


def test_detections_of_a_class_without_truth_change_nothing():
    with_car = [(600_000, *BOX, 0, 0.9), (600_000, 10, 10, 40, 40, 0, 0.95)]
    alone = score(recording([(600_000, *BOX, 0)], with_car))
    more = score(recording([(600_000, *BOX, 0)], [*with_car, (600_000, *BOX, 1, 0.99)]))
    assert 0 < alone["AP"] < 1 and alone.stats == more.stats


def test_a_detection_of_no_known_class_is_refused():
    with pytest.raises(SnnPerceptionError, match=r"drive: expected .* 0\.\.1 \(car, pedestrian\), got 2; map"):
        score(recording([(600_000, *BOX, 0)], [(600_000, *BOX, 2, 0.5)]))


def test_results_check_their_columns():
    good = recording([(600_000, *BOX, 0)], [(600_000, *BOX, 0, 0.5)])
    with pytest.raises(ValueError, match=r"drive: score: expected float32\[1\], got float64\[1\]"):
        replace(good, score=np.array([0.5]))
    with pytest.raises(ValueError, match=r"silent: expected bool\[1\]"):
        replace(good, silent=np.zeros(2, bool))
    with pytest.raises(ValueError, match="must be finite"):
        replace(good, score=np.array([np.nan], np.float32))


def test_filter_edges_of_labels_and_detections():
    truth = [
        (500_000, *BOX, 0),  # at the end of the skipped start: strict
        (500_001, *BOX, 0),
        (600_000, 0, 0, 10, 28.2842712, 0),  # squares add up to a hair less than 900, to 900 in float32
        (600_000, 50, 0, 10, 30, 0),  # side exactly at the limit
        (600_000, 90, 0, 9.9999999, 60, 0),  # rounds to 10 in float32
        (600_000, 130, 0, 9.99, 60, 0),
        (600_000, 180, 0, 18, 24, 1),  # diagonal exactly 30
        (600_000, -40, 0, 60, 30, 1),  # reaches out of the image: size as labelled
    ]
    scores = score(recording(truth, [(*row, 0.5) for row in truth]), PROTOCOLS["gen1"])
    assert 10.0**2 + float(np.float32(28.2842712)) ** 2 < 900
    assert scores.truths_kept == scores.detections_kept == 6
    assert scores["AP"] == pytest.approx(1.0)


def test_tolerance_is_inclusive_and_detections_are_reused():
    truth = [(1_000_000, *BOX, 0), (1_040_000, *BOX, 0), (1_200_000, *BOX, 0)]
    found = [(950_000, *BOX, 0, 0.9), (1_020_000, *BOX, 0, 0.8), (1_250_001, *BOX, 0, 0.7)]
    scores = score(recording(truth, found))
    # 950 ms is 50 ms before the first and 90 ms before the second; 1 020 ms serves both; the last is 1 us too late.
    assert (scores.images, scores.ground_truths, scores.detections) == (3, 3, 3)
    assert scores["AR_100"] == pytest.approx(2 / 3)
    exact = score(recording(truth, found), replace(ALL, tolerance_us=0))
    assert exact.detections == 0 and exact["AP"] == 0


def test_recordings_do_not_meet():
    truth, found = [(600_000, *BOX, 0)], [(600_000, *BOX, 0, 0.9)]
    apart = score([recording(truth, name="a"), recording([], found, name="b")])
    assert apart["AP"] == 0 and apart.detections == 0
    assert score(recording(truth, found))["AP"] == pytest.approx(1.0)


def test_frames_emptied_by_the_filter():
    truth = [(600_000, *BOX, 0), (900_000, 5, 5, 8, 8, 0)]
    found = [(600_000, *BOX, 0, 0.5), (900_000, 100, 100, 50, 50, 0, 0.9), (900_000, 10, 100, 50, 50, 1, 0.8)]
    after = score(recording(truth, found), replace(PROTOCOLS["gen1"], frames="after_filter"))
    before = score(recording(truth, found), replace(PROTOCOLS["gen1"], frames="before_filter"))
    assert (after.images, before.images) == (1, 2)
    assert after["AP"] == pytest.approx(1.0)
    assert before["AP"] == pytest.approx(0.5), "the false positive ranks first"
    for scores in (after, before):
        assert (scores.empty_frames, scores.detections_per_empty_frame) == (1, 2.0)
    assert score(recording(truth, found)).detections_per_empty_frame is None


def test_skipped_times_are_no_frames_either_way():
    truth = [(400_000, *BOX, 0), (500_000, *BOX, 0), (600_000, *BOX, 0)]
    for frames in ("after_filter", "before_filter"):
        scores = score(recording(truth), replace(PROTOCOLS["gen1"], frames=frames))
        assert (scores.images, scores.empty_frames) == (1, 0)


def test_labels_of_other_classes_make_images_but_are_not_to_be_found():
    truth = [(600_000, *BOX, 0), (900_000, *BOX, 7)]
    scores = score(recording(truth, [(600_000, *BOX, 0, 0.5), (900_000, *BOX, 0, 0.9)]))
    assert (scores.images, scores.ground_truths, scores.truths_kept) == (2, 1, 2)
    assert scores["AP"] == pytest.approx(0.5)


# --- windows --------------------------------------------------------------------------------------------------------


def test_windows_pair_labels_and_detections_by_their_number():
    stvgg = PROTOCOLS["stvgg"]
    truth = [(100_000, *BOX, 0, 1), (149_999, 102, 80, 60, 40, 0, 1), (150_000, 200, 80, 60, 40, 0, 1)]
    found = [(100_000, 102, 80, 60, 40, 0, 0.9), (199_999, 200, 80, 60, 40, 0, 0.8), (200_000, *BOX, 0, 1.0)]
    scores = score(recording(truth, found), stvgg)
    assert (scores.images, scores.ground_truths, scores.detections) == (2, 2, 2)
    assert scores["AP"] == pytest.approx(1.0), "the last label of the track counts"


def test_clipping_cuts_detections_as_labels():
    truth = [(100_000, -50, 100, 100, 50, 0, 1), (200_000, -45, 100, 60, 50, 0, 2)]  # 50 and 15 px remain
    found = [(100_000, -90, 100, 140, 50, 0, 0.5), (100_000, 310, 100, 60, 50, 0, 0.9)]  # the second lies outside
    stvgg = PROTOCOLS["stvgg"]
    scores = score(recording(truth, found), stvgg)
    assert (scores.truths_kept, scores.detections_kept) == (1, 1)
    assert scores["AP"] == pytest.approx(1.0)
    assert score(recording(truth, found), replace(stvgg, clips_boxes=False))["AP"] < 0.5


def test_windows_hold_the_targets_that_training_sees():
    protocol = Protocol("windows", matching="window", frames="before_filter", clips_boxes=True)
    rng = np.random.default_rng(5)
    rows = [
        (int(rng.integers(0, 400_000)), *rng.uniform(-60, 300, 2).round(2), *rng.uniform(1, 90, 2), i % 2, i % 5)
        for i in range(120)
    ]
    result = recording(rows)
    result = replace(result, truth=result.truth[np.argsort(result.truth.t_us, kind="stable")])
    frames, truth = group([result], 2, GEN1, protocol), result.truth
    windows = np.unique(truth.t_us // 50_000)
    expected = []
    for window in windows:
        here = truth.t_us // 50_000 == window
        expected.append(
            window_targets(truth.t_us[here], truth.xywh[here], truth.class_id[here], truth.track_id[here], GEN1)
        )
    expected = [targets for targets in expected if len(targets)]
    assert frames.images == len(expected) > 5 and len(frames.truth) < len(rows)
    for image, targets in enumerate(expected):
        ours = frames.truth[frames.truth.image == image]
        xyxy = np.concatenate([ours.xywh[:, :2], ours.xywh[:, :2] + ours.xywh[:, 2:]], axis=1)
        order, theirs = np.lexsort(xyxy.T), np.lexsort(targets.xyxy.T)
        np.testing.assert_allclose(xyxy[order], targets.xyxy[theirs], atol=1e-4)
        assert np.array_equal(ours.class_id[order], targets.class_id[theirs])


# --- moving and silent ----------------------------------------------------------------------------------------------


def _half_silent():
    moving = [(600_000 + 250_000 * i, 20, 30, 60, 40, 0) for i in range(4)]
    silent = [(600_000 + 250_000 * i, 180, 120, 60, 40, 0) for i in range(4)]
    return moving, silent, [False] * 4 + [True] * 4


def test_a_detector_of_moving_objects_is_blind_to_silent_ones_and_not_blamed_for_them():
    moving, silent, marks = _half_silent()
    scores = score(recording(moving + silent, [(*row, 0.9) for row in moving], silent=marks))
    assert scores.moving is not None and scores.silent is not None
    assert scores.moving.stats == pytest.approx({"AP": 1, "AP50": 1, "AR_100": 1})
    assert scores.silent.stats == pytest.approx({"AP": 0, "AP50": 0, "AR_100": 0})
    assert (scores.moving.ground_truths, scores.silent.ground_truths) == (4, 4)
    assert scores["AR_100"] == pytest.approx(0.5)
    assert scores.silent.per_class["pedestrian"]["AP"] == -1


def test_detections_on_the_other_kind_count_neither_way():
    moving, silent, marks = _half_silent()
    on_silent = [(t, x + 4, y + 2, w - 8, h - 4, c, s) for (t, x, y, w, h, c) in silent for s in (0.99, 0.98)]
    found = [*((*row, 0.5) for row in moving), *on_silent]
    scores = score(recording(moving + silent, found, silent=marks))
    assert scores.moving is not None and scores.moving.stats["AP"] == pytest.approx(1.0)
    assert scores["AP"] < 0.9, "doubles count against the whole"
    elsewhere = [(t, 20, 180, 40, 40, 0, 0.99) for t, *_ in moving]
    blamed = score(recording(moving + silent, [*found, *elsewhere], silent=marks))
    assert blamed.moving is not None and blamed.moving.stats["AP"] < 0.9
    assert blamed.silent is not None and blamed.silent.stats["AP"] < scores.silent.stats["AP"]


def test_recall_of_the_parts_makes_that_of_the_whole():
    results = []
    for number, result in enumerate(random_results(11)):
        marks = np.random.default_rng(number).random(len(result.truth)) < 0.4
        results.append(replace(result, silent=marks))
    scores = score(results)
    assert scores.moving is not None and scores.silent is not None
    assert scores.moving.ground_truths + scores.silent.ground_truths == scores.ground_truths
    everything = score([replace(result, silent=np.zeros(len(result.truth), bool)) for result in results])
    assert everything.moving is not None and everything.silent is not None
    assert everything.moving.stats == {stat: scores[stat] for stat in ("AP", "AP50", "AR_100")}
    assert everything.silent.stats == {"AP": -1, "AP50": -1, "AR_100": -1}
    low, high = sorted([scores.moving.stats["AR_100"], scores.silent.stats["AR_100"]])
    assert low - 0.05 <= scores["AR_100"] <= high + 0.05


def test_without_word_from_one_recording_there_is_no_split():
    moving, silent, marks = _half_silent()
    told = recording(moving + silent, silent=marks)
    assert score([told, recording([], name="empty")]).moving is not None
    assert score([told, recording(moving, name="untold")]).moving is None


# --- curves and confusion -------------------------------------------------------------------------------------------


def test_curve_of_a_known_ranking():
    truth = [(600_000, *BOX, 0), (900_000, *BOX, 0)]
    found = [(600_000, *BOX, 0, 0.9), (600_000, 5, 5, 40, 40, 0, 0.8), (900_000, *BOX, 0, 0.5)]
    scores = score(recording(truth, found))
    curve = scores.curves["car"]
    assert curve.precision_50[:51] == pytest.approx(1.0) and curve.precision_50[51:] == pytest.approx(2 / 3)
    assert curve.score_50[:51] == pytest.approx(0.9) and curve.score_50[51:] == pytest.approx(0.5)
    assert curve.precision_50.mean() == pytest.approx(scores["AP50"])
    assert curve.precision.mean() == pytest.approx(scores["AP"])
    assert len(curve.recall) == 101


def test_confusion_counts_every_box_once():
    truth = [(600_000, *BOX, 0), (600_000, 10, 10, 40, 40, 1), (600_000, 200, 150, 40, 40, 1)]
    found = [
        (600_000, *BOX, 1, 0.9),  # a car taken for a pedestrian
        (600_000, *BOX, 0, 0.8),  # the car is taken: a detection of nothing
        (600_000, 10, 10, 40, 40, 1, 0.7),
        (600_000, 200, 150, 40, 40, 1, 0.2),  # too low: missed
    ]
    confusion = score(recording(truth, found), confusion_score=0.3).confusion
    assert confusion.names == ("car", "pedestrian", "background")
    assert confusion.counts.tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 0]]
    lower = score(recording(truth, found), confusion_score=0.2).confusion
    assert lower.counts.tolist() == [[0, 1, 0], [0, 2, 0], [1, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_confusion_rows_and_columns_add_up(seed):
    scores = score(random_results(seed), confusion_score=0.0)
    counts = scores.confusion.counts
    assert counts[:2].sum() == scores.ground_truths and counts[:, :2].sum() == scores.detections
    assert counts[0, 1] + counts[1, 0] > 0 and counts[2, 2] == 0


def test_scores_turn_to_plain_values():
    import json

    marks = [np.zeros(len(result.truth), bool) for result in random_results(4)]
    results = [replace(result, silent=mark) for result, mark in zip(random_results(4), marks, strict=True)]
    scores = score(results)
    plain = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert plain["stats"] == scores.stats and plain["moving"]["AP"] == scores["AP"]
    assert len(plain["curves"]["car"]["precision_50"]) == 101


# --- protocols ------------------------------------------------------------------------------------------------------


def test_presets_are_the_filters_of_the_same_name():
    for name in ("gen1", "one_mpx", "one_mpx_half", "stvgg", "toolbox", "toolbox_one_mpx"):
        rule, ours = FILTERS[name], PROTOCOLS[name].filter
        assert (rule.after_us, rule.min_diagonal_px, rule.min_side_px) == (
            ours.after_us,
            ours.min_diagonal_px,
            ours.min_side_px,
        )
    assert PROTOCOLS["stvgg"].matching == "window" and PROTOCOLS["stvgg"].frames == "before_filter"
    hashes = {protocol.hash for name, protocol in PROTOCOLS.items() if name != "one_mpx_half"}
    assert len(hashes) == len(PROTOCOLS) - 1
    assert PROTOCOLS["one_mpx_half"].hash == PROTOCOLS["gen1"].hash, "the same rules; the cards tell the data apart"


CHANGES = {
    "skip_us": 1,
    "min_diagonal_px": 31.0,
    "min_side_px": 11.0,
    "tolerance_us": 49_999,
    "max_detections": 99,
    "matching": "window",
    "window_us": 40_000,
    "frames": "before_filter",
    "clips_boxes": True,
    "trapezoid": True,
}


def test_the_hash_follows_every_field_that_changes_a_figure():
    assert {field.name for field in fields(Protocol)} == {*CHANGES, "name", "source"}
    for name, value in CHANGES.items():
        base = PROTOCOLS["gen1"] if name != "window_us" else replace(PROTOCOLS["gen1"], matching="window")
        assert replace(base, **{name: value}).hash != base.hash, name
        assert len(base.hash) == 16
    base = PROTOCOLS["gen1"]
    assert replace(base, name="other", source="someone").hash == base.hash
    assert replace(base, min_side_px=10).hash == base.hash, "10 and 10.0 are the same limit"
    assert replace(base, window_us=40_000).hash == base.hash, "nothing reads it"


def test_a_wrong_name_or_value_is_told():
    assert named_protocol("gen1") is named_protocol(PROTOCOLS["gen1"])
    with pytest.raises(SnnPerceptionError, match="unknown protocol 'st_vgg'.*did you mean 'stvgg'"):
        named_protocol("st_vgg")
    with pytest.raises(SnnPerceptionError, match="matching: expected tolerance or window, got 'near'"):
        Protocol("mine", matching="near")
    with pytest.raises(SnnPerceptionError, match="max_detections: expected a number of at least 1, got 0"):
        Protocol("mine", max_detections=0)


@pytest.mark.parametrize("limit", [1, 5, 100])
def test_the_limit_of_detections(limit):
    truth = [(600_000, 30 * i, 20, 25, 60, 0) for i in range(8)]
    scores = score(recording(truth, [(*row, 0.9) for row in truth]), replace(ALL, max_detections=limit))
    assert scores["AR_100"] == pytest.approx(min(limit, 8) / 8)
    assert scores["AR_1"] == pytest.approx(1 / 8)

"""A detector over a labelled set: what is walked, kept, counted and scored."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from snn_perception.errors import EventDataError
from snn_perception.evaluation.activity import ActivityMeter
from snn_perception.evaluation.operating_point import best_operating_point
from snn_perception.evaluation.outcome import RecordingOutcome
from snn_perception.evaluation.package import PluginSources
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.evaluation.run import evaluate_detector, score_outcomes
from snn_perception.evaluation.samples import pick_frames
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.replay import WindowSource, replay
from snn_perception.work import Ledger, make_executor
from tests.dataset_support import GEN1, labels_of, paired
from tests.evaluate_support import NAMES, drive, outcome_of, shapes_set, shapes_tree, tiny_on_gen1
from tests.paths import ROOT
from tests.runtime_support import tiny_registry

REGISTRY = tiny_registry()
GEN1_PROTOCOL = named_protocol("gen1")
COLUMNS = ("set_end_us", "set_events", "end_us", "xywh", "score", "class_id", "silent")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shapes_tree(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def dataset(folder):
    return shapes_set(folder, REGISTRY)


@pytest.fixture(scope="module")
def plain(dataset):
    """The evaluation that others must equal: in this process, one row, in float64."""
    return evaluate_detector(tiny_on_gen1(dtype=torch.float64), dataset, REGISTRY, GEN1_PROTOCOL, measure=True)


def assert_same(outcomes, others, *, rtol=0.0):
    assert [one.name for one in outcomes] == [one.name for one in others]
    for one, other in zip(outcomes, others, strict=True):
        assert len(one.score) > 100, "detections that are not there prove nothing"
        for name in COLUMNS:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, err_msg=name)
        assert one.activity == other.activity
        assert (one.windows, one.events, one.notes) == (other.windows, other.events, other.notes)


# What is walked and kept


def test_what_is_kept_is_what_the_pipeline_sees_with_its_state_carried_from_time_0(dataset):
    detector = tiny_on_gen1()
    evaluation = evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL)
    for recording, outcome in zip(dataset, evaluation.outcomes, strict=True):
        pipeline = DetectionPipeline(detector)
        source = WindowSource(recording.open(REGISTRY), REGISTRY, 50_000, t_start_us=0)
        seen = {step.window.t_end_us: step.detections for step in replay(source, pipeline)}
        labels = recording.labels()
        ends = sorted({int(t) // 50_000 * 50_000 + 50_000 for t in labels.t_us})
        assert outcome.set_end_us.tolist() == ends and outcome.windows == len(seen) > len(ends)
        expected = np.concatenate([seen[end].xyxy for end in ends])
        np.testing.assert_array_equal(outcome.xywh[:, :2] + outcome.xywh[:, 2:], expected[:, 2:])
        np.testing.assert_array_equal(outcome.score, np.concatenate([seen[end].score for end in ends]))
        assert len(outcome.score) > 100


def test_recordings_as_rows_of_one_batch_give_the_same_numbers(dataset, plain):
    detector = tiny_on_gen1(dtype=torch.float64)
    side_by_side = evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL, measure=True, rows=2)
    assert len({outcome.windows for outcome in plain.outcomes}) == 3, "rows of one length prove less"
    assert_same(side_by_side.outcomes, plain.outcomes, rtol=1e-6)  # boxes and scores are float32


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_any_executor_gives_the_same_numbers(dataset, plain, name):
    detector = tiny_on_gen1(dtype=torch.float64)
    done = []
    with make_executor(name, 2) as executor:
        evaluation = evaluate_detector(
            detector,
            dataset,
            REGISTRY,
            GEN1_PROTOCOL,
            measure=True,
            executor=executor,
            on_progress=lambda at, total: done.append((at, total)),
        )
    assert_same(evaluation.outcomes, plain.outcomes)
    assert evaluation.scores.stats == plain.scores.stats
    assert done[-1] == (3, 3)


def test_a_model_that_starts_each_window_from_rest_runs_in_labelled_windows_only(dataset):
    detector = tiny_on_gen1(state_policy="per_window")
    calls = []
    handle = detector.register_forward_hook(lambda *_: calls.append(1))
    some = evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL)
    in_labelled = len(calls)
    every = evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL, all_windows=True)
    handle.remove()
    assert_same(some.outcomes, every.outcomes)
    assert in_labelled == sum(outcome.labelled_windows for outcome in some.outcomes)
    assert len(calls) - in_labelled == sum(outcome.windows for outcome in some.outcomes) > 2 * in_labelled


def test_overlapping_windows_count_for_the_labels_in_their_newest_part(dataset):
    detector = tiny_on_gen1(state_policy="per_window")
    spec = replace(detector.spec, stride_us=10_000)
    overlapping = type(detector)(spec, REGISTRY).eval()
    overlapping.load_state_dict(detector.state_dict())
    outcome = evaluate_detector(overlapping, dataset, REGISTRY, GEN1_PROTOCOL, limit=1).outcomes[0]
    assert outcome.set_end_us.tolist() == [int(t) // 10_000 * 10_000 + 10_000 for t in np.unique(outcome.truth.t_us)]
    np.testing.assert_array_equal(
        outcome.score, evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL, limit=1).outcomes[0].score
    )  # labels lie just before multiples of 250 ms, where both grids end a window


def test_a_still_scene_after_the_last_event_goes_on_until_the_last_label(tmp_path):
    labels = labels_of([(600_000, 10, 20, 60, 40, 0, 1), (1_430_000, 10, 20, 60, 40, 0, 1)])
    paired(tmp_path / "test", "17-05-01_0_60", labels=labels)  # events until 1 s
    (outcome,) = evaluate_detector(tiny_on_gen1(), shapes_set(tmp_path, REGISTRY), REGISTRY, GEN1_PROTOCOL).outcomes
    assert outcome.set_end_us.tolist() == [650_000, 1_450_000]
    assert outcome.windows == 29 and outcome.set_events.tolist()[1] == 0 and not outcome.notes


def test_a_label_long_after_the_recording_is_missed_and_named(tmp_path):
    labels = labels_of([(600_000, 10, 20, 60, 40, 0, 1), (90_000_000, 10, 20, 60, 40, 0, 1)])
    paired(tmp_path / "test", "17-05-01_0_60", labels=labels)
    evaluation = evaluate_detector(tiny_on_gen1(), shapes_set(tmp_path, REGISTRY), REGISTRY, GEN1_PROTOCOL)
    assert evaluation.outcomes[0].windows == 20
    assert evaluation.scores.ground_truths == 2
    assert any("1 label(s) later than 1 s" in note for note in evaluation.notes)


def test_the_first_windows_alone_and_the_labels_in_them(dataset, plain):
    part = evaluate_detector(
        tiny_on_gen1(dtype=torch.float64), dataset, REGISTRY, GEN1_PROTOCOL, limit=2, max_windows=20
    )
    assert [one.windows for one in part.outcomes] == [20, 20]
    for one, whole in zip(part.outcomes, plain.outcomes, strict=False):
        assert one.truth.t_us.max() == 999_999 and len(one.truth) == 12
        np.testing.assert_array_equal(one.score, whole.score[: len(one.score)])


def test_the_detector_is_left_as_it_was(dataset):
    detector = tiny_on_gen1().train()
    detector.backbone.convs[0].eval()
    modes = [module.training for module in detector.modules()]
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    random = torch.random.get_rng_state()
    evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL, limit=1, measure=True)
    assert [module.training for module in detector.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(module._forward_hooks for module in detector.modules())


# An interrupted run


def test_an_interrupted_run_goes_on_where_it_stopped(dataset, plain, tmp_path):
    def stop(done, total):
        if done > 1.2:
            raise KeyboardInterrupt

    detector, ledger = tiny_on_gen1(dtype=torch.float64), Ledger(tmp_path)
    options = {"measure": True, "ledger": ledger}
    with pytest.raises(KeyboardInterrupt):
        evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL, on_progress=stop, **options)
    assert len(list(tmp_path.iterdir())) == 1
    resumed = evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL, **options)
    assert resumed.reused == 1
    assert_same(resumed.outcomes, plain.outcomes)
    again = evaluate_detector(detector, dataset, REGISTRY, named_protocol("stvgg"), **options)
    assert again.reused == 3, "outcomes hold under any protocol"
    assert (
        again.scores.stats
        == score_outcomes(plain.outcomes, plain.classes, plain.size, named_protocol("stvgg")).scores.stats
    )


def test_what_was_made_from_other_inputs_is_not_reused(tmp_path):
    dataset = shapes_set(shapes_tree(tmp_path / "set", NAMES[:2]), REGISTRY)
    ledger, detector = Ledger(tmp_path / "ledger"), tiny_on_gen1()

    def reused(detector=detector, **options):
        return evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL, ledger=ledger, **options).reused

    assert reused() == 0
    assert reused() == 2
    assert reused(measure=True) == 0
    assert reused(score_threshold=0.5) == 0
    assert reused(max_windows=30) == 0
    labels = dataset[0].labels_path
    labels.write_bytes(labels.read_bytes())
    assert reused() == 1
    for entry in (tmp_path / "ledger").iterdir():
        entry.write_bytes(entry.read_bytes()[:-9])
    assert reused() == 0, "damaged entries are made anew"
    other = tiny_on_gen1()
    with torch.no_grad():
        other.backbone.convs[0].weight[0, 0, 0, 0] += 1e-3
    assert reused(other) == 0


def test_an_outcome_comes_back_bit_for_bit(plain):
    for outcome in plain.outcomes:
        back = RecordingOutcome.from_dict(outcome.as_dict())
        assert_same([back], [outcome])
        assert back.truth.xywh.tobytes() == outcome.truth.xywh.tobytes()


# One set of detections for each label time


BOX = (50, 60, 40, 50)
CLOSE = labels_of([(1_010_000, *BOX, 0, 1), (1_026_667, *BOX, 0, 1), (1_060_000, *BOX, 0, 1)])
CLOSE_SETS = {1_050_000: [(*BOX, 0, 0.9)], 1_100_000: [(*BOX, 0, 0.8)]}


def test_each_label_time_gets_the_set_of_its_window_stamped_with_its_time():
    result = outcome_of(CLOSE, CLOSE_SETS).result(GEN1_PROTOCOL)
    assert result.t_us.tolist() == [1_010_000, 1_026_667, 1_060_000]
    np.testing.assert_array_equal(result.score, np.float32([0.9, 0.9, 0.8]))


def test_under_window_matching_each_window_gets_one_set():
    result = outcome_of(CLOSE, CLOSE_SETS).result(named_protocol("stvgg"))
    assert result.t_us.tolist() == [1_026_667, 1_060_000]
    scores = score_outcomes([outcome_of(CLOSE, CLOSE_SETS)], ("car",), GEN1, named_protocol("stvgg")).scores
    assert scores.images == 2 and scores["AP"] == pytest.approx(1.0)


def test_labels_closer_than_the_tolerance_are_matched_at_exact_times():
    evaluation = score_outcomes([outcome_of(CLOSE, CLOSE_SETS)], ("car",), GEN1, GEN1_PROTOCOL)
    assert evaluation.protocol.tolerance_us == 0 and evaluation.protocol.hash != GEN1_PROTOCOL.hash
    assert "16.667 ms apart" in evaluation.notes[0]
    assert evaluation.scores.detections == 3 and evaluation.scores["AP"] == pytest.approx(1.0)


def test_labels_further_apart_leave_the_protocol_as_it_is(plain):
    assert plain.protocol is GEN1_PROTOCOL


# Scores, the operating point, and moments worth a look


def test_perfect_detections_score_1_and_are_best_above_their_lowest_score():
    outcome = drive(1, misses=0, false=0)
    perfect = replace(outcome, xywh=outcome.xywh.copy())
    for at, (end, class_id) in enumerate(zip(outcome.end_us, outcome.class_id, strict=True)):
        truth = outcome.truth[(outcome.truth.t_us == end - 1) & (outcome.truth.class_id == class_id)]
        nearest = np.argmin(np.abs(truth.xywh - outcome.xywh[at]).sum(axis=1))
        perfect.xywh[at] = truth.xywh[nearest]
    evaluation = score_outcomes([perfect], ("car", "pedestrian"), GEN1, named_protocol("none"))
    assert evaluation.scores["AP"] == pytest.approx(1.0)
    assert evaluation.operating_point.f1 == 1.0
    assert evaluation.operating_point.score == perfect.score.min()
    assert evaluation.scores.confusion.counts[:2, :2].sum() == len(outcome.truth)


@pytest.mark.parametrize("seed", range(3))
def test_the_operating_point_is_that_of_trying_every_threshold(seed):
    outcomes = [drive(seed), drive(seed + 10)]
    results = [outcome.result(GEN1_PROTOCOL) for outcome in outcomes]
    point = best_operating_point(results, 2, GEN1, GEN1_PROTOCOL)
    truths = score_outcomes(outcomes, ("car", "pedestrian"), GEN1, GEN1_PROTOCOL).scores.ground_truths
    tried = []
    for score in np.unique(np.concatenate([result.score for result in results])):
        right = wrong = 0
        for name in (0, 1):
            for result in results:
                kept = (result.score >= score) & (result.class_id == name)
                one = replace(result, **{c: getattr(result, c)[kept] for c in ("t_us", "xywh", "score", "class_id")})
                found, said = hits_by_hand(one, name)
                right, wrong = right + found, wrong + said - found
        tried.append((2 * right / (right + wrong + truths), float(score), right, wrong))
    f1, score, right, wrong = max(tried)
    assert (point.f1, point.score) == (pytest.approx(f1), score)
    assert point.precision == pytest.approx(right / (right + wrong)) and 0.5 < point.recall < 1


def hits_by_hand(result, name) -> tuple[int, int]:
    """Return (found, said) of a class under the gen1 protocol, by greedy matching in plain loops."""
    found = said = 0
    for t in np.unique(result.truth.t_us):
        if t <= 500_000:
            continue
        rows = np.flatnonzero((result.truth.t_us == t) & (result.truth.class_id == name))
        boxes = [xywh for xywh in result.truth.xywh[rows] if passes(xywh)]
        order = sorted(np.flatnonzero(result.t_us == t), key=lambda row: -result.score[row])
        for row in order:
            if not passes(result.xywh[row]):
                continue
            said += 1
            overlaps = [overlap(result.xywh[row], box) for box in boxes]
            if overlaps and max(overlaps) >= 0.5:
                boxes.pop(int(np.argmax(overlaps)))
                found += 1
    return found, said


def passes(xywh) -> bool:
    return float(np.hypot(xywh[2], xywh[3])) >= 30 and min(xywh[2:]) >= 10


def overlap(a, b) -> float:
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def test_samples_are_of_their_kind_and_come_once():
    outcomes = [drive(seed) for seed in range(4)]
    picked = pick_frames(outcomes, GEN1_PROTOCOL, 0.3)
    frames = [frame for some in picked.values() for frame in some]
    assert [len(picked[kind]) for kind in ("best", "worst", "silent")] == [3, 3, 3]
    assert len({(frame.recording, frame.t_us) for frame in frames}) == 9
    assert all(frame.t_us > 500_000 and frame.kind == kind for kind, some in picked.items() for frame in some)
    assert all(frame.silent.any() for frame in picked["silent"])
    assert min(frame.f1 for frame in picked["best"]) > max(frame.f1 for frame in picked["worst"])
    assert all((frame.score >= np.float32(0.3)).all() for frame in frames)
    assert all(frame.found.sum() == frame.hit.sum() for frame in frames)


# Classes


def test_classes_meet_by_name(dataset, plain):
    detector = tiny_on_gen1(classes=("tree", "pedestrian"))
    evaluation = evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL)
    assert evaluation.classes == ("pedestrian",)
    assert {int(c) for outcome in evaluation.outcomes for c in outcome.truth.class_id} == {0}
    assert sum(len(outcome.truth) for outcome in evaluation.outcomes) == 19
    assert {int(c) for outcome in evaluation.outcomes for c in outcome.class_id} == {0}
    assert any("does not know car" in note for note in evaluation.notes)
    assert any("does not label tree" in note for note in evaluation.notes)
    swapped = evaluate_detector(tiny_on_gen1(classes=("pedestrian", "car")), dataset, REGISTRY, GEN1_PROTOCOL)
    assert swapped.classes == ("car", "pedestrian")
    for one, other in zip(swapped.outcomes, plain.outcomes, strict=True):
        np.testing.assert_array_equal(np.bincount(one.class_id), np.bincount(other.class_id)[::-1])


def test_no_class_in_common_is_refused_before_any_work(dataset):
    with pytest.raises(EventDataError, match=r"\(tree, house\).*\(car, pedestrian\) have no name in common"):
        evaluate_detector(tiny_on_gen1(classes=("tree", "house")), dataset, REGISTRY, GEN1_PROTOCOL)


def test_a_set_without_labels_is_refused(tmp_path):
    paired(tmp_path / "test", "17-05-01_0_60", labels=labels_of([]))
    with pytest.raises(EventDataError, match=r"no labels of car, pedestrian in 1 recording\(s\) \(17-05-01_0_60\)"):
        evaluate_detector(tiny_on_gen1(), shapes_set(tmp_path, REGISTRY), REGISTRY, GEN1_PROTOCOL)


def test_representations_and_samples_without_boxes_are_refused(dataset):
    detector = tiny_on_gen1()
    with pytest.raises(EventDataError, match="samples without boxes"):
        evaluate_detector(detector, replace(dataset, is_classification=True), REGISTRY, GEN1_PROTOCOL)
    sequences = replace(dataset, recordings=(replace(dataset[0], is_sequence=True),))
    with pytest.raises(EventDataError, match="holds representations made elsewhere"):
        evaluate_detector(detector, sequences, REGISTRY, GEN1_PROTOCOL)
    with pytest.raises(EventDataError, match="limit of at least 1"):
        evaluate_detector(detector, dataset, REGISTRY, GEN1_PROTOCOL, limit=0)


def test_rows_cannot_be_told_apart_where_time_and_rows_are_mixed():
    detector = tiny_on_gen1()
    with ActivityMeter(detector) as meter, torch.no_grad():
        meter.expect(2)
        with pytest.raises(ValueError, match="first axis is not time and rows"):
            detector(torch.zeros(1, 3, 4, 48, 64), None)


def test_training_may_import_it_without_the_tools_of_reports():
    code = "import sys, snn_perception.evaluation.run; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert child.returncode == 0, child.stderr
    loaded = set(child.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "rich", "pycocotools", "PIL", "ray", "rclpy"}


def test_an_edited_plugin_makes_other_outcomes(tmp_path):
    plugin = tmp_path / "mine"
    plugin.mkdir()
    (plugin / "__init__.py").write_text("x = 1\n")
    sources = PluginSources((str(plugin),), ())
    before = sources.code()
    assert sources.code() == before != PluginSources((), ()).code()
    (plugin / "neuron.py").write_text("y = 2\n")
    assert sources.code() != before

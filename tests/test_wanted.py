"""Which detections are told, changed while a model serves: suppression, classes, their journal, and `replay`."""

import json
from dataclasses import replace

import pytest
import torch

from snn_perception import DetectionPipeline
from snn_perception.boxes import iou_matrix
from snn_perception.checkpoint import save_checkpoint
from snn_perception.cli.replay import main as replay_command
from snn_perception.errors import SpecError
from snn_perception.events.dat_writer import write_dat
from snn_perception.runtime.detections_file import read_detections
from snn_perception.runtime.repeat import Sources, repeat
from snn_perception.runtime.serving import Serving
from snn_perception.runtime.stream import StreamState
from snn_perception.runtime.wanted import AS_MODEL, class_ids
from tests.runtime_support import tiny_pipeline
from tests.test_serving import SIZE, STREAMS, pipeline

WINDOWS = STREAMS["left"][:8]
KNOWN = ("car", "pedestrian")


@pytest.fixture(scope="module")
def model(registry):
    return pipeline(registry).detector


def seen(detector, **options):
    """Return what a pipeline with these options tells of the windows."""
    pipe, stream, found = DetectionPipeline(detector, **options), StreamState(), []
    for window in WINDOWS:
        one, stream = pipe.step(window, stream)
        found.append(one)
    pipe.nms_threshold = AS_MODEL  # the detector is the next one's too
    return found


def worst_overlap(found):
    """Return the highest IoU of two boxes of one class, over all windows."""
    worst = 0.0
    for one in found:
        for number in range(len(KNOWN)):
            boxes = torch.from_numpy(one.xyxy[one.class_id == number])
            iou = iou_matrix(boxes, boxes).triu(1)
            worst = max(worst, float(iou.max()) if len(boxes) else 0.0)
    return worst


def test_suppression_is_as_strict_as_asked_for_and_the_models_own_comes_back(model):
    own = model.head.nms_threshold
    usual, strict, loose = (seen(model, nms_threshold=value) for value in (AS_MODEL, 0.1, 0.9))
    assert model.head.nms_threshold == own
    assert worst_overlap(strict) <= 0.1 + 1e-6 < worst_overlap(usual) <= own + 1e-6 < worst_overlap(loose) <= 0.9 + 1e-6
    assert seen(model) == usual and min(map(len, strict)) > 0


def test_classes_are_chosen_after_suppression_and_before_the_best_are_taken(model):
    everything = seen(model)
    assert {number for one in everything for number in one.class_id.tolist()} == {0, 1}
    for wanted, number in ((["pedestrian"], 1), (["1"], 1), (["car"], 0)):
        expected = [one[one.class_id == number] for one in everything]
        assert seen(model, classes=wanted) == expected and sum(map(len, expected)) > 0
        assert seen(model, classes=wanted, max_detections=3) == [one[:3] for one in expected]
    assert seen(model, classes=["car", "1"]) == everything == seen(model, classes=[])


@pytest.mark.parametrize(
    ("wanted", "numbers"), [([], ()), (["pedestrian", "0"], (0, 1)), (["car", "0", "car"], (0,)), (["1"], (1,))]
)
def test_classes_go_by_name_or_number(wanted, numbers):
    assert class_ids(wanted, KNOWN) == numbers


def test_a_name_that_looks_like_a_number_is_a_name():
    assert class_ids(["0"], ("1", "0")) == (1,)


@pytest.mark.parametrize("wanted", ["2", "-1", "01", "Car", "", "1.0"])
def test_an_unknown_class_is_refused_with_those_that_are_known(wanted):
    with pytest.raises(SpecError, match=f"does not know '{wanted}'.*; it knows 0 car, 1 pedestrian"):
        class_ids(["car", wanted], KNOWN)


def test_of_many_known_classes_some_are_named_and_the_nearest():
    with pytest.raises(SpecError, match=r"'class 77x' \(do you mean 'class 77'\?\); it knows 0 class 0, .*up to 79$"):
        class_ids(["class 77x"], [f"class {number}" for number in range(80)])


@pytest.mark.parametrize("value", [-0.5, 1.01, float("nan"), float("inf")])
def test_a_threshold_out_of_range_is_refused_and_changes_nothing(model, value):
    pipe = DetectionPipeline(model)
    with pytest.raises(SpecError, match=r"expected 0\.\.1, or -1"):
        pipe.nms_threshold = value
    assert pipe.nms_threshold == AS_MODEL


def test_a_head_without_suppression_refuses_a_threshold():
    pipe = tiny_pipeline()
    with pytest.raises(SpecError, match="'tiny' does not; leave nms_threshold at -1"):
        pipe.nms_threshold = 0.5
    assert pipe.nms_threshold == AS_MODEL
    pipe.nms_threshold = AS_MODEL


def changed_in_mid_stream(model, entries):
    """Return what a run tells whose threshold and classes change, both twice."""
    serving = Serving(DetectionPipeline(model), entries.append)
    serving.begin()
    changes = {
        2: ("nms_threshold", 0.1),
        3: ("classes", ["pedestrian"]),
        5: ("nms_threshold", -1.0),
        6: ("classes", []),
    }
    published = []
    for k, window in enumerate(WINDOWS):
        if k in changes:
            assert serving.set(*changes[k]) is None
        published.append(serving.window("left", window))
    return published


def test_what_is_told_changes_in_mid_stream_and_is_repeated(model):
    entries = []
    published = changed_in_mid_stream(model, entries)
    usual, strict = seen(model), seen(model, nms_threshold=0.1)
    few = seen(model, nms_threshold=0.1, classes=["pedestrian"])
    also_few = seen(model, classes=["pedestrian"])
    assert published == [*usual[:2], strict[2], *few[3:5], also_few[5], *usual[6:]]
    assert published != usual and few[3] != strict[3] and also_few[5] != few[5]
    told = [json.loads(json.dumps(entry.values)) for entry in entries]
    assert told[0]["nms_threshold"] == -1.0 and told[0]["classes"] == []
    entries = [replace(entry, values=values) for entry, values in zip(entries, told, strict=True)]  # as in the file
    again = repeat(entries, DetectionPipeline(model), Sources({"left": WINDOWS}, {}.get, {}.get))
    assert [one.detections for one in again] == published


def test_an_older_journal_that_does_not_tell_is_repeated(model):
    entries = []
    serving = Serving(DetectionPipeline(model, max_detections=20), entries.append)
    serving.begin()
    published = [serving.window("left", window) for window in WINDOWS]
    head = {name: value for name, value in entries[0].values.items() if name not in ("nms_threshold", "classes")}
    older = [replace(entries[0], values=head), *entries[1:]]
    again = repeat(older, DetectionPipeline(model), Sources({"left": WINDOWS}, {}.get, {}.get))
    assert [one.detections for one in again] == published


def test_a_model_that_lacks_a_wanted_class_or_a_threshold_does_not_take_over(model, registry):
    serving = Serving(DetectionPipeline(model))
    serving.set("classes", ["pedestrian"])
    other = pipeline(registry, seed=1, classes=("bus", "tram"))
    with pytest.raises(SpecError, match="does not know 'pedestrian'; it knows 0 bus, 1 tram"):
        serving.swap(other, 0, "other")
    assert not serving.is_swapping and serving.pipeline.detector is model
    serving.set("classes", ["1"])
    serving.swap(other, 0, "other")
    error = serving.set("classes", ["car"])
    assert "it knows 0 bus, 1 tram" in str(error) and not serving.is_swapping
    assert serving.pipeline.classes == ["car"], "the model in use knows it"


def test_replay_chooses_as_the_node_does(model, tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", model)
    write_dat(tmp_path / "scene.dat", [window.events for window in WINDOWS], SIZE)
    inputs = [str(tmp_path / "model.safetensors"), str(tmp_path / "scene.dat")]

    def told(*options):
        assert replay_command([*inputs, "--detections", str(tmp_path / "f.jsonl"), *options]) == 0
        return [line.detections for line in read_detections(tmp_path / "f.jsonl")]

    everything, strict, cars = told(), told("--nms-threshold", "0.1"), told("--classes", "car, 0")
    assert worst_overlap(strict) <= 0.1 + 1e-6 < worst_overlap(everything)
    assert [len(one) for one in cars] == [int((one.class_id == 0).sum()) for one in everything]
    assert 0 < sum(map(len, cars)) < sum(map(len, everything))
    assert replay_command([*inputs, "--classes", "cat"]) == 1

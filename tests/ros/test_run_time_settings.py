"""Suppression and classes changed on a node at work: what is published, what is refused and why, and the journal."""

import pytest
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from vision_msgs.msg import Detection2DArray

from snn_perception.checkpoint import save_checkpoint
from snn_perception.cli.replay import main as replay_command
from snn_perception.detector import build_preset
from snn_perception.events.bag_messages import EVENT_PACKET, parse_message
from snn_perception.events.bag_writer import write_bag
from snn_perception.runtime.detections_file import read_detections
from snn_perception.runtime.journal import read_journal
from tests.ros.test_detector_node import boxes, packets, play, refusal
from tests.runtime_support import TINY, tiny_detector

FIRST = 105  # packets of 5 ms: ten windows and a half


@pytest.fixture(scope="module")
def bus_checkpoint(tmp_path_factory, registry):
    """Return weights of a model that knows other classes."""
    path = tmp_path_factory.mktemp("models") / "bus.safetensors"
    save_checkpoint(path, build_preset("st_vgg_ssd_16", registry=registry, classes=["bus", "tram"]))
    return path


def change(b, **values):
    """Set parameters together, as the service of that name does; return the reason if they are refused."""
    client = b.peer.create_client(SetParametersAtomically, "/detector/set_parameters_atomically")
    b.spin_until(client.service_is_ready)
    wanted = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
    answer = client.call_async(SetParametersAtomically.Request(parameters=wanted))
    b.spin_until(answer.done)
    result = answer.result().result
    return "" if result.successful else result.reason


def classes_of(msg):
    return {found.results[0].hypothesis.class_id for found in msg.detections}


def test_classes_and_suppression_change_together_while_it_runs_and_the_run_is_repeated(bench, checkpoint, tmp_path):
    b = bench(journal=str(tmp_path / "run.jsonl"), score_threshold=0.3, stamp_source="sensor")
    found = b.listen(Detection2DArray, "detections")
    b.start()
    publisher, messages = b.publisher(), packets(1_000_000)
    play(b, publisher, messages[:FIRST])
    b.spin_until(lambda: len(found) == 10)
    assert change(b, classes=["pedestrian"], nms_threshold=0.0, max_detections=5) == ""
    play(b, publisher, messages[FIRST:])
    b.spin_until(lambda: len(found) >= 19)
    b.detector.trigger_deactivate()
    b.spin_until(lambda: len(found) >= 20)

    before, after = found[:10], found[10:]
    assert set().union(*map(classes_of, before)) == {"0", "1"} and max(len(msg.detections) for msg in before) > 5
    assert set().union(*map(classes_of, after)) == {"1"} and 2 <= max(len(msg.detections) for msg in after) <= 5
    for msg in after:
        assert not any(overlap(*pair) for pair in pairs(msg))
    assert any(overlap(*pair) for msg in before for pair in pairs(msg))

    entries = list(read_journal(tmp_path / "run.jsonl"))
    at = [entry.kind for entry in entries].index("set")
    changed = {entry.values["name"]: entry.values["value"] for entry in entries[at : at + 3]}
    assert changed == {"classes": ["pedestrian"], "nms_threshold": 0.0, "max_detections": 5}, "before one window"
    write_bag(tmp_path / "bag", (parse_message(serialize_message(msg), EVENT_PACKET) for msg in messages))
    inputs = [str(checkpoint), str(tmp_path / "bag"), "--journal", str(tmp_path / "run.jsonl")]
    assert replay_command([*inputs, "--detections", str(tmp_path / "again.jsonl")]) == 0
    again = [line.detections for line in read_detections(tmp_path / "again.jsonl")]
    assert [len(one) for one in again] == [len(msg.detections) for msg in found]
    for one, msg in zip(again, found, strict=True):
        width = (one.xyxy[:, 2].astype(float) - one.xyxy[:, 0]).tolist()
        assert [box[2] for box in boxes(msg)] == width
        assert [d.results[0].hypothesis.class_id for d in msg.detections] == [str(n) for n in one.class_id]


def pairs(msg):
    found = boxes(msg)
    return [(a, b) for k, a in enumerate(found) for b in found[k + 1 :]]


def overlap(a, b):
    """Return whether two boxes (centre and size) share an area that is more than rounding."""
    return all(abs(a[k] - b[k]) < (a[k + 2] + b[k + 2]) / 2 - 1e-3 for k in (0, 1))


def test_what_the_model_cannot_do_is_refused_and_nothing_of_it_is_taken(bench):
    b = bench()
    b.start()
    told = change(b, max_detections=3, classes=["car", "cat"])
    assert "classes: the model does not know 'cat'" in told and "it knows 0 car, 1 pedestrian" in told
    assert b.detector.get_parameter("max_detections").value == 100 == b.detector._settings["max_detections"]
    assert "nms_threshold must be within 0..1, or -1, got -0.5" in change(b, nms_threshold=-0.5)
    assert "out of range" in change(b, nms_threshold=1.5)
    assert "out of range" in change(b, nms_threshold=float("nan"))
    assert change(b, nms_threshold=0.2, classes=["1", "car"]) == "" == change(b, nms_threshold=-1.0, classes=[""])


def test_before_it_is_configured_anything_goes_and_then_the_model_decides(bench):
    b = bench(classes=["cat"])
    assert "does not know 'cat'" in refusal(b, b.detector.trigger_configure)
    del b.detector.get_logger
    assert change(b, classes=["1"], nms_threshold=0.25) == ""
    b.start()
    assert (b.detector._model.pipeline.classes, b.detector._model.pipeline.nms_threshold) == (["1"], 0.25)
    assert b.detector._model.pipeline.detector.head.nms_threshold == 0.25


def test_a_head_that_has_no_threshold_says_so(bench, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, tiny_detector())
    b = bench(checkpoint=str(path), plugin_paths=[str(TINY)], nms_threshold=0.4)
    assert "head that suppresses boxes" in refusal(b, b.detector.trigger_configure)
    del b.detector.get_logger
    assert change(b, nms_threshold=-1.0) == ""
    b.start()
    assert "'tiny' does not; leave nms_threshold at -1" in change(b, nms_threshold=0.4)


def test_a_model_without_a_wanted_class_is_refused_until_the_classes_go_with_it(bench, bus_checkpoint):
    b = bench(classes=["pedestrian"], swap_warm_ms=0)
    found = b.listen(Detection2DArray, "detections")
    b.start()
    told = change(b, checkpoint=str(bus_checkpoint))
    assert "does not know 'pedestrian'; it knows 0 bus, 1 tram; change classes first" in told
    assert change(b, checkpoint=str(bus_checkpoint), classes=[""]) == ""
    publisher, messages = b.publisher(), packets(1_000_000)
    for begin in range(0, 200, 20):  # the model is loaded in the background
        play(b, publisher, messages[begin : begin + 20])
        b.spin(0.3)
        if b.detector._model.checkpoint == str(bus_checkpoint):
            break
    assert b.detector._model.checkpoint == str(bus_checkpoint) and found
    assert "it knows 0 bus, 1 tram" in change(b, classes=["car"])
    assert change(b, classes=["tram"]) == ""

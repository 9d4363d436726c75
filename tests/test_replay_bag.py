"""``replay -o``: a bag with the events and the detections, as other readers see it."""

import json

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from snn_perception.checkpoint import save_checkpoint
from snn_perception.cli.replay import main
from snn_perception.data.shapes import MovingShapes
from snn_perception.errors import EventDataError
from snn_perception.events.bag_files import BagFiles
from snn_perception.events.bag_messages import EVENT_PACKET, POINT_CLOUD
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.point_packets import cloud_packets
from snn_perception.events.recording import open_recording
from snn_perception.events.rosbag2 import write_bag
from snn_perception.events.walk import EventWalk
from snn_perception.images.messages import IMAGE, serialize_image
from snn_perception.runtime.detection_messages import DETECTION_ARRAY, VISION_DEFINITIONS
from snn_perception.runtime.detections_file import read_detections
from snn_perception.runtime.replay import replay
from snn_perception.runtime.replay_bag import ReplayBag
from snn_perception.types import EventArray, RawImage
from tests.image_support import image_bag, small_detector
from tests.paths import ROOT, recording_path
from tests.runtime_support import SIZE, TINY, file_size_limit, tiny_detector, tiny_pipeline, tiny_registry

REGISTRY = tiny_registry()
EPOCH_NS = 1_700_000_000_000_000_000
SCENE = MovingShapes(SIZE, 200_000, seed=3, noise_hz=0)


pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Return the path of a DAT file of moving shapes."""
    path = tmp_path_factory.mktemp("recording") / "shapes.dat"
    write_dat(path, SCENE, SIZE)
    return path


@pytest.fixture(scope="module")
def camera_bag(tmp_path_factory):
    """Return the path of a bag as a camera's driver makes it, with stamps of a host's clock."""
    path = tmp_path_factory.mktemp("bag") / "camera"
    packets = packetize(SCENE, SIZE, interval_us=3_000, stamp_offset_ns=EPOCH_NS, seq=100, frame_id="front")
    write_bag(path, packets, "mcap", "/cam/events")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, tiny_detector())
    return path


def told(capsys, *arguments):
    """Return the JSON that the command prints."""
    code = main(["--plugin", str(TINY), *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def refused(capsys, *arguments) -> str:
    assert main(["--plugin", str(TINY), *map(str, arguments)]) == 1
    return capsys.readouterr().err


def by_rosbags(path):
    """Return [(topic, log time, message)] as rosbags reads the bag with its own definitions only."""
    with AnyReader([path]) as reader:
        return [
            (connection.topic, log_time, reader.deserialize(data, connection.msgtype))
            for connection, log_time, data in reader.messages()
        ]


def stored(path, topic):
    """Return [(log time, bytes)] of a topic."""
    found = []
    bag = BagFiles(path)
    bag.listener = lambda message: found.append((message.log_time_ns, bytes(message.data)))
    for _ in bag.read(topic, bytes):
        pass
    return found


def assert_same(messages, lines):
    """The messages hold, number for number, what the file of detections holds."""
    assert len(messages) == len(lines)
    for message, line in zip(messages, lines, strict=True):
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        assert stamp_ns == line.t_end_us * 1000
        boxes = [found.bbox for found in message.detections]
        x1, y1, x2, y2 = line.detections.xyxy.astype(np.float64).reshape(-1, 4).T
        assert [box.center.position.x for box in boxes] == ((x1 + x2) / 2).tolist()
        assert [box.center.position.y for box in boxes] == ((y1 + y2) / 2).tolist()
        assert [[box.size_x, box.size_y] for box in boxes] == np.stack([x2 - x1, y2 - y1], axis=1).tolist()
        best = [found.results[0].hypothesis for found in message.detections]
        assert [h.score for h in best] == line.detections.score.astype(np.float64).tolist()
        assert [h.class_id for h in best] == [str(number) for number in line.detections.class_id]
        assert all(found.header == message.header for found in message.detections)


@pytest.mark.parametrize("name", ["out.mcap", "out"])
def test_a_file_becomes_packets_and_detections_that_rosbags_reads(shapes, model, tmp_path, capsys, name):
    out, lines = tmp_path / name, tmp_path / "d.jsonl"
    result = told(capsys, model, shapes, "-o", out, "--detections", lines)
    messages = by_rosbags(out)
    expected = list(read_detections(lines))
    detections = [message for topic, _, message in messages if topic == "/detections"]
    assert_same(detections, expected)
    assert sum(len(message.detections) for message in detections) > 20, "a detector that sees nothing proves nothing"
    assert {topic for topic, _, _ in messages} == {"/events", "/detections"}
    assert result["files"]["bag"] == str(out)
    assert result["bag_messages"] == {"input": len(messages) - len(detections), "detections": len(detections)}
    # Each window's detections lie behind the packets that it is made of, and before the next window's.
    seen_us = 0
    for topic, log_time, message in messages:
        if topic == "/detections":
            assert log_time == message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert seen_us < log_time // 1000 <= seen_us + 4_000
        else:
            seen_us = log_time // 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "d.jsonl"])

    events = open_recording(shapes, REGISTRY).read()
    pieces = [piece.to_event_array() for _, piece in EventWalk(open_recording(out, REGISTRY), REGISTRY)]
    again = EventArray.concatenate(pieces, SIZE)
    for column in ("t", "x", "y", "p"):
        np.testing.assert_array_equal(getattr(again, column), getattr(events, column))


def test_replaying_the_bag_gives_the_same_detections(shapes, model, tmp_path, capsys):
    told(capsys, model, shapes, "-o", tmp_path / "out.mcap", "--detections", tmp_path / "a.jsonl")
    told(capsys, model, tmp_path / "out.mcap", "--detections", tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_part_holds_the_events_of_its_windows(shapes, model, tmp_path, capsys):
    told(capsys, model, shapes, "-o", tmp_path / "part", "--from-s", "0.05", "--to-s", "0.12", "--storage", "mcap")
    walk = EventWalk(open_recording(tmp_path / "part", REGISTRY), REGISTRY)
    t = np.concatenate([piece.to_event_array().t for _, piece in walk])
    whole = open_recording(shapes, REGISTRY).read().t
    np.testing.assert_array_equal(t, whole[(whole >= 50_000) & (whole < 120_000)])


@pytest.mark.parametrize("name", ["out.mcap", "out"])
def test_a_bags_messages_are_copied_byte_for_byte(camera_bag, model, tmp_path, capsys, name):
    result = told(
        capsys, model, camera_bag, "-o", tmp_path / name, "--events-topic", "/a/events", "--detections-topic", "/a/seen"
    )
    copied = stored(tmp_path / name, "/a/events")
    assert copied == stored(camera_bag, "/cam/events")
    assert result["bag_messages"]["input"] == len(copied) > 50
    log_times = [log_time for log_time, _ in copied]
    detections = [(log_time, m) for topic, log_time, m in by_rosbags(tmp_path / name) if topic == "/a/seen"]
    assert len(detections) == result["windows"]
    assert {m.header.frame_id for _, m in detections} == {"front"}
    # On the clock of the log: with the message that told that the window was over.
    ends = [EPOCH_NS + (m.header.stamp.sec * 10**9 + m.header.stamp.nanosec) for _, m in detections]
    for (log_time, _), end_ns in list(zip(detections, ends, strict=True))[:-1]:
        assert log_time in log_times and end_ns - 3_000_000 <= log_time <= end_ns


def test_a_real_recordings_messages_are_copied(model, tmp_path, capsys):
    recording = recording_path("evt3_triggers_640x480_a")
    told(capsys, model, recording, "-o", tmp_path / "out.mcap", "--max-windows", "12")
    source = open_recording(recording, REGISTRY)
    copied, whole = stored(tmp_path / "out.mcap", "/events"), stored(recording, source.topic)
    assert 0 < len(copied) < len(whole), "no more than was needed"
    assert copied == whole[: len(copied)]


def test_point_clouds_stay_point_clouds(model, tmp_path, capsys):
    write_bag(tmp_path / "clouds", cloud_packets(SCENE, SIZE, interval_us=3_000), topic="/points")
    told(capsys, model, tmp_path / "clouds", "-o", tmp_path / "out.mcap")
    assert stored(tmp_path / "out.mcap", "/events") == stored(tmp_path / "clouds", "/points")
    assert BagFiles(tmp_path / "out.mcap").topics() == {"/events": POINT_CLOUD, "/detections": DETECTION_ARRAY}


def test_images_of_a_bag_are_copied(tmp_path, capsys):
    from snn_perception.discovery import load_registry

    rng = np.random.default_rng(0)
    images = [
        RawImage(rng.integers(0, 256, 64 * 96 * 3).astype(np.uint8), "rgb8", 64, 96, 288, 10**9 * (n + 1), "eye")
        for n in range(3)
    ]
    source = image_bag(tmp_path / "images.db3", images, "/eye/image")
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(checkpoint, small_detector(load_registry(environment=False)))
    told(capsys, checkpoint, source, "-o", tmp_path / "out.mcap")
    assert [data for _, data in stored(tmp_path / "out.mcap", "/image")] == [serialize_image(i) for i in images]
    assert BagFiles(tmp_path / "out.mcap").topics()["/image"] == IMAGE
    seen = [m for topic, _, m in by_rosbags(tmp_path / "out.mcap") if topic == "/detections"]
    assert len(seen) == 3 and {m.header.frame_id for m in seen} == {"eye"}
    assert sum(len(m.detections) for m in seen) > 0


# Errors


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-o", "{tmp}/out.bag"], "ends in .mcap, or a folder"),
        (["-o", "{tmp}/here"], "exists already"),
        (["-o", "{tmp}/no/out.mcap"], "does not exist; make it first"),
        (["-o", "{tmp}/a", "--events-topic", "events"], "full topic name"),
        (["-o", "{tmp}/a", "--events-topic", "/x", "--detections-topic", "/x"], "same topic"),
        (["-o", "{tmp}/a.mcap", "--video", "{tmp}/a.mcap"], "named for both"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(shapes, model, tmp_path, capsys, options, expected):
    (tmp_path / "here").mkdir()
    message = refused(capsys, model, shapes, *(option.format(tmp=tmp_path) for option in options))
    assert expected in message and message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_bag_takes_nothing_into_itself(camera_bag, model, capsys):
    before = sorted(camera_bag.iterdir())
    assert "lies within the recording" in refused(capsys, model, camera_bag, "-o", camera_bag / "out.mcap")
    assert "is an input of this command" in refused(capsys, model, camera_bag, "-o", camera_bag)
    assert sorted(camera_bag.iterdir()) == before


@pytest.mark.parametrize("name", ["out.mcap", "out"])
def test_nothing_half_written_stays(shapes, tmp_path, name):
    recording, pipeline = open_recording(shapes, REGISTRY), tiny_pipeline()
    steps = replay(recording, pipeline, registry=REGISTRY)
    with pytest.raises(RuntimeError, match="the model failed"), ReplayBag(tmp_path / name, recording, 10_000) as bag:
        for step in steps:
            bag.write(step)
            if bag.detection_messages == 5:
                raise RuntimeError("the model failed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.mcap", "out"])
def test_a_full_disk_is_one_clear_error(shapes, model, tmp_path, capsys, name):
    with file_size_limit(20_000):
        message = refused(capsys, model, shapes, "-o", tmp_path / name)
    assert "cannot be written" in message
    assert list(tmp_path.iterdir()) == []


def test_times_that_evt3_cannot_tell_are_refused(model, tmp_path, capsys):
    far = EventArray.concatenate(list(SCENE), SIZE)
    late = EventArray(far.x, far.y, far.p, far.t + 2 * 24 * 3600 * 1_000_000, SIZE)
    recording = tmp_path / "late.h5"
    from snn_perception.events.hdf5_writer import write_hdf5

    write_hdf5(recording, [late], SIZE)
    assert "--rebase" in refused(capsys, model, recording, "-o", tmp_path / "out.mcap")
    assert [path.name for path in tmp_path.iterdir()] == ["late.h5"]


def test_a_bag_lets_go_of_the_recording(camera_bag, tmp_path):
    recording = open_recording(camera_bag, REGISTRY)
    with ReplayBag(tmp_path / "out.mcap", recording, 10_000) as bag:
        next(recording.packets())
        assert bag.input_messages == 1
    next(recording.packets())
    assert bag.input_messages == 1
    with pytest.raises(EventDataError, match="exists already"):
        ReplayBag(tmp_path / "out.mcap", recording, 10_000)


# Definitions


@pytest.mark.parametrize("name", VISION_DEFINITIONS)
def test_the_definitions_are_those_of_the_interface_package(name):
    file = ROOT / "interfaces" / "vision_msgs" / "msg" / f"{name.rpartition('/')[2]}.msg"
    assert get_types_from_msg(VISION_DEFINITIONS[name], name) == get_types_from_msg(file.read_text(), name)


def test_peers_know_the_types_by_these_hashes():
    from snn_perception.runtime.replay_bag import EVENT_PACKET_DEFINITION

    types = get_typestore(Stores.ROS2_JAZZY)
    for name, text in {EVENT_PACKET: EVENT_PACKET_DEFINITION, **VISION_DEFINITIONS}.items():
        types.register(get_types_from_msg(text, name))
    expected = {  # of the released packages
        EVENT_PACKET: "RIHS01_d6fa176260b1f37e5a40845305315e150a0f18191241eb64f407442aa29844aa",
        DETECTION_ARRAY: "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    }
    assert {name: types.hash_rihs01(name) for name in expected} == expected

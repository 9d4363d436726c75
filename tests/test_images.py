"""Camera images: their messages and pixels, windows of them in a pipeline, and recordings of them."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from rosbags.typesys import Stores, get_typestore

from snn_perception import DetectionPipeline
from snn_perception.checkpoint import save_checkpoint
from snn_perception.cli.replay import main
from snn_perception.data.image_inputs import ImageInputs
from snn_perception.errors import EventDataError, SpecError
from snn_perception.images.messages import IMAGE, parse_image, serialize_image
from snn_perception.images.pixels import ENCODINGS, MAX_PIXELS, pixels_of
from snn_perception.images.recording import ImageSource, holds_images, open_images
from snn_perception.images.stream import ImageStream
from snn_perception.runtime.replay import replay
from snn_perception.runtime.stream import Continuity, StreamState, continuity
from snn_perception.runtime.warmup import warm_up
from snn_perception.state import named_leaves
from snn_perception.types import EventArray, EventWindow, ImageWindow, SensorSize
from tests.bag_support import event_rows, packets, sqlite_file
from tests.image_support import PERIOD_NS, TOPIC, drive, image_bag, raw_image, scene, small_detector

KINDS = [(60, 80, "rgb8", 0), (90, 64, "bgr8", 5)]


@pytest.fixture(scope="module")
def pipeline(registry):
    return DetectionPipeline(small_detector(registry), registry=registry)


@pytest.fixture(scope="module")
def carrying(registry):
    return DetectionPipeline(small_detector(registry, state_policy="carry"), registry=registry)


def window(number=1, size=(60, 80), period_us=33_333):
    return ImageWindow(scene(*size, number), (number - 1) * period_us, number * period_us)


class TestPixels:
    @pytest.mark.parametrize("padding", [0, 3])
    @pytest.mark.parametrize("encoding", [e for e in ENCODINGS if e not in ("mono8", "8UC1")])
    def test_colours_come_out_red_first(self, encoding, padding):
        pixels = scene(20, 30, 1)
        found = pixels_of(raw_image(pixels, encoding, padding=padding))
        assert np.array_equal(found, pixels) and found.flags.c_contiguous and found.dtype == np.uint8

    @pytest.mark.parametrize("padding", [0, 1])
    @pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
    def test_grey_becomes_three_channels(self, encoding, padding):
        grey = scene(20, 30, 1)[..., 0]
        found = pixels_of(raw_image(grey, encoding, padding=padding))
        assert np.array_equal(found, np.stack([grey] * 3, axis=-1))

    def test_bytes_after_the_last_row_do_not_matter(self):
        raw = raw_image(scene(20, 30, 1))
        longer = replace(raw, data=np.concatenate([raw.data, np.zeros(9, np.uint8)]))
        assert np.array_equal(pixels_of(longer), pixels_of(raw))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"encoding": "bayer_rggb8"}, "'bayer_rggb8'; expected one of rgb8, bgr8.*image_proc"),
            ({"encoding": "16UC1"}, "'16UC1'; expected one of"),
            ({"encoding": "x" * 10_000}, "'x{40}'; expected"),
            ({"step": 89}, "rgb8 image of 30x20 px with a step of 89 bytes; a row has 90"),
            ({"height": 21}, r"expected 21 rows of 90 bytes, got 1,800 bytes; was it cut off\?"),
            ({"data": np.zeros(0, np.uint8)}, "got 0 bytes"),
            ({"width": 0}, "image of 0x20 px; expected sides of 1"),
            ({"height": 0}, "image of 30x0 px; expected sides of 1"),
            ({"width": 2**32 - 1, "height": 2**32 - 1, "step": 2**32 - 1}, "expected sides of 1"),
            ({"width": 16384, "height": 16384, "step": 3 * 16384}, f"at most {MAX_PIXELS:,} pixels"),
        ],
    )
    def test_what_cannot_be_is_refused(self, change, words):
        with pytest.raises(EventDataError, match=words) as error:
            pixels_of(replace(raw_image(scene(20, 30, 1)), **change))
        assert len(str(error.value)) < 300


class TestMessages:
    def test_bytes_are_those_of_another_implementation(self):
        """rosbags' own code reads what is written here, and its bytes are read here."""
        types = get_typestore(Stores.ROS2_JAZZY)
        raw = raw_image(scene(7, 5, 2), "bgra8", padding=3, stamp_ns=1_700_000_000_123_456_789)
        theirs = types.deserialize_cdr(serialize_image(raw), IMAGE)
        assert (theirs.height, theirs.width, theirs.encoding, theirs.step) == (7, 5, "bgra8", 23)
        assert theirs.header.stamp.nanosec == 123_456_789 and theirs.header.frame_id == "cam"
        assert np.array_equal(theirs.data, raw.data)
        back = parse_image(bytes(types.serialize_cdr(theirs, IMAGE)))
        assert np.array_equal(back.data, raw.data)
        for name in ("encoding", "height", "width", "step", "stamp_ns", "frame_id"):
            assert getattr(back, name) == getattr(raw, name)

    @pytest.mark.parametrize("length", [0, 3, 11, 30, 60, 200])
    def test_a_message_that_is_cut_off(self, length):
        whole = serialize_image(raw_image(scene(9, 9, 1)))
        with pytest.raises(EventDataError, match="the message is damaged"):
            parse_image(whole[:length])

    def test_a_length_that_is_a_lie_allocates_nothing(self):
        whole = bytearray(serialize_image(raw_image(scene(9, 9, 1))))
        at = len(whole) - 9 * 27 - 4
        whole[at : at + 4] = struct.pack("<I", 2**32 - 1)
        with pytest.raises(EventDataError, match="bytes announced"):
            parse_image(bytes(whole))


class TestContinuity:
    """Images come when the camera takes them: later by at most the gap follows, everything else is a reset."""

    def after(self, t_end_us, **change):
        state = StreamState(t_end_us=1_000_000, size=SensorSize(60, 80))
        image = ImageWindow(scene(60, 80, 1), t_end_us - 33_333, t_end_us)
        return continuity(replace(image, **change), state, stride_us=33_333, max_gap_us=500_000)

    @pytest.mark.parametrize("t_end_us", [1_000_001, 1_029_000, 1_033_333, 1_041_000, 1_500_000])
    def test_jitter_follows(self, t_end_us):
        assert self.after(t_end_us) is Continuity.FOLLOWS

    @pytest.mark.parametrize("t_end_us", [1_500_001, 1_000_000, 999_999, 0])
    def test_gaps_and_jumps_back_reset(self, t_end_us):
        assert self.after(t_end_us) is Continuity.RESET

    def test_another_size_or_a_marked_gap_resets(self):
        assert self.after(1_033_333, image=scene(80, 60, 1)) is Continuity.RESET
        assert self.after(1_033_333, after_gap=True) is Continuity.RESET
        assert continuity(window(), StreamState(), stride_us=1, max_gap_us=1) is Continuity.FIRST


class TestPipeline:
    def test_it_detects_in_pixels_of_each_image(self, pipeline):
        stream = StreamState()
        for number, size in enumerate([(60, 80), (90, 64), (200, 320), (96, 128)], start=1):
            found, stream = pipeline.step(window(number, size), stream)
            assert len(found) > 5 and found.t_us == number * 33_333
            assert (found.xyxy >= 0).all()
            assert found.xyxy[:, [0, 2]].max() <= size[1] and found.xyxy[:, [1, 3]].max() <= size[0]
            assert found.xyxy[:, 2].max() > 0.8 * size[1] and found.xyxy[:, 3].max() > 0.8 * size[0]
        assert (stream.windows, stream.gaps, stream.resets) == (4, 3, 3), "each has another size"

    def test_it_is_what_the_evaluation_of_image_sets_computes(self, pipeline, registry):
        """The same input and the same way back as of `evaluation.images`: one letterbox for each size."""
        inputs = ImageInputs(pipeline.detector.representation, pipeline.spec, registry)
        image = scene(70, 150, 3)
        raw, _ = pipeline.detector(inputs.tensor(image).unsqueeze(1))
        (there,) = pipeline.detector.head.decode(raw, inputs.size)
        found, _ = pipeline.step(ImageWindow(image, 0, 33_333), StreamState())
        assert np.array_equal(found.xyxy, inputs.letterbox(SensorSize(70, 150)).boxes_to_source(there.xyxy))
        assert np.array_equal(found.score, there.score) and len(found) > 5

    def test_state_is_carried_and_put_to_rest(self, carrying):
        windows = [window(number) for number in range(1, 7)]
        steps = list(replay(windows, carrying))
        fresh = [carrying.step(one, StreamState())[0] for one in windows]
        assert steps[0].detections == fresh[0] and len(fresh[0]) > 5
        assert all(step.detections != alone for step, alone in zip(steps[1:], fresh[1:], strict=True))
        assert (steps[-1].stream.gaps, steps[-1].stream.resets) == (0, 0)
        assert any(leaf.any() for _, leaf in named_leaves(steps[-1].stream.model))
        late = replace(windows[5], t_start_us=10_000_000, t_end_us=10_033_333)
        for jump in (late, replace(windows[5], t_start_us=0, t_end_us=33_333)):
            found, after = carrying.step(jump, steps[4].stream)
            assert (after.gaps, after.resets) == (1, 1)
            assert found.xyxy.tobytes() == fresh[5].xyxy.tobytes(), "from rest"

    def test_per_window_models_keep_nothing(self, pipeline):
        steps = list(replay([window(number) for number in range(1, 4)], pipeline))
        assert steps[-1].stream.model is None
        assert steps[-1].detections == pipeline.step(window(3), StreamState())[0]

    def test_events_and_images_are_not_taken_for_each_other(self, pipeline, registry):
        from snn_perception import build_preset

        events = DetectionPipeline(build_preset("st_vgg_ssd_16", registry=registry))
        assert pipeline.takes_images and not events.takes_images
        with pytest.raises(SpecError, match="the stream holds images, and the model's representation 'voxel_cube'"):
            events.step(window(), StreamState())
        one = np.zeros(1, np.uint16)
        moment = EventArray(one, one, np.ones(1, np.uint8), np.zeros(1, np.int64), SensorSize(640, 640))
        with pytest.raises(SpecError, match="the model sees images, got a window of events"):
            pipeline.step(EventWindow(moment, 0, 33_333), StreamState())

    def test_warming_up_goes_the_way_of_images(self, pipeline, monkeypatch):
        seen = []
        real = pipeline.step
        monkeypatch.setattr(pipeline, "step", lambda window, stream: seen.append(window.size) or real(window, stream))
        warm_up(pipeline)
        assert len(set(seen)) == 2 and pipeline.spec.sensor_size in seen


class TestStream:
    def test_windows_end_at_the_stamp(self):
        stream = ImageStream(33_333, name="left")
        made = stream.push(raw_image(scene(8, 8, 1), stamp_ns=5_000_000_999))
        assert (made.t_start_us, made.t_end_us, made.stream) == (5_000_000 - 33_333, 5_000_000, "left")

    def test_what_is_bad_is_counted_and_the_next_is_taken(self, caplog):
        stream = ImageStream(33_333)
        with pytest.raises(EventDataError):
            stream.push(replace(raw_image(scene(8, 8, 1)), step=1))
        for _ in range(2):
            stream.push(raw_image(scene(8, 8, 1)))
        assert (stream.images, stream.bad_images, stream.unstamped) == (2, 1, 2)
        assert caplog.text.count("has no time stamp") == 1


class TestRecordings:
    def test_a_bag_gives_the_images_that_went_in(self, tmp_path, caplog):
        images = drive(2, KINDS)
        broken = replace(images[1], step=2)
        path = image_bag(tmp_path / "bag.db3", [*images[:2], broken, *images[2:]])
        source = ImageSource(open_images(path), 33_333)
        windows = list(source)
        assert [w.t_end_us for w in windows] == [raw.stamp_ns // 1000 for raw in images]
        assert all(np.array_equal(w.image, scene(*w.image.shape[:2], k)) for k, w in enumerate(windows, start=1))
        assert source.stream.bad_images == 1 and "an image cannot be read" in caplog.text
        between = ImageSource(open_images(path), 33_333, start_us=66_000, stop_us=100_000)
        assert [w.t_end_us for w in between] == [66_666]

    def test_a_bag_in_which_no_image_can_be_read(self, tmp_path):
        path = image_bag(tmp_path / "bag.db3", [replace(raw, encoding="yuv422") for raw in drive(3, KINDS[:1])])
        with pytest.raises(EventDataError, match="no image can be read: image of encoding 'yuv422'"):
            list(ImageSource(open_images(path), 33_333))

    def test_a_folder_gives_its_files_in_order_at_a_rate(self, tmp_path):
        for number in (10, 9, 2):
            Pillow.fromarray(scene(20, 30, number)).save(tmp_path / f"frame{number}.png")
        (tmp_path / "notes.txt").write_text("no image")
        (tmp_path / "frame3.png").write_bytes(b"no image either")
        found = list(ImageSource(open_images(tmp_path, fps=8), 125_000))
        assert [(w.t_start_us, w.t_end_us) for w in found] == [(0, 125_000), (250_000, 375_000), (375_000, 500_000)]
        assert all(np.array_equal(w.image, scene(20, 30, k)) for w, k in zip(found, (2, 9, 10), strict=True))

    def test_what_holds_no_images_is_told(self, tmp_path):
        events = sqlite_file(
            tmp_path / "events.db3", {"/e": "event_camera_msgs/msg/EventPacket"}, event_rows(packets(3), "/e")
        )
        assert not holds_images(events) and not holds_images(tmp_path)
        with pytest.raises(EventDataError, match="expected a topic of type sensor_msgs/msg/Image; topics: /e"):
            open_images(events)
        with pytest.raises(EventDataError, match="expected images: a ROS 2 bag"):
            open_images(tmp_path / "..")
        with pytest.raises(EventDataError, match="no such file or folder"):
            open_images(tmp_path / "nothing")

    def test_the_topic_is_chosen(self, tmp_path):
        rows = [(topic, 1, serialize_image(raw)) for topic, raw in zip(("/a", "/b"), drive(2, KINDS[:1]), strict=True)]
        path = sqlite_file(tmp_path / "bag.db3", {"/a": IMAGE, "/b": IMAGE}, rows)
        with pytest.raises(EventDataError, match="several topics hold images; choose one: /a, /b"):
            open_images(path)
        assert open_images(path, topic="/b").first.stamp_ns == 2 * PERIOD_NS
        with pytest.raises(EventDataError, match="no images on topic '/c'"):
            open_images(path, topic="/c")


class TestReplay:
    """The command over a bag and over a folder of the same images."""

    @pytest.fixture(scope="class")
    def checkpoint(self, tmp_path_factory, pipeline):
        path = tmp_path_factory.mktemp("model") / "model.safetensors"
        save_checkpoint(path, pipeline.detector)
        return path

    def told(self, capsys, *arguments):
        assert main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def test_a_bag(self, checkpoint, pipeline, tmp_path, capsys):
        path = image_bag(tmp_path / "bag.db3", drive(2, KINDS))
        lines, video = tmp_path / "found.jsonl", tmp_path / "found.gif"
        told = self.told(capsys, checkpoint, path, "--detections", lines, "--video", video, "--topic", TOPIC)
        assert told["windows"] == 4 and told["losses"] == {"bad_images": 0} and told["resets"] == 1
        assert told["recording"] | {"path": ""} == {
            "path": "", "format": "rosbag2", "encoding": "rgb8", "width": 80, "height": 60,
        }  # fmt: skip
        expected = [step.detections for step in replay(path, pipeline)]
        rows = [json.loads(line) for line in lines.read_text().splitlines()]
        assert [np.array(row["xyxy"], np.float32).tobytes() for row in rows] == [d.xyxy.tobytes() for d in expected]
        assert sum(told["detections"].values()) == sum(map(len, expected)) > 20
        assert video.stat().st_size > 1000

    def test_a_folder_equals_a_bag_of_the_same_images(self, checkpoint, tmp_path, capsys):
        folder = tmp_path / "frames"
        folder.mkdir()
        images = [raw_image(scene(60, 80, n), stamp_ns=n * 40_000_000) for n in (1, 2, 3)]
        for number in (1, 2, 3):
            Pillow.fromarray(scene(60, 80, number)).save(folder / f"{number}.png")
        bag = image_bag(tmp_path / "bag.db3", images)
        files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
        self.told(capsys, checkpoint, folder, "--fps", "25", "--detections", files[0])
        self.told(capsys, checkpoint, bag, "--detections", files[1])
        assert files[0].read_bytes() == files[1].read_bytes() and files[0].stat().st_size > 1000

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--size", "80x60"], "--size is for recordings of events; leave it out"),
            (["--drop-duplicates"], "--drop-duplicates is for recordings of events"),
            (["--from-s", "90", "--to-s", "91"], "no image lies in the span asked for"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, checkpoint, tmp_path, capsys, arguments, words):
        path = image_bag(tmp_path / "bag.db3", drive(2, KINDS[:1]))
        assert main([str(checkpoint), str(path), *arguments]) == 1
        assert words in capsys.readouterr().err

    def test_a_model_and_a_recording_that_do_not_fit(self, checkpoint, tmp_path, capsys):
        images = image_bag(tmp_path / "images.db3", drive(2, KINDS[:1]))
        assert main(["st_vgg_ssd_16", str(images)]) == 1
        assert (
            "holds images, and model 'st_vgg_ssd_16' sees events; choose a model for images" in capsys.readouterr().err
        )
        kind = "event_camera_msgs/msg/EventPacket"
        events = sqlite_file(tmp_path / "events.db3", {"/e": kind}, event_rows(packets(3), "/e"))
        assert main([str(checkpoint), str(events)]) == 1
        assert "expected a topic of type sensor_msgs/msg/Image" in capsys.readouterr().err


def test_the_small_model_is_not_blind(pipeline):
    """Another image gives other boxes: without that, equal detections would prove nothing."""
    torch.manual_seed(0)
    first, second = (pipeline.step(window(number), StreamState())[0] for number in (1, 5))
    assert first.xyxy.tobytes() != second.xyxy.tobytes() and len(first) > 5

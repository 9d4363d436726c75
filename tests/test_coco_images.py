"""Image sets in COCO's format: what is read, what is refused, and scores that are pycocotools' own."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from snn_perception import build_preset
from snn_perception.data.dataset import open_dataset
from snn_perception.data.image_inputs import ImageInputs
from snn_perception.data.images import read_image
from snn_perception.errors import EventDataError, SnnPerceptionError, SpecError
from snn_perception.evaluation.coco import STATS
from snn_perception.evaluation.outcome import RecordingOutcome
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.evaluation.run import evaluate_detector
from snn_perception.testing import wake
from snn_perception.training.images import boxes_to_find
from snn_perception.types import Detections, SensorSize
from tests.coco_support import (
    CATEGORY_IDS,
    CLASSES,
    annotation,
    annotations_of,
    categories,
    write_annotations,
    write_set,
)

SMALL = {"classes": CLASSES, "network_size": [64, 64], "width_factor": 0.0625, "depth_factor": 0.1}


@pytest.fixture
def root(tmp_path):
    return write_set(tmp_path / "set", images=4)


def opened(root, registry, split="train", **options):
    return open_dataset(f"coco:{root}", split, registry, **options)


def rewrite(root, change) -> None:
    content = annotations_of(root)
    change(content)
    write_annotations(root, "train", content["images"], content["annotations"], categories=content["categories"])


class TestReading:
    def test_images_and_boxes_are_those_of_the_file(self, root, registry):
        data = opened(root, registry)
        content = annotations_of(root)
        assert data.holds_images and data.classes == CLASSES and len(data) == 4
        for image, listed in zip(data, content["images"], strict=True):
            assert image.name == listed["file_name"][:-4]
            assert image.size == SensorSize(listed["height"], listed["width"])
            own = [one for one in content["annotations"] if one["image_id"] == listed["id"]]
            labels = image.labels()
            assert labels.xywh.tolist() == [one["bbox"] for one in own]
            assert labels.class_id.tolist() == [CATEGORY_IDS.index(one["category_id"]) for one in own]
            pixels = image.image()
            assert pixels.dtype == np.uint8 and pixels.shape == (listed["height"], listed["width"], 3)
            for (x, y, w, h), k in zip(labels.xywh.astype(int).tolist(), labels.class_id.tolist(), strict=True):
                inside = pixels[y : y + h, x : x + w].reshape(-1, 3)
                assert (inside.argmax(axis=1) == (0, 2)[k]).all(), "red is the first channel"

    def test_classes_are_numbered_in_the_order_of_the_file(self, root, registry):
        """Not by their ids, which have gaps, nor sorted."""
        rewrite(root, lambda content: content["categories"].reverse())
        data = opened(root, registry)
        assert data.classes == CLASSES[::-1]
        assert data[0].labels().class_id.tolist() == [1, 0]

    def test_the_classes_of_the_presets_are_in_the_order_of_coco(self):
        classes = build_preset("spikeyolo_n_coco", seed=0).spec.classes
        assert len(classes) == 80
        assert [classes[k] for k in (0, 10, 11, 12, 24, 26, 79)] == [
            "person",
            "fire hydrant",
            "stop sign",
            "parking meter",
            "backpack",
            "handbag",
            "toothbrush",
        ]

    def test_a_split_is_named_whole_or_by_its_beginning(self, root, registry):
        assert len(opened(root, registry, "train2017")) == len(opened(root, registry)) == 4
        path = root / "annotations" / "instances_train2014.json"
        path.write_text((root / "annotations" / "instances_train2017.json").read_text())
        with pytest.raises(EventDataError, match="several splits begin with 'train'; give one of train2014, train2017"):
            opened(root, registry)
        assert len(opened(root, registry, "train2017")) == 4
        with pytest.raises(EventDataError, match=r"nothing to use in split 'val'.*annotations/instances_val\*\.json"):
            opened(root, registry, "val")

    def test_images_may_lie_below_a_folder_of_images(self, root, registry):
        (root / "images").mkdir()
        (root / "train2017").rename(root / "images" / "train2017")
        assert opened(root, registry)[0].image().any()

    def test_limit_and_images_without_boxes(self, tmp_path, registry):
        data = opened(write_set(tmp_path / "set", images=5, empty=2), registry, limit=4)
        assert [len(image.labels()) for image in data] == [2, 2, 2, 0]
        assert data.report.left_out == ("1 beyond the limit of 4",)

    def test_crowds_are_no_targets_and_boxes_are_cut(self, root, registry):
        def change(content):
            size = content["images"][0]
            content["annotations"][:] = [
                annotation(1, 0, 3, [-10, 5, 30, 20]),
                annotation(2, 0, 91, [0, 0, 50, 50], iscrowd=1),
                annotation(3, 0, 91, [10, 10, 0, 8]),
                annotation(4, 0, 91, [size["width"] - 8, 5, 30, 20]),
            ]

        rewrite(root, change)
        image = opened(root, registry)[0]
        assert len(image.labels()) == 4 and image.labels().crowds.tolist() == [False, True, False, False]
        found = boxes_to_find(image)
        assert found.xyxy.tolist() == [[0, 5, 20, 25], [image.size.width - 8, 5, image.size.width, 25]]
        assert found.class_id.tolist() == [0, 1]

    def test_grey_and_palette_images_have_three_channels(self, tmp_path):
        grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
        Image.fromarray(grey).save(tmp_path / "grey.png")
        assert np.array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))
        Image.fromarray(grey).convert("P").save(tmp_path / "palette.gif")
        assert read_image(tmp_path / "palette.gif").shape == (8, 8, 3)

    def test_an_image_on_its_side_is_turned_where_its_annotations_are_upright(self, tmp_path):
        lying = np.zeros((4, 8, 3), np.uint8)
        lying[0] = 200
        exif = Image.Exif()
        exif[0x0112] = 6  # turn right
        Image.fromarray(lying).save(tmp_path / "lying.png", exif=exif)
        assert np.array_equal(read_image(tmp_path / "lying.png", SensorSize(4, 8)), lying)
        upright = read_image(tmp_path / "lying.png", SensorSize(8, 4))
        assert upright.shape == (8, 4, 3) and (upright[:, -1] == 200).all() and not upright[:, :-1].any()


class TestFaults:
    def test_a_missing_image_is_left_out_and_told(self, root, registry):
        (root / "train2017" / "000000000001.png").unlink()
        data = opened(root, registry)
        assert len(data) == 3 and data.report.missing == ("image 000000000001.png",)
        kept = opened(root, registry, skip_faulty=False)
        with pytest.raises(EventDataError, match="000000000001.png: no such image; is the set unpacked whole"):
            kept[1].image()

    @pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
    def test_a_file_that_is_no_image(self, root, registry, content):
        path = root / "train2017" / "000000000000.png"
        path.write_bytes(content)
        with pytest.raises(EventDataError, match="000000000000.png: (expected an image|damaged image)"):
            opened(root, registry)[0].image()

    def test_an_image_that_ends_early(self, root, registry):
        path = root / "train2017" / "000000000000.png"
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(EventDataError, match="000000000000.png: damaged image"):
            opened(root, registry)[0].image()

    def test_an_image_of_another_size(self, root, registry):
        rewrite(root, lambda content: content["images"][0].update(width=77))
        with pytest.raises(EventDataError, match="expected 77x110 px, as its annotations say, got 88x110; wrong set"):
            opened(root, registry)[0].image()

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            (
                lambda c: c["annotations"][1].update(category_id=4),
                "annotation 2: expected the category_id of a category",
            ),
            (lambda c: c["annotations"][1].update(image_id=-1), "annotation 2: expected the image_id of an image"),
            (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"annotation 1: expected a bbox .* got \[1, 2, 3\]"),
            (lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4]), "annotation 1: expected a bbox"),
            (lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 4]), "annotation 1: expected a bbox"),
            (lambda c: c["images"][0].pop("height"), r"image 0 \('000000000000.png'\): height must be"),
            (lambda c: c["images"][0].update(file_name="../x.png"), "expected a file_name inside the set's folder"),
            (lambda c: c["images"][0].update(id=501), "every image to have an id of its own"),
            (lambda c: c["images"][0].pop("id"), "expected every image to have an id, got None"),
            (lambda c: c["categories"][0].update(name="blue"), "categories with names of their own"),
            (lambda c: c["categories"].clear(), "categories with names of their own"),
            (lambda c: c["images"].insert(0, 5), "expected a list of objects under 'images'"),
        ],
    )
    def test_annotations_that_contradict_themselves(self, root, registry, change, fault):
        rewrite(root, change)
        with pytest.raises(EventDataError, match=fault) as error:
            opened(root, registry)
        assert "instances_train2017.json" in str(error.value) and "\n" not in str(error.value)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"images": []}', "\x00\x01"])
    def test_a_file_that_holds_no_annotations(self, root, registry, text):
        (root / "annotations" / "instances_train2017.json").write_text(text)
        with pytest.raises(EventDataError, match="instances_train2017.json: expected"):
            opened(root, registry)

    def test_events_and_images_are_not_taken_for_each_other(self, root, registry):
        data = opened(root, registry)
        with pytest.raises(EventDataError, match="is an image and holds no events"):
            data[0].open(registry)
        events = build_preset("st_vgg_ssd_16", registry=registry, classes=CLASSES)
        with pytest.raises(SpecError, match="the data set holds images, and the model's representation 'voxel_cube'"):
            evaluate_detector(events, data, registry, named_protocol("coco"))


class TestScores:
    """Detections made up from the labels, so that there is something to score, against pycocotools itself."""

    def test_equal_those_of_pycocotools(self, tmp_path, registry, monkeypatch):
        root = write_set(tmp_path / "set", images=12, empty=3)
        content = annotations_of(root)
        rng = np.random.default_rng(3)
        for one in content["annotations"]:
            one["area"] = one["area"] * float(rng.uniform(0.3, 1))  # of the outline: other area ranges than the box
        content["annotations"] += [
            annotation(900, 0, CATEGORY_IDS[0], [0, 0, 80, 100], iscrowd=1),
            annotation(901, 5, CATEGORY_IDS[1], [10, 5, 60, 60], iscrowd=1),
        ]
        path = write_annotations(root, "train", content["images"], content["annotations"], categories=categories())
        detector = build_preset("spikeyolo_s_coco", registry=registry, **SMALL)
        made_up = Answers(detector, content, rng)
        monkeypatch.setattr(detector, "head", made_up)
        found = evaluate_detector(detector, opened(root, registry), registry, named_protocol("coco"))
        expected = pycocotools_stats(path, found.outcomes, content)
        ours = [found.scores[stat] for stat in STATS]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
        assert 0.1 < ours[0] < 0.9 and found.scores.images == 12 and found.scores.empty_frames == 3
        assert found.scores.ground_truths == 18 and len(set(ours[3:6])) == 3
        truths = sum(int(k) for k in found.scores.confusion.counts[:2].sum(axis=1))
        assert truths == 18, "crowds are nothing to be found"

    def test_outcomes_come_back_from_a_file(self, root, registry):
        rewrite(root, lambda content: content["annotations"][0].update(iscrowd=1, area=7.5))
        detector = build_preset("spikeyolo_s_coco", registry=registry, **SMALL)
        found = evaluate_detector(detector, opened(root, registry), registry, named_protocol("coco"), measure=True)
        for outcome in found.outcomes:
            again = RecordingOutcome.from_dict(json.loads(json.dumps(outcome.as_dict())))
            assert again.truth.area.tolist() == outcome.truth.area.tolist() and len(outcome.score)
            assert again.truth.is_crowd.tolist() == outcome.truth.is_crowd.tolist()
        assert found.outcomes[0].truth.is_crowd.tolist() == [True, False]
        assert found.activity.windows == 4

    def test_rows_of_a_batch_do_not_mix(self, root, registry):
        detector = build_preset("spikeyolo_s_coco", registry=registry, **SMALL).double()
        data, protocol = opened(root, registry), named_protocol("coco")
        inputs = ImageInputs(detector.representation, detector.spec, registry)
        wake(detector.backbone, torch.stack([inputs.tensor(image.image()) for image in data], dim=1).double())
        one, four = (evaluate_detector(detector, data, registry, protocol, rows=rows) for rows in (1, 4))
        for a, b in zip(one.outcomes, four.outcomes, strict=True):
            np.testing.assert_allclose(a.xywh, b.xywh, atol=1e-3)
            np.testing.assert_allclose(a.score, b.score, atol=1e-6)
        assert len({float(score) for outcome in one.outcomes for score in outcome.score}) > 5

    def test_figures_do_not_depend_on_the_threads_that_read(self, root, registry, monkeypatch):
        detector = build_preset("spikeyolo_s_coco", registry=registry, **SMALL)
        found = []
        for threads in (1, 4):
            monkeypatch.setattr("snn_perception.evaluation.job.reading_threads", lambda most, n=threads: min(n, most))
            found.append(
                evaluate_detector(detector, opened(root, registry), registry, named_protocol("coco"), rows=3).outcomes
            )
        for a, b in zip(*found, strict=True):
            assert a.name == b.name and len(a.score)
            assert np.array_equal(a.xywh, b.xywh) and np.array_equal(a.score, b.score)

    def test_without_any_box_there_is_nothing_to_compare(self, root, registry):
        rewrite(root, lambda content: content["annotations"].clear())
        detector = build_preset("spikeyolo_s_coco", registry=registry, **SMALL)
        with pytest.raises(SnnPerceptionError, match="no labels of red, blue in 4 recording"):
            evaluate_detector(detector, opened(root, registry), registry, named_protocol("coco"))


class Answers(nn.Module):
    """A head that says what it has been told: the labels, some of them shifted, and false alarms."""

    def __init__(self, detector, content, rng):
        super().__init__()
        self.state = None
        self.answers = []
        size = detector.representation.output_size
        for image in content["images"]:
            scale = min(size.width / image["width"], size.height / image["height"])
            sides = np.ceil(np.array([image["width"], image["height"]]) * scale - 1e-9)
            pad = (np.array([size.width, size.height]) - sides) // 2
            ratio = sides / [image["width"], image["height"]]
            rows = []
            for one in content["annotations"]:
                if one["image_id"] == image["id"]:
                    x, y, w, h = one["bbox"]
                    for _ in range(2):
                        corner = np.array([x, y, x + w, y + h]) + rng.normal(size=4) * 4
                        rows.append((corner, rng.uniform(), CATEGORY_IDS.index(one["category_id"])))
            for _ in range(3):
                low = rng.uniform(0, 50, 2)
                rows.append((np.concatenate([low, low + rng.uniform(5, 40, 2)]), rng.uniform(), int(rng.integers(2))))
            rows.sort(key=lambda row: -row[1])
            xyxy = np.array([row[0] for row in rows]) * np.tile(ratio, 2) + np.tile(pad, 2)
            self.answers.append(
                Detections(
                    xyxy.astype(np.float32),
                    np.array([row[1] for row in rows], np.float32),
                    np.array([row[2] for row in rows], np.int64),
                )
            )

    def forward(self, maps, state=None):
        return torch.zeros(maps[0].shape[1]), None

    def decode(self, raw, size):
        return [self.answers.pop(0) for _ in raw]


def pycocotools_stats(path, outcomes, content) -> list[float]:
    ids = {image["file_name"][:-4]: image["id"] for image in content["images"]}
    rows = [
        {
            "image_id": ids[outcome.name],
            "category_id": CATEGORY_IDS[int(k)],
            "bbox": box.astype(np.float64).tolist(),
            "score": float(score),
        }
        for outcome in outcomes
        for box, score, k in zip(outcome.xywh, outcome.score, outcome.class_id, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluator = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats.tolist()

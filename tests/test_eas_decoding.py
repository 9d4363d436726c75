"""The last steps of EAS-SNN's head, on outputs made by hand: scores, boxes, suppression."""

import math

import numpy as np
import pytest
import torch
from snn_perception_plugins.eas_snn import decoding
from snn_perception_plugins.eas_snn.points import Points, decode_boxes

from snn_perception.boxes import class_wise_nms, cxcywh_to_xyxy, iou_matrix
from snn_perception.errors import PluginError
from snn_perception.types import FeatureInfo, SensorSize

SIZE = SensorSize(64, 96)
FEATURES = FeatureInfo((8, 16, 32), (8, 16, 32))


@pytest.fixture
def head(registry):
    torch.manual_seed(0)
    return registry.build("head", "yolox", FEATURES, 2, registry.factory("neuron", "plif")).double().eval()


@pytest.fixture
def raw():
    """One image without an object; classes and objectness low everywhere."""
    levels = [torch.zeros(1, 7, 64 // s, 96 // s, dtype=torch.float64) for s in (8, 16, 32)]
    for level in levels:
        level[:, 4:] = -20.0
    return tuple(levels)


def put(raw, level, row, column, *, box=(0.0, 0.0, 0.0, 0.0), objectness=9.0, classes=(9.0, -20.0)):
    raw[level][0, :, row, column] = torch.tensor([*box, objectness, *classes], dtype=torch.float64)


def test_before_training_scores_are_low(head):
    maps = [torch.zeros(1, 1, c, 4, 4, dtype=torch.float64) for c in FEATURES.channels]
    raw, _ = head(maps)
    for level in raw:
        torch.testing.assert_close(level[:, 4:].sigmoid(), torch.full_like(level[:, 4:], 0.01), rtol=0.5, atol=0)


def test_where_a_box_lies(head, raw):
    put(raw, 1, 2, 3, box=(0.5, 0.25, math.log(2), math.log(0.5)), classes=(-20.0, 4.0), objectness=2.0)
    (found,) = head.decode(raw, SIZE)
    # stride 16: centre (3.5 * 16, 2.25 * 16), sides 32 and 8
    np.testing.assert_allclose(found.xyxy, [[56 - 16, 36 - 4, 56 + 16, 36 + 4]], rtol=1e-6)
    np.testing.assert_allclose(found.score, [1 / (1 + math.exp(-2.0)) / (1 + math.exp(-4.0))], rtol=1e-6)
    assert found.class_id.tolist() == [1]


def test_boxes_are_cut_to_the_input_and_finite(head, raw):
    put(raw, 0, 0, 0, box=(0.0, 0.0, 1000.0, 1000.0))
    (found,) = head.decode(raw, SIZE)
    assert found.xyxy.tolist() == [[0, 0, 96, 64]]


def test_a_score_at_the_threshold_counts(head, raw):
    put(raw, 0, 0, 0, objectness=0.0, classes=(0.0, -20.0))
    head.score_threshold = 0.25
    assert len(head.decode(raw, SIZE)[0]) == 1
    head.score_threshold = 0.2500001
    assert len(head.decode(raw, SIZE)[0]) == 0


def test_suppression_within_a_class(head, raw):
    put(raw, 2, 0, 0, objectness=3.0)
    put(raw, 2, 0, 1, box=(-0.9, 0.0, 0.0, 0.0), objectness=2.0)
    put(raw, 2, 1, 1, box=(-0.95, -1.0, 0.0, 0.0), objectness=1.0, classes=(-20.0, 9.0))
    (found,) = head.decode(raw, SIZE)
    assert found.class_id.tolist() == [0, 1], "the second overlaps the first, of its class, by more than 0.65"
    head.nms_threshold = 0.95
    assert len(head.decode(raw, SIZE)[0]) == 3
    head.max_detections = 2
    assert head.decode(raw, SIZE)[0].class_id.tolist() == [0, 0]


def test_an_empty_image_gives_nothing(head, raw):
    (found,) = head.decode(raw, SIZE)
    assert len(found) == 0


@pytest.mark.parametrize("most", [5, 1000])
def test_suppression_leaves_the_best_of_each_class(most):
    generator = torch.Generator().manual_seed(3)
    row = torch.randn(300, 9, generator=generator, dtype=torch.float64)
    points = Points(torch.randint(0, 6, (300, 2), generator=generator).double(), torch.full((300,), 8.0))
    candidates = decoding.candidates(row, points, 0.0)
    assert len(candidates) == 300
    boxes = cxcywh_to_xyxy(decode_boxes(row[:, :4], points))
    score = row[:, 4].sigmoid() * row[:, 5:].sigmoid().max(1).values
    expected = class_wise_nms(boxes, score, row[:, 5:].argmax(1), 0.3)[:most]
    found = decoding.suppressed(candidates, 0.3, most)
    assert len(found) == min(most, len(expected)) and len(expected) < 300
    torch.testing.assert_close(found.xyxy, boxes[expected])
    torch.testing.assert_close(found.score, score[expected])
    rivals = (iou_matrix(found.xyxy, found.xyxy) > 0.3) & (found.class_id[:, None] == found.class_id[None])
    assert rivals.sum() == len(found), "a box overlaps with itself alone"


@pytest.mark.parametrize("options", [{"score_threshold": 1.0}, {"nms_threshold": -0.1}, {"max_detections": 0}])
def test_options_are_checked(options, registry):
    head = registry.find("head", "yolox")
    assert options.keys() <= head.component.options().keys()
    with pytest.raises(PluginError, match=next(iter(options))):
        registry.build("head", "yolox", FEATURES, 2, registry.factory("neuron", "plif"), **options)

"""The SSD head: default boxes, coder, matcher, losses and post-processing."""

import numpy as np
import pytest
import torch
from snn_perception_plugins.ssd import SSDHead, coder
from snn_perception_plugins.ssd.anchors import BoxShapes, default_boxes
from snn_perception_plugins.ssd.losses import Criterion, GroundTruth, detection_loss, focal_loss
from snn_perception_plugins.ssd.matching import match

from snn_perception.errors import PluginError, SpecError
from snn_perception.types import Detections, FeatureInfo, SensorSize, Targets

SHAPES = BoxShapes(((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)), 0.05, 0.80)
GEN1_GRIDS = ((30, 38), (15, 19), (8, 10), (4, 5), (2, 3), (1, 2))
GEN1 = SensorSize(240, 304)
FEATURES = FeatureInfo((3, 4), (8, 16))
SIZE = SensorSize(32, 48)


def small_head(**options) -> SSDHead:
    torch.manual_seed(0)
    options = {"aspect_ratios": ((2,), (2, 3)), **options}
    return SSDHead(FEATURES, 2, lambda: None, **options).double().eval()


def feature_maps(rows: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    grids = ((4, 6), (2, 3))
    return [
        (torch.rand(1, rows, channels, *grid, generator=generator) < 0.3).double()
        for channels, grid in zip(FEATURES.channels, grids, strict=True)
    ]


def targets(*boxes, classes=None) -> Targets:
    ids = classes or [0] * len(boxes)
    return Targets(np.array(boxes, np.float32).reshape(-1, 4), np.array(ids, np.int64))


class TestDefaultBoxes:
    def test_published_number_order_and_centres(self):
        boxes = default_boxes(SHAPES, GEN1_GRIDS, GEN1)
        assert boxes.shape == (6902, 4) and boxes.dtype == torch.float32
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        # Map 0 has 4 shapes in a cell: the fifth box is the first one of the next column.
        torch.testing.assert_close(centre[0], torch.tensor([0.5 / 38 * 304, 0.5 / 30 * 240]))
        torch.testing.assert_close(centre[4], torch.tensor([1.5 / 38 * 304, 0.5 / 30 * 240]))
        torch.testing.assert_close(centre[4 * 38], torch.tensor([0.5 / 38 * 304, 1.5 / 30 * 240]))
        torch.testing.assert_close(centre[4560], torch.tensor([0.5 / 19 * 304, 0.5 / 15 * 240]))

    def test_squares_have_the_aspect_of_the_image_and_ratios_come_in_pairs(self):
        boxes = default_boxes(SHAPES, GEN1_GRIDS, GEN1)
        sides = (boxes[:, 2:] - boxes[:, :2])[:4] / torch.tensor([304.0, 240.0])
        s, root = 0.05, 2**0.5
        expected = [[s, s], [0.1, 0.1], [s * root, s / root], [s / root, s * root]]  # 0.1 = sqrt(0.05 * 0.20)
        torch.testing.assert_close(sides, torch.tensor(expected))

    def test_sizes_are_limited_to_the_image_and_places_are_not(self):
        boxes = default_boxes(SHAPES, GEN1_GRIDS, GEN1)
        sides = boxes[:, 2:] - boxes[:, :2]
        assert sides[:, 0].max() <= 304.001 and sides[:, 1].max() <= 240.001
        assert boxes.min() < 0 and boxes[:, 2].max() > 304

    def test_one_map_has_the_smallest_scale(self):
        assert BoxShapes(((2.0,),), 0.1, 0.8).scales == (0.1, 1.0)

    def test_wrong_number_of_maps_is_refused(self):
        with pytest.raises(ValueError, match="6 feature maps, got 2"):
            default_boxes(SHAPES, GEN1_GRIDS[:2], GEN1)

    @pytest.mark.parametrize("ratios", [(0.0, 0.8), (0.8, 0.5), (0.5, 1.5)])
    def test_scales_out_of_range_are_refused(self, ratios):
        with pytest.raises(ValueError, match="min_ratio"):
            BoxShapes(((2.0,),), *ratios)


class TestCoder:
    def test_decode_inverts_encode(self):
        default = default_boxes(SHAPES, GEN1_GRIDS, GEN1, torch.float64)[::97]
        boxes = default + torch.tensor([-3.0, 2.0, 5.0, 9.0], dtype=torch.float64)
        torch.testing.assert_close(coder.decode(coder.encode(boxes, default), default), boxes)

    def test_growth_is_limited_and_finite(self):
        default = torch.tensor([[10.0, 10.0, 20.0, 30.0]])
        (box,) = coder.decode(torch.tensor([[0.0, 0.0, 1e6, 1e6]]), default)
        torch.testing.assert_close(box[2:] - box[:2], torch.tensor([10.0, 20.0]) * 1000 / 16)


class TestMatching:
    def test_threshold_is_inclusive_and_below_it_is_unmatched(self):
        iou = torch.tensor([[0.9, 0.5, 0.49, 0.0]])
        assert match(iou, 0.5).tolist() == [0, 0, -1, -1]

    def test_a_default_box_takes_the_ground_truth_it_overlaps_most(self):
        iou = torch.tensor([[0.9, 0.6, 0.0], [0.1, 0.7, 0.8]])
        assert match(iou, 0.5).tolist() == [0, 1, 1]

    def test_every_ground_truth_gets_its_best_default_box_whatever_the_overlap(self):
        iou = torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.2, 0.1]])
        assert match(iou, 0.5).tolist() == [0, 1, -1]

    def test_the_forced_match_overrides_a_better_one(self):
        iou = torch.tensor([[0.9, 0.8], [0.6, 0.1]])
        assert match(iou, 0.5).tolist() == [1, 0]

    @pytest.mark.parametrize("count", [2, 3, 7])
    def test_of_those_that_want_the_same_box_the_later_one_has_it(self, count):
        iou = torch.zeros(count, 5)
        iou[:, 3] = torch.linspace(0.9, 0.6, count)
        assert match(iou, 0.5).tolist() == [-1, -1, -1, count - 1, -1]

    def test_no_ground_truth_is_an_error(self):
        with pytest.raises(ValueError, match="at least one"):
            match(torch.zeros(0, 5), 0.5)


class TestLoss:
    def test_focal_loss_of_a_certain_right_answer_is_nothing_and_of_a_wrong_one_is_its_logit(self):
        logits = torch.tensor([40.0, -40.0], dtype=torch.float64)
        loss = focal_loss(logits, torch.ones(2, dtype=torch.float64), alpha=0.25, gamma=2.0)
        torch.testing.assert_close(loss, torch.tensor([0.0, 10.0], dtype=torch.float64), atol=1e-9, rtol=0)

    def test_sums_are_divided_by_the_matched_boxes_of_the_whole_batch(self):
        default = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [40.0, 40.0, 50.0, 50.0]])
        codes, logits = torch.zeros(2, 3, 4), torch.zeros(2, 3, 2)
        truths = [
            GroundTruth(default[:2] + torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 1])),
            GroundTruth(default[2:], torch.tensor([1])),
        ]
        box, classes, matched = detection_loss(codes, logits, default, truths, Criterion())
        assert matched == 3
        # A shift of a tenth of the width is a code of 1, and smooth L1 of 1 is 0.5; the third box fits.
        assert box.item() == pytest.approx((0.5 + 0.5) / 3)
        positive, negative = 0.25 * 0.25 * np.log(2), 0.75 * 0.25 * np.log(2)
        assert classes.item() == pytest.approx((3 * positive + 9 * negative) / 3, rel=1e-6)

    def test_a_sample_without_targets_is_left_out(self):
        head = small_head()
        raw, _ = head(feature_maps(3))
        box = targets([4, 4, 20, 18])
        both = head.loss(raw, [box, None, targets()], SIZE)
        alone = head.loss(tuple(tuple(m[:1] for m in maps) for maps in raw), [box], SIZE)
        assert all(torch.equal(both[name], alone[name]) for name in ("box", "class"))
        assert both["box"] > 0 and both["class"] > 0

    def test_without_any_target_loss_and_gradient_are_zero(self):
        head = small_head().train()
        raw, _ = head(feature_maps(2))
        losses = head.loss(raw, [None, targets()], SIZE)
        sum(losses.values()).backward()
        assert all(loss.item() == 0.0 for loss in losses.values())
        assert all(p.grad is not None and not p.grad.any() for p in head.parameters())

    def test_gradient_reaches_every_parameter_and_lowers_the_loss(self):
        head = small_head().train()
        # One box of the size of each map's default boxes, so that both box convolutions have something to learn.
        maps = feature_maps(2)
        wanted = [targets([7, 9, 17, 15], [5, 2, 44, 30], classes=[0, 1]), targets([0, 0, 30, 30])]
        optimizer = torch.optim.SGD(head.parameters(), lr=1e-3)
        history = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = sum(head.loss(head(maps)[0], wanted, SIZE).values())
            loss.backward()
            assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in head.parameters())
            optimizer.step()
            history.append(loss.item())
        assert history == sorted(history, reverse=True) and history[-1] < 0.95 * history[0]

    @pytest.mark.parametrize("size", [1e4, 1e30])
    def test_extreme_outputs_stay_finite(self, size):
        head = small_head()
        raw, _ = head(feature_maps(1))
        raw = tuple(tuple((m.detach().sign() * size).requires_grad_() for m in maps) for maps in raw)
        losses = head.loss(raw, [targets([4, 4, 20, 18])], SIZE)
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert all(m.grad.isfinite().all() for maps in raw for m in maps)

    def test_an_empty_box_is_passed_over(self):
        head = small_head()
        raw, _ = head(feature_maps(1))
        losses = head.loss(raw, [targets([4, 4, 20, 18], [7, 7, 7, 20])], SIZE)
        expected = head.loss(raw, [targets([4, 4, 20, 18])], SIZE)
        assert all(torch.equal(losses[name], expected[name]) for name in losses)
        only_empty = head.loss(raw, [targets([7, 7, 7, 20])], SIZE)
        assert all(loss.item() == 0.0 for loss in only_empty.values())

    def test_an_unknown_class_is_refused(self):
        head = small_head()
        raw, _ = head(feature_maps(1))
        with pytest.raises(ValueError, match=r"class_id in 0\.\.1, got \[2\]"):
            head.loss(raw, [targets([4, 4, 20, 18], classes=[2])], SIZE)

    def test_default_boxes_made_in_inference_mode_serve_a_loss_later(self):
        default_boxes.cache_clear()
        head = small_head()
        maps = feature_maps(1)
        with torch.inference_mode():
            head.decode(head(maps)[0], SIZE)
            shared = default_boxes(head.shapes, ((4, 6), (2, 3)), SIZE, torch.float64, torch.device("cpu"))
        (shared * torch.ones(4, dtype=torch.float64, requires_grad=True)).sum().backward()
        sum(head.loss(head(maps)[0], [targets([4, 4, 20, 18])], SIZE).values()).backward()
        assert default_boxes.cache_info().misses == 1


def raw_of(head: SSDHead, logits: torch.Tensor, codes: torch.Tensor | None = None):
    """Return raw maps of the one-map head whose rows are `logits` [B, A, K] and `codes` [B, A, 4]."""
    codes = torch.zeros(*logits.shape[:2], 4) if codes is None else codes
    per_cell = head.shapes.per_cell[0]

    def to_map(rows):
        cells = rows.view(len(rows), 2, 3, per_cell * rows.shape[-1])
        return (cells.permute(0, 3, 1, 2),)

    return to_map(codes), to_map(logits)


def one_map_head(**options) -> SSDHead:
    return SSDHead(FeatureInfo((3,), (16,)), 2, lambda: None, **{"aspect_ratios": ((2,),), "min_ratio": 0.3, **options})


class TestDecode:
    def test_scores_fall_and_types_are_those_of_detections(self):
        head = small_head()
        (found,) = head.decode(head(feature_maps(1))[0], SIZE)
        assert isinstance(found, Detections) and 0 < len(found) <= 100 and found.t_us == 0
        assert (np.diff(found.score) <= 0).all() and set(found.class_id) == {0, 1}
        assert found.xyxy.min() >= 0 and found.xyxy[:, 2].max() <= 48 and found.xyxy[:, 3].max() <= 32

    def test_rows_do_not_depend_on_each_other(self):
        head = small_head(nms_threshold=0.9)
        raw, _ = head(feature_maps(3))
        together = head.decode(raw, SIZE)
        alone = [head.decode(tuple(tuple(m[i : i + 1] for m in maps) for maps in raw), SIZE)[0] for i in range(3)]
        assert together == alone
        assert together[0] != together[1]

    def test_a_score_at_the_threshold_is_left_out(self):
        head = one_map_head(score_threshold=0.5)
        logits = torch.full((1, 24, 2), -5.0)
        logits[0, 7, 1] = 0.0  # a score of exactly 0.5
        assert len(head.decode(raw_of(head, logits), SIZE)[0]) == 0
        logits[0, 7, 1] = 1e-3
        assert len(head.decode(raw_of(head, logits), SIZE)[0]) == 1

    def test_equal_scores_come_in_the_order_of_class_and_default_box(self):
        head = one_map_head(nms_threshold=1.0)
        logits = torch.zeros(1, 24, 2)
        (found,) = head.decode(raw_of(head, logits), SIZE)
        assert found.class_id.tolist() == [0] * 24 + [1] * 24
        # All 24 default boxes in their own order, once for each class, and the same again bit for bit.
        expected = default_boxes(head.shapes, ((2, 3),), SIZE)
        expected = torch.stack([expected[:, 0::2].clamp(0, 48), expected[:, 1::2].clamp(0, 32)], -1).flatten(1)
        np.testing.assert_allclose(found.xyxy[:24], expected.numpy(), atol=1e-5)
        assert found.xyxy[:24].tobytes() == found.xyxy[24:].tobytes()
        assert head.decode(raw_of(head, logits), SIZE)[0] == found

    def test_classes_do_not_suppress_each_other(self):
        head = one_map_head()
        logits = torch.full((1, 24, 2), -9.0)
        logits[0, 5] = torch.tensor([2.0, 1.0])
        (found,) = head.decode(raw_of(head, logits), SIZE)
        assert found.class_id.tolist() == [0, 1]
        assert found.xyxy[0].tobytes() == found.xyxy[1].tobytes()

    def test_top_k_is_per_class_and_max_detections_over_all(self):
        head = one_map_head(nms_threshold=1.0, top_k=5)
        logits = torch.randn(1, 24, 2, generator=torch.Generator().manual_seed(1))
        (found,) = head.decode(raw_of(head, logits), SIZE)
        assert np.bincount(found.class_id).tolist() == [5, 5]
        best = logits[0].sigmoid().sort(dim=0, descending=True).values[:5].flatten().sort(descending=True).values
        np.testing.assert_array_equal(found.score, best.numpy())
        head.max_detections = 3
        assert head.decode(raw_of(head, logits), SIZE)[0] == found[:3]

    def test_thresholds_may_change_while_running(self):
        head = small_head(max_detections=1000)
        raw, _ = head(feature_maps(1))
        (many,) = head.decode(raw, SIZE)
        head.score_threshold = float(many.score[4])
        (few,) = head.decode(raw, SIZE)
        assert few == many[: np.count_nonzero(many.score > many.score[4])] and len(few) < len(many)
        head.nms_threshold, head.score_threshold = 1.0, 0.01
        assert len(head.decode(raw, SIZE)[0]) > len(many)

    def test_nothing_above_the_threshold_gives_no_detections(self):
        head = one_map_head()
        assert head.decode(raw_of(head, torch.full((2, 24, 2), -30.0)), SIZE) == [Detections.empty()] * 2

    def test_half_precision_outputs_are_decoded_in_float32(self):
        head = one_map_head()
        logits = torch.randn(1, 24, 2, generator=torch.Generator().manual_seed(1)).bfloat16()
        codes = torch.randn(1, 24, 4, generator=torch.Generator().manual_seed(2)).bfloat16()
        half = head.decode(raw_of(head, logits, codes), SIZE)
        assert half == head.decode(raw_of(head, logits.float(), codes.float()), SIZE)

    def test_values_that_are_not_numbers_are_never_detected(self):
        head = one_map_head()
        logits = torch.full((1, 24, 2), float("nan"))
        logits[0, 3, 0] = 1.0
        assert len(head.decode(raw_of(head, logits), SIZE)[0]) == 1


class TestHead:
    def test_several_steps_per_window_are_refused(self):
        with pytest.raises(SpecError, match="one time step per window, got 2"):
            small_head()([torch.cat([m, m]) for m in feature_maps(1)])

    def test_default_boxes_are_neither_parameters_nor_in_the_state_dict(self):
        head = small_head()
        head.decode(head(feature_maps(1))[0], SIZE)
        assert {name.split(".")[2] for name in head.state_dict()} == {"norm", "conv"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"aspect_ratios": ((2,),)}, "each of the 2 feature maps, got 1"),
            ({"score_threshold": 1.0}, "score_threshold"),
            ({"nms_threshold": -0.1}, "nms_threshold"),
            ({"top_k": 0}, "top_k"),
            ({"iou_threshold": 0.0}, "iou_threshold"),
            ({"focal_alpha": 2.0}, "focal_alpha"),
            ({"aspect_ratios": ((2,), (-1,))}, "positive"),
        ],
    )
    def test_bad_options_are_refused_by_name(self, registry, options, message):
        options = {"aspect_ratios": ((2,), (2, 3)), **options}
        with pytest.raises(PluginError, match=message):
            registry.build("head", "ssd", FEATURES, 2, lambda: None, **options)


def test_a_prior_gives_every_default_box_its_score_before_training():
    features = FeatureInfo((4, 6), (4, 8))
    head = SSDHead(features, 2, torch.nn.Identity, aspect_ratios=((2,), (2, 3)), class_prior=0.01).eval()
    maps = [torch.rand(1, 3, 4, 12, 16), torch.rand(1, 3, 6, 6, 8)]
    (_, classes), _ = head(maps)
    scores = torch.cat([x.sigmoid().flatten() for x in classes])
    assert 0.009 < float(scores.mean().detach()) < 0.011
    assert sum(p.numel() for p in head.class_biases) == 2 * (4 + 6)
    with pytest.raises(ValueError, match="class_prior must be in"):
        SSDHead(features, 2, torch.nn.Identity, aspect_ratios=((2,), (2, 3)), class_prior=1.0)

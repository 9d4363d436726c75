"""Boxes against loops that follow the definitions word by word."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.boxes import box_area, class_wise_nms, clip_boxes, cxcywh_to_xyxy, iou_matrix, xyxy_to_cxcywh


def naive_iou(a, b) -> float:
    """Overlap over union of two boxes in Python floats; 0 without overlap."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def greedy_nms(rivals, scores) -> list[int]:
    """Non-maximum suppression box by box, equal scores in input order; rivals[i, j]: may i suppress j?"""
    kept: list[int] = []
    for at in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if not any(rivals[k, at] for k in kept):
            kept.append(at)
    return kept


def boxes_on_grid(rng, count, cells, dtype):
    """Random boxes with whole corners on a small grid: many equal boxes and equal overlaps, some empty."""
    corners = rng.integers(0, cells, (count, 2, 2))
    return torch.from_numpy(np.concatenate([corners.min(1), corners.max(1)], axis=1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_equals_the_greedy_loop(dtype):
    """2 x 1000 cases, of 0 to 24 boxes, with ties in score, equal boxes and overlaps of exactly the threshold."""
    rng = np.random.default_rng(7)
    suppressed = chains = 0
    for case in range(1000):
        count = int(rng.integers(0, 25))
        boxes = boxes_on_grid(rng, count, int(rng.integers(3, 12)), dtype)
        scores = torch.from_numpy(rng.integers(0, [3, 1000][case % 2], count) / 10).to(dtype)
        class_ids = torch.from_numpy(rng.integers(0, 3, count))
        threshold = float(rng.choice([0.0, 0.25, 1 / 3, 0.45, 0.5, 0.9]))
        rivals = ((iou_matrix(boxes, boxes) > threshold) & (class_ids[:, None] == class_ids)).numpy()
        ranks = scores.tolist()
        expected = greedy_nms(rivals, ranks)
        assert class_wise_nms(boxes, scores, class_ids, threshold).tolist() == expected
        suppressed += count - len(expected)
        # A box that only a suppressed rival overlaps must stay: the case that one pass would get wrong.
        dropped = sorted(set(range(count)) - set(expected))
        chains += any(rivals[k, d] and ranks[d] > ranks[k] for k in expected for d in dropped)
    assert suppressed > 1000 and chains > 50


def scattered(count, classes, dtype, seed=0):
    """Random boxes of which many overlap, their scores in any order."""
    generator = torch.Generator().manual_seed(seed)
    corner = 100 * torch.rand(count, 2, generator=generator, dtype=dtype)
    boxes = torch.cat([corner, corner + 5 + 30 * torch.rand(count, 2, generator=generator, dtype=dtype)], dim=1)
    scores = torch.rand(count, generator=generator, dtype=dtype)
    return boxes, scores, torch.randint(0, classes, (count,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("piece", [7, 1024])
def test_the_loop_and_the_matrices_decide_alike(dtype, piece, monkeypatch):
    """A GPU works with matrices, in pieces; here both run on the CPU."""
    rng = np.random.default_rng(5)
    for case in range(40):
        boxes, scores, class_ids = scattered(int(rng.integers(0, 400)), 3, dtype, seed=case)
        threshold, limit = float(rng.choice([0.0, 0.3, 0.5, 0.65])), int(rng.choice([1, 20, 1000]))
        by_loop = class_wise_nms(boxes, scores, class_ids, threshold, limit)
        with monkeypatch.context() as patched:
            patched.setattr("snn_perception.boxes._LOOP_TYPES", {})
            patched.setattr("snn_perception.boxes._PIECE", piece)
            assert torch.equal(class_wise_nms(boxes, scores, class_ids, threshold, limit), by_loop)
        assert len(by_loop) <= limit and torch.equal(
            by_loop, class_wise_nms(boxes, scores, class_ids, threshold)[:limit]
        )


def test_what_is_no_number_has_no_rivals(monkeypatch):
    inf, nan = float("inf"), float("nan")
    rows = [[0, 0, 4, 4], [nan, 0, 4, 4], [0, 0, 4, nan], [-inf, -inf, inf, inf], [0, 0, inf, 4], [0, 0, 4, 4.1]]
    boxes, scores = torch.tensor(rows), torch.linspace(1, 0.5, len(rows))
    kept = class_wise_nms(boxes, scores, torch.zeros(len(rows)), 0.5)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr("snn_perception.boxes._LOOP_TYPES", {})
    assert torch.equal(class_wise_nms(boxes, scores, torch.zeros(len(rows)), 0.5), kept)


def test_of_thousands_only_the_best_are_looked_for():
    boxes, scores, class_ids = scattered(30_000, 2, torch.float32)
    kept = class_wise_nms(boxes, scores, class_ids, 0.5, 300)
    overlaps = iou_matrix(boxes[kept], boxes[kept]).fill_diagonal_(0)
    assert len(kept) == 300 and not ((overlaps > 0.5) & (class_ids[kept][:, None] == class_ids[kept])).any()
    assert torch.equal(scores[kept], scores[kept].sort(descending=True).values)


def test_nms_of_a_long_chain():
    """Each box overlaps only its neighbours: every second one stays, however long the chain."""
    count = 101
    x = torch.arange(count) * 6.0
    boxes = torch.stack([x, torch.zeros(count), x + 10, torch.ones(count)], dim=1)
    scores = torch.linspace(1, 0.1, count)
    assert class_wise_nms(boxes, scores, torch.zeros(count), 0.2).tolist() == list(range(0, count, 2))


def test_nms_keeps_input_order_among_equal_scores():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6], [0, 0, 2, 2]])
    assert class_wise_nms(boxes, torch.full((4,), 0.5), torch.tensor([0, 0, 0, 1]), 0.5).tolist() == [0, 2, 3]


def test_an_overlap_of_exactly_the_threshold_stays():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]])  # IoU 0.5
    scores, same = torch.tensor([0.9, 0.8]), torch.zeros(2)
    assert class_wise_nms(boxes, scores, same, 0.5).tolist() == [0, 1]
    assert class_wise_nms(boxes, scores, same, 0.4999).tolist() == [0]


def test_without_boxes():
    none = torch.zeros(0, 4)
    assert class_wise_nms(none, torch.zeros(0), torch.zeros(0), 0.5).tolist() == []
    assert iou_matrix(none, torch.rand(3, 4)).shape == (0, 3) and iou_matrix(torch.rand(3, 4), none).shape == (3, 0)
    assert clip_boxes(none, 4, 4).shape == cxcywh_to_xyxy(none).shape == xyxy_to_cxcywh(none).shape == (0, 4)
    assert box_area(none).shape == (0,)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_iou_equals_the_definition(dtype, tolerance):
    rng = np.random.default_rng(3)
    for cells in (3, 8, 300):
        a, b = boxes_on_grid(rng, 25, cells, dtype), boxes_on_grid(rng, 30, cells, dtype)
        got = iou_matrix(a, b)
        assert got.dtype == dtype and got.shape == (25, 30)
        expected = [[naive_iou(p, q) for q in b.tolist()] for p in a.tolist()]
        np.testing.assert_allclose(got.numpy(), expected, atol=tolerance)
        assert (got > 0).any() and (got == 0).any()


@pytest.mark.parametrize(
    "box",
    [[2.0, 2, 2, 4], [2.0, 2, 4, 2], [2.0, 2, 2, 2], [4.0, 2, 2, 4], [4.0, 4, 2, 2]],
    ids=["no width", "no height", "point", "x reversed", "both reversed"],
)
def test_a_degenerate_box_overlaps_nothing(box):
    others = torch.tensor([box, [0.0, 0, 6, 6], [2.0, 2, 4, 4]])
    overlap = iou_matrix(torch.tensor([box]), others)
    assert overlap.isfinite().all() and not overlap.any()
    kept = class_wise_nms(others, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3), 0.05)
    assert kept.tolist() == [0, 1], "it neither suppresses nor is suppressed"


finite = st.floats(-1e4, 1e4, width=32)


@given(st.lists(st.tuples(finite, finite, finite, finite), max_size=8), st.sampled_from([torch.float32, torch.float64]))
def test_forms_and_clipping(rows, dtype):
    boxes = torch.tensor(rows, dtype=dtype).view(-1, 4)
    back = cxcywh_to_xyxy(xyxy_to_cxcywh(boxes))
    assert back.dtype == dtype
    torch.testing.assert_close(back, boxes, rtol=0, atol=1e-2 if dtype == torch.float32 else 1e-10)
    clipped = clip_boxes(boxes, height=20, width=30)
    for got, box in zip(clipped.tolist(), boxes.tolist(), strict=True):
        assert got == [min(max(value, 0), limit) for value, limit in zip(box, (30, 20, 30, 20), strict=True)]


def test_forms_keep_leading_axes():
    boxes = torch.tensor([[[0.0, 0, 4, 2]], [[1, 1, 2, 3]]])
    assert xyxy_to_cxcywh(boxes).tolist() == [[[2, 1, 4, 2]], [[1.5, 2, 1, 2]]]
    assert clip_boxes(boxes, 1, 3).tolist() == [[[0, 0, 3, 1]], [[1, 1, 2, 1]]]
    assert box_area(boxes).tolist() == [[8], [2]]

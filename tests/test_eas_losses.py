"""SimOTA and the losses behind it: against a slow oracle, by hand, and at the edges."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from snn_perception_plugins.eas_snn import losses
from snn_perception_plugins.eas_snn.assignment import Objects, Predictions, assign, near_centres
from snn_perception_plugins.eas_snn.losses import batch_loss, box_codes, overlap_loss, yolox_loss
from snn_perception_plugins.eas_snn.points import anchor_points, decode_boxes, in_rows

from snn_perception.types import Targets

GRIDS = ((8, 10), (4, 5), (2, 3))  # of 64x80, the last one padded
CLASSES = 3


def levels(rows: int = 2, seed: int = 0, *, spread: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(rows, 5 + CLASSES, *grid, generator=generator, dtype=torch.float64) * spread for grid in GRIDS
    )


def targets(*boxes, classes=None) -> Targets:
    ids = classes or [0] * len(boxes)
    return Targets(np.array(boxes, np.float32).reshape(-1, 4), np.array(ids, np.int64))


def predictions(raw, row: int = 0):
    rows = in_rows(raw)
    points = anchor_points(raw, (8, 16, 32), rows.dtype)
    return Predictions(decode_boxes(rows[row, :, :4], points), rows[row, :, 4], rows[row, :, 5:]), points


def objects(count: int, seed: int) -> Objects:
    """Return boxes of which some overlap, some share their centres, and some have it outside the image."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([100.0, 84.0]) - 8
    if count > 1:
        centre[-1] = centre[0] + 0.75
    sides = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 40 + 4
    ids = torch.randint(CLASSES, (count,), generator=generator)
    return Objects(torch.cat([centre, sides], dim=1), ids)


def oracle(predicted: Predictions, points, truth: Objects) -> list[tuple[int, int]]:
    """Return (anchor, object) as the published description has it, one candidate at a time."""

    def iou(a, b):
        w = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
        h = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
        overlap = w * h if w > 0 and h > 0 else 0.0
        return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)

    def near(centre, box, stride):
        return all(box[i] - 1.5 * stride < centre[i] < box[i] + 1.5 * stride for i in (0, 1))

    centres, strides = points.centres.tolist(), points.stride.tolist()
    boxes, guesses = truth.cxcywh.tolist(), predicted.cxcywh.tolist()
    squares = {
        g: {a for a, centre in enumerate(centres) if near(centre, box, strides[a])} for g, box in enumerate(boxes)
    }
    squares = {g: square for g, square in squares.items() if square}
    candidates = sorted(set().union(*squares.values()))
    cost, picks = {}, {}
    for g, square in squares.items():
        overlaps = {a: iou(boxes[g], guesses[a]) for a in candidates}
        for a in candidates:
            score = (predicted.classes[a].float().sigmoid() * predicted.objectness[a].float().sigmoid()).sqrt()
            wanted = F.one_hot(truth.class_id[g], CLASSES).float()
            cost[g, a] = float(F.binary_cross_entropy(score, wanted, reduction="sum"))
            cost[g, a] += -3 * math.log(overlaps[a] + 1e-8) + (0 if a in square else 1e6)
        k = max(1, int(sum(sorted(overlaps.values())[-10:])))
        picks[g] = sorted(candidates, key=lambda a, g=g: cost[g, a])[:k]
    found = []
    for a in candidates:
        takers = [g for g, picked in picks.items() if a in picked]
        if takers:
            found.append((a, takers[0] if len(takers) == 1 else min(squares, key=lambda g, a=a: cost[g, a])))
    return found


class TestAssignment:
    @settings(max_examples=30)
    @given(count=st.integers(1, 6), seed=st.integers(0, 10**6), fitting=st.booleans())
    def test_it_is_what_a_slow_reading_of_the_paper_gives(self, count, seed, fitting):
        predicted, points = predictions(levels(1, seed))
        truth = objects(count, seed)
        if fitting:  # predictions that overlap much, so that objects want many and meet
            of = torch.arange(len(points.stride)) % count
            predicted = Predictions(truth.cxcywh[of] + 0.5, predicted.objectness, predicted.classes)
        found = assign(predicted, points, truth)
        expected = oracle(predicted, points, truth)
        assert list(zip(found.anchor.tolist(), found.owner.tolist(), strict=True)) == expected

    def test_objects_take_as_many_as_their_overlaps_add_up_to(self):
        raw = levels(1)
        predicted, points = predictions(raw)
        truth = Objects(torch.tensor([[40.0, 32.0, 30.0, 30.0]], dtype=torch.float64), torch.tensor([1]))
        fitting = Predictions(truth.cxcywh.expand(len(points.stride), 4), predicted.objectness, predicted.classes)
        assert len(assign(fitting, points, truth).anchor) == 10
        off = fitting.cxcywh + torch.tensor([0.0, 0.0, 60.0, 60.0], dtype=torch.float64)  # an overlap of a ninth each
        found = assign(Predictions(off, predicted.objectness, predicted.classes), points, truth)
        assert len(found.anchor) == 1
        assert found.iou.tolist() == pytest.approx([1 / 9])

    def test_the_square_is_open_and_three_strides_wide(self):
        points = anchor_points(levels(1), (8, 16, 32), torch.float64)
        centre = torch.tensor([[36.0, 28.0, 10.0, 10.0]], dtype=torch.float64)  # that of cell (4, 3) of stride 8
        (inside,) = near_centres(points, centre)
        fine = inside[: 8 * 10].view(8, 10).nonzero()
        assert fine.min(dim=0).values.tolist() == [2, 3] and fine.max(dim=0).values.tolist() == [4, 5]
        on_edge = torch.tensor([[32.0, 24.0, 10.0, 10.0]], dtype=torch.float64)  # 12 px from the centres 20 and 44
        assert near_centres(points, on_edge)[0, : 8 * 10].sum() == 4

    def test_an_anchor_that_two_want_goes_to_the_one_it_is_cheapest_for(self):
        """Two objects at the same place want the same ten; the predictions speak for the class of one of them."""
        predicted, points = predictions(levels(1))
        box = torch.tensor([[40.0, 32.0, 30.0, 30.0]], dtype=torch.float64)
        logits = torch.tensor([-2.0, 2.0, -2.0], dtype=torch.float64).expand_as(predicted.classes)
        guess = Predictions(box.expand(len(points.stride), 4), torch.zeros_like(predicted.objectness), logits)
        for right in (0, 1):
            classes = torch.tensor([1, 0] if right == 0 else [0, 1])
            found = assign(guess, points, Objects(box.repeat(2, 1), classes))
            assert found.owner.tolist() == [right] * 10

    def test_an_object_outside_the_image_is_left_out_and_disturbs_nobody(self):
        predicted, points = predictions(levels(1))
        inside = objects(3, seed=4)
        inside = Objects(inside.cxcywh.clamp(min=10, max=60), inside.class_id)
        outside = torch.tensor([[-200.0, 30.0, 20.0, 20.0]], dtype=torch.float64)
        both = Objects(torch.cat([outside, inside.cxcywh]), torch.cat([torch.tensor([0]), inside.class_id]))
        alone, together = assign(predicted, points, inside), assign(predicted, points, both)
        assert len(alone.anchor) >= 2
        assert torch.equal(alone.anchor, together.anchor) and torch.equal(alone.owner + 1, together.owner)
        nobody = assign(predicted, points, Objects(outside, torch.tensor([0])))
        assert len(nobody.anchor) == len(nobody.owner) == len(nobody.iou) == 0


class TestLoss:
    def test_a_perfect_prediction_that_is_sure_has_no_loss(self):
        rows = in_rows(levels(1))
        points = anchor_points(levels(1), (8, 16, 32), rows.dtype)
        truth = Objects(torch.tensor([[38.0, 32.0, 40.0, 44.0]], dtype=torch.float64), torch.tensor([2]))
        every = torch.arange(rows.shape[1])
        rows[0, :, :4] = box_codes(truth.cxcywh.expand(len(every), 4), points, every)
        found = assign(Predictions(decode_boxes(rows[0, :, :4], points), rows[0, :, 4], rows[0, :, 5:]), points, truth)
        rows[..., 4:] = -50.0
        rows[0, found.anchor, 4] = rows[0, found.anchor, 5 + 2] = 50.0
        terms = batch_loss(rows, [truth], points)
        assert len(found.anchor) >= 9  # 1e-8 in the logarithm of the sides may cost the tenth
        assert terms["box"] < 1e-6 and terms["l1"] < 1e-6 and terms["objectness"] < 1e-12 and terms["class"] < 1e-5

    def test_terms_are_those_of_one_match_by_hand(self):
        """Codes of 0: every prediction is a square as wide as its stride, around the corner of its cell."""
        raw = tuple(torch.zeros(1, 5 + CLASSES, *grid, dtype=torch.float64) for grid in GRIDS)
        terms = yolox_loss(raw, [targets([29, 21, 35, 28], classes=[1])])  # around (32, 24.5): cell (4, 3) of stride 8
        iou = 6 * 7 / (8 * 8)  # within the prediction's 28..36, 20..28; no other overlap reaches a half
        assert terms["objectness"].item() == pytest.approx((80 + 20 + 6) * math.log(2))
        assert terms["box"].item() == pytest.approx(5 * (1 - iou**2))
        assert terms["class"].item() == pytest.approx(3 * math.log(2)), "a logit of 0 costs the same for any target"
        codes = (32 / 8 - 4, 24.5 / 8 - 3, math.log(6 / 8), math.log(7 / 8))
        assert terms["l1"].item() == pytest.approx(sum(map(abs, codes)), abs=1e-6)

    def test_class_targets_are_the_overlaps(self):
        raw = levels(1, seed=3)
        box = targets([10, 10, 40, 50], classes=[1])
        found, points = predictions(raw)
        match = assign(found, points, losses._objects(box, in_rows(raw)))
        logits, wanted = found.classes[match.anchor], torch.zeros(len(match.anchor), CLASSES, dtype=torch.float64)
        wanted[:, 1] = match.iou
        expected = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(match.anchor)
        assert torch.isclose(yolox_loss(raw, [box])["class"], expected)

    def test_l1_has_a_switch(self):
        raw, box = levels(1), [targets([10, 10, 40, 50])]
        on, off = yolox_loss(raw, box), yolox_loss(raw, box, l1=False)
        assert on.keys() - off.keys() == {"l1"} and on["l1"] > 0
        assert all(torch.equal(on[name], off[name]) for name in off)

    def test_unlabelled_rows_count_for_nothing_and_empty_ones_for_their_objectness(self):
        raw = levels(3, seed=1)
        box = targets([10, 10, 40, 50], [30, 20, 70, 60], classes=[1, 2])
        alone = yolox_loss(tuple(level[:1] for level in raw), [box])
        unlabelled = yolox_loss(raw, [box, None, None])
        assert all(torch.equal(alone[name], unlabelled[name]) for name in alone)
        empty = yolox_loss(raw, [box, targets(), None])
        assert all(torch.equal(alone[name], empty[name]) for name in ("box", "l1", "class"))
        matched = _matches(raw, 0, box)
        extra = F.softplus(in_rows(raw)[1, :, 4]).sum() / matched
        assert torch.isclose(empty["objectness"], alone["objectness"] + extra)

    def test_gradients_reach_labelled_rows_alone(self):
        raw = tuple(level.requires_grad_() for level in levels(4, seed=1))
        terms = yolox_loss(raw, [targets([10, 10, 40, 50]), None, targets(), None])
        torch.stack(list(terms.values())).sum().backward()
        moved = torch.cat([level.grad.flatten(2).abs().sum(dim=2) for level in raw], dim=1) > 0  # [B, 3 * (5 + K)]
        assert moved[0].any() and moved[2].any() and not moved[1].any() and not moved[3].any()
        objectness_of = torch.arange(3 * (5 + CLASSES)) % (5 + CLASSES) == 4
        assert torch.equal(moved[2], objectness_of)

    @pytest.mark.parametrize("given", [[None, None], []])
    def test_without_labels_loss_and_gradient_are_zero(self, given):
        raw = tuple(level.requires_grad_() for level in levels(len(given)))
        terms = yolox_loss(raw, given)
        assert sorted(terms) == ["box", "class", "l1", "objectness"] and not any(terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert all(not level.grad.any() for level in raw)

    def test_an_image_whose_objects_all_lie_outside_has_objectness_alone(self):
        raw = levels(1)
        terms = yolox_loss(raw, [targets([-300, 0, -250, 30])])
        assert terms["objectness"] > 0 and not any(terms[name] for name in ("box", "l1", "class"))

    def test_a_box_without_an_inside_is_left_out(self):
        raw = levels(1)
        solid, flat = [10, 10, 40, 50], [20, 20, 20, 40]
        with_it, without = yolox_loss(raw, [targets(flat, solid)]), yolox_loss(raw, [targets(solid)])
        assert all(torch.equal(with_it[name], without[name]) for name in without)

    @pytest.mark.parametrize("class_id", [-1, CLASSES])
    def test_a_class_that_the_head_does_not_have_is_refused(self, class_id):
        with pytest.raises(ValueError, match=r"class_id in 0..2, got \[-?\d\]"):
            yolox_loss(levels(1), [targets([10, 10, 40, 50], classes=[class_id])])

    def test_the_count_is_that_of_all_processes(self, monkeypatch):
        raw, box = levels(1), [targets([10, 10, 40, 50])]
        alone = yolox_loss(raw, box)
        monkeypatch.setattr(losses, "sum_over_ranks", lambda count: count * 3)
        shared = yolox_loss(raw, box)
        assert all(torch.isclose(shared[name] * 3, alone[name]) for name in alone)

    def test_half_precision_is_summed_in_float32(self):
        raw = tuple(level.to(torch.bfloat16) for level in levels(1))
        terms = yolox_loss(raw, [targets([10, 10, 40, 50])])
        assert {term.dtype for term in terms.values()} == {torch.float32}
        wide = yolox_loss(tuple(level.float() for level in raw), [targets([10, 10, 40, 50])])
        assert all(torch.equal(terms[name], wide[name]) for name in terms)

    def test_overlap_loss_has_the_right_gradient(self):
        a = torch.tensor([[30.0, 20.0, 14.0, 22.0], [5.0, 5.0, 4.0, 4.0]], dtype=torch.float64, requires_grad=True)
        b = torch.tensor([[33.0, 18.0, 20.0, 20.0], [50.0, 50.0, 4.0, 4.0]], dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda boxes: overlap_loss(boxes, b), (a,))
        assert overlap_loss(a, b)[1] == 1 and 0 < overlap_loss(a, b)[0] < 1


def _matches(raw, row: int, box: Targets) -> int:
    predicted, points = predictions(raw, row)
    return len(assign(predicted, points, losses._objects(box, in_rows(raw))).anchor)

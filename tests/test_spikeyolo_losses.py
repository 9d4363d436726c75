"""Task-aligned assignment and the losses behind it, against a slow oracle, by hand, at the edges; and the recipes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from snn_perception_plugins.spikeyolo import losses
from snn_perception_plugins.spikeyolo.assignment import Objects, assign, complete_iou
from snn_perception_plugins.spikeyolo.losses import (
    boxes_at,
    distances_to,
    distribution_loss,
    expected_distances,
    in_rows,
    make_anchors,
    yolo_loss,
)

from snn_perception.data.image_changes import ImageChanges
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.training.model import make_spec
from snn_perception.training.recipes import recipes, summary_of
from snn_perception.training.run_file import load_run
from snn_perception.types import SensorSize, Targets

SIZE = SensorSize(64, 96)
GRIDS = ((8, 12), (4, 6), (2, 3))
CLASSES = 3


def levels(rows: int = 2, seed: int = 0, *, spread: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(rows, 64 + CLASSES, *grid, generator=generator, dtype=torch.float64) * spread for grid in GRIDS
    )


def targets(*boxes, classes=None) -> Targets:
    ids = classes or [0] * len(boxes)
    return Targets(np.array(boxes, np.float32).reshape(-1, 4), np.array(ids, np.int64))


def loss(raw, given, **options):
    return yolo_loss(raw, given, SIZE, **options)


def predictions(raw):
    rows = in_rows(raw)
    anchors = make_anchors(raw, (8, 16, 32), rows.dtype)
    boxes = boxes_at(anchors.centres, expected_distances(rows[..., :64].unflatten(-1, (4, 16)))) * anchors.stride
    return rows[..., 64:].sigmoid(), boxes, anchors.centres * anchors.stride


def objects(counts: list[int], seed: int) -> Objects:
    """Return boxes of which some overlap, and some hold no anchor point or lie outside."""
    generator = torch.Generator().manual_seed(seed)
    boxes, ids = [], []
    for count in counts:
        centre = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([110.0, 78.0]) - 7
        if count > 1:
            centre[-1] = centre[0] + 2.5
        half = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 25 + 1
        boxes.append(torch.cat([centre - half, centre + half], dim=1))
        ids.append(torch.randint(CLASSES, (count,), generator=generator))
    return Objects.padded(boxes, ids, torch.zeros(1, dtype=torch.float64))


def near(truth: Objects, seed: int):
    """Return scores, boxes and anchor points, each box like some object of its row but for a few pixels."""
    generator = torch.Generator().manual_seed(seed)
    scores, boxes, centres = predictions(levels(len(truth.xyxy), seed))
    if truth.xyxy.shape[1]:
        pick = torch.randint(truth.xyxy.shape[1], boxes.shape[:2], generator=generator)
        noise = torch.randn(boxes.shape, generator=generator, dtype=torch.float64) * 3
        boxes = truth.xyxy[torch.arange(len(boxes))[:, None], pick] + noise
    return scores, boxes, centres


def oracle(scores, boxes, centres, xyxy, class_id):
    """Return owner of each anchor point (or None) and its score, of one image, as the description has it."""
    alignment, overlap, taken = {}, {}, {}
    for g, (box, k) in enumerate(zip(xyxy.tolist(), class_id.tolist(), strict=True)):
        own = {}
        for a, (x, y) in enumerate(centres.tolist()):
            if min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 1e-9:
                overlap[g, a] = max(0.0, float(complete_iou(xyxy[g], boxes[a])))
                own[a] = alignment[g, a] = float(scores[a, k]) ** 0.5 * overlap[g, a] ** 6
        for a in sorted(own, key=own.get, reverse=True)[:10]:
            taken.setdefault(a, []).append(g)
    inside = {a: [g for g in range(len(xyxy)) if (g, a) in overlap] for a in range(len(centres))}
    owner = {a: who[0] if len(who) == 1 else max(inside[a], key=lambda g: overlap[g, a]) for a, who in taken.items()}
    strength = {}
    for a, g in owner.items():
        mine = [b for b, who in owner.items() if who == g]
        best = max(alignment[g, b] for b in mine)
        strength[a] = alignment[g, a] / (best + 1e-9) * max(overlap[g, b] for b in mine)
    return owner, strength


class TestAssign:
    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 2**31))
    def test_equals_the_description(self, counts, seed):
        truth = objects(counts, seed)
        scores, boxes, centres = near(truth, seed)
        found = assign(scores, boxes, centres, truth)
        for row, count in enumerate(counts):
            xyxy, class_id = truth.xyxy[row, :count], truth.class_id[row, :count]
            owner, strength = oracle(scores[row], boxes[row], centres, xyxy, class_id)
            wanted = torch.zeros_like(scores[row])
            for a, g in owner.items():
                wanted[a, class_id[g]] = strength[a]
            torch.testing.assert_close(found.scores[row], wanted, rtol=1e-9, atol=1e-12)
            # Where nothing overlaps, all of a box's candidates are equally good, and which are taken means nothing.
            counted = [a for a in owner if strength[a] > 0]
            assert found.is_foreground[row, counted].all()
            assert found.owner[row, counted].tolist() == [owner[a] for a in counted]

    def test_such_boxes_are_matched_and_contested(self):
        matched = contested = 0
        for seed in range(10):
            truth = objects([4], seed)
            found = assign(*near(truth, seed), truth)
            matched += int((found.scores > 0.1).sum())
            alone = [
                assign(*near(truth, seed), Objects(truth.xyxy[:, [g]], truth.class_id[:, [g]], truth.is_real[:, [g]]))
                for g in range(4)
            ]
            contested += int((sum(one.is_foreground.int() for one in alone) > 1).sum())
        assert matched > 50 and contested > 10

    def test_a_contested_anchor_point_goes_to_the_larger_overlap(self):
        centres = torch.tensor([[10.0, 10.0]], dtype=torch.float64)
        boxes = torch.tensor([[[0.0, 0, 20, 20]]], dtype=torch.float64)
        truth = Objects.padded(
            [torch.tensor([[5.0, 5, 30, 30], [0, 0, 20, 21]])], [torch.tensor([2, 1])], torch.zeros(1).double()
        )
        found = assign(torch.full((1, 1, CLASSES), 0.25, dtype=torch.float64), boxes, centres, truth)
        overlap = complete_iou(truth.xyxy[0, 1], boxes[0, 0])
        assert found.owner.tolist() == [[1]]
        torch.testing.assert_close(found.scores, torch.tensor([[[0.0, overlap, 0.0]]]).double(), rtol=1e-7, atol=0)

    def test_the_border_is_not_inside(self):
        centres = torch.tensor([[10.0, 10.0], [10.5, 10.5]], dtype=torch.float64)
        boxes = torch.tensor([[[10.0, 10, 20, 20]] * 2], dtype=torch.float64)
        truth = Objects.padded([torch.tensor([[10.0, 10, 20, 20]])], [torch.tensor([0])], torch.zeros(1).double())
        found = assign(torch.full((1, 2, 1), 0.5, dtype=torch.float64), boxes, centres, truth)
        assert found.is_foreground.tolist() == [[False, True]]

    def test_padding_and_rows_do_not_mix(self):
        truth = objects([1, 4, 0], 5)
        scores, boxes, centres = near(truth, 5)
        together = assign(scores, boxes, centres, truth)
        assert together.is_foreground[:2].any(dim=1).all() and not together.is_foreground[2].any()
        for row, count in enumerate([1, 4]):
            alone = Objects(*(getattr(truth, n)[row : row + 1, :count] for n in ("xyxy", "class_id", "is_real")))
            one = assign(scores[row : row + 1], boxes[row : row + 1], centres, alone)
            assert torch.equal(one.scores[0], together.scores[row])

    @pytest.mark.parametrize("rows", [0, 2])
    def test_nothing_to_find_gives_nothing(self, rows):
        scores, boxes, centres = predictions(levels(rows))
        found = assign(scores, boxes, centres, objects([0] * rows, 0))
        assert found.is_foreground.shape == scores.shape[:2] and not found.is_foreground.any()
        assert found.scores.shape == scores.shape and not found.scores.any()


class TestParts:
    def test_complete_iou_by_hand(self):
        a, b = torch.tensor([0.0, 0, 10, 10]).double(), torch.tensor([5.0, 0, 25, 10]).double()
        v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
        iou = 50 / 250
        expected = iou - 10**2 / (25**2 + 10**2) - v**2 / (v - iou + 1)
        assert complete_iou(a, b).item() == pytest.approx(expected, abs=1e-7)
        assert complete_iou(b, b).item() == pytest.approx(1, abs=1e-7)

    def test_the_eps_is_on_heights_alone(self):
        side, eps = 1e-3, 1e-7
        tiny = torch.tensor([0.0, 0, side, side], dtype=torch.float64)
        union = 2 * side * (side + eps) - side**2 + eps
        assert complete_iou(tiny, tiny).item() == pytest.approx(side**2 / union, rel=1e-9)

    def test_complete_iou_has_a_gradient_but_for_alpha(self):
        a = torch.tensor([[1.0, 2, 9, 7]], dtype=torch.float64, requires_grad=True)
        b = torch.tensor([[2.0, 1, 8, 12]], dtype=torch.float64)
        (gradient,) = torch.autograd.grad(complete_iou(a, b).sum(), a)
        with torch.no_grad():
            numeric = torch.stack(
                [(complete_iou(a + step, b) - complete_iou(a - step, b)).sum() / 2e-6 for step in torch.eye(4) * 1e-6]
            )
        assert not torch.allclose(gradient[0], numeric, rtol=1e-4), "alpha carries no gradient"
        assert torch.allclose(gradient[0], numeric, rtol=0.2)

    @pytest.mark.parametrize(
        ("distance", "bins"), [(0.0, {0: 1.0}), (3.25, {3: 0.75, 4: 0.25}), (99.0, {14: 0.01, 15: 0.99}), (-2, {0: 1})]
    )
    def test_a_distance_is_shared_out_between_two_bins(self, distance, bins):
        sides = torch.randn(1, 4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        wanted = torch.zeros(16, dtype=torch.float64)
        for bin_, share in bins.items():
            wanted[bin_] = share
        expected = -(sides[0].log_softmax(dim=-1) * wanted).sum(dim=-1).mean()
        found = distribution_loss(sides, torch.full((1, 4), distance, dtype=torch.float64))
        assert torch.allclose(found, expected)

    def test_boxes_and_distances_are_inverse(self):
        centres = torch.tensor([[3.5, 2.5], [0.5, 0.5]], dtype=torch.float64)
        distances = torch.tensor([[1.0, 2, 3, 4], [0.5, 0, 7, 9]], dtype=torch.float64)
        assert boxes_at(centres, distances)[0].tolist() == [2.5, 0.5, 6.5, 6.5]
        assert torch.equal(distances_to(boxes_at(centres, distances), centres), distances)


class TestLoss:
    def test_flat_logits_by_hand(self):
        """Every distance is 7.5 cells; no target: each logit of 0 costs ln 2, times the gain and the rows."""
        raw = tuple(torch.zeros(2, 64 + CLASSES, *grid, dtype=torch.float64) for grid in GRIDS)
        terms = loss(raw, [targets(), targets()])
        assert list(terms) == ["box", "class", "dfl"] and terms["box"] == terms["dfl"] == 0
        assert terms["class"].item() == pytest.approx(0.5 * 2 * (2 * 126 * CLASSES * math.log(2)))
        box = [28.0 - 60, 20 - 60, 28 + 60, 20 + 60]  # what the anchor point of cell (3, 2) of stride 8 predicts
        terms = loss(tuple(level[:1] for level in raw), [targets(box, classes=[1])])
        scores, boxes, centres = predictions(tuple(level[:1] for level in raw))
        found = assign(scores, boxes, centres, Objects.padded([torch.tensor([box])], [torch.tensor([1])], scores[0, 0]))
        total = found.scores.sum()
        assert total > 1 and found.scores.max().item() == pytest.approx(1, abs=1e-6), "the prediction fits its box"
        assert terms["dfl"].item() == pytest.approx(1.5 * math.log(16)), "flat logits: every bin costs ln 16"
        assert terms["class"].item() == pytest.approx(float(0.5 * 126 * CLASSES * math.log(2) / total))
        assert 0 < terms["box"] < 7.5

    def test_class_targets_are_the_alignments(self):
        raw, box = levels(1, 3, spread=0.5), targets([10, 10, 80, 60], classes=[1])
        scores, boxes, centres = predictions(raw)
        found = assign(scores, boxes, centres, losses._objects([box], in_rows(raw)))
        expected = F.binary_cross_entropy_with_logits(in_rows(raw)[..., 64:], found.scores, reduction="sum")
        assert torch.isclose(loss(raw, [box])["class"], 0.5 * expected / found.scores.sum().clamp(min=1))

    def test_unlabelled_rows_count_for_nothing(self):
        raw = levels(3, seed=1)
        box = targets([10, 10, 80, 60], [30, 20, 70, 60], classes=[1, 2])
        alone = loss(tuple(level[:1] for level in raw), [box])
        assert alone["box"] > 0 and alone["dfl"] > 0
        unlabelled = loss(raw, [box, None, None])
        assert all(torch.equal(alone[name], unlabelled[name]) for name in alone)
        empty = loss(raw, [box, targets(), None])
        assert torch.isclose(empty["box"], 2 * alone["box"]), "twice the rows, and nothing more to match"
        assert empty["class"] > 2 * alone["class"], "a row known to be empty has its background"

    def test_gradients_reach_labelled_rows_alone(self):
        raw = tuple(level.requires_grad_() for level in levels(4, seed=1))
        terms = loss(raw, [targets([10, 10, 80, 60]), None, targets(), None])
        torch.stack(list(terms.values())).sum().backward()
        moved = torch.cat([level.grad.flatten(2).abs().sum(dim=2) for level in raw], dim=1) > 0  # [B, 3 * (64 + K)]
        assert moved[0].any() and moved[2].any() and not moved[1].any() and not moved[3].any()
        is_class = torch.arange(3 * (64 + CLASSES)) % (64 + CLASSES) >= 64
        assert torch.equal(moved[2], is_class) and moved[0][~is_class].any()

    @pytest.mark.parametrize("given", [[None, None], []])
    def test_without_labels_loss_and_gradient_are_zero(self, given):
        raw = tuple(level.requires_grad_() for level in levels(len(given)))
        terms = loss(raw, given)
        assert not any(terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert all(not level.grad.any() for level in raw)

    def test_a_box_without_an_inside_is_left_out(self):
        raw = levels(1)
        solid, flat = [10, 10, 80, 60], [20, 20, 20, 40]
        with_it, without = loss(raw, [targets(flat, solid)]), loss(raw, [targets(solid)])
        assert all(torch.equal(with_it[name], without[name]) for name in without)

    @pytest.mark.parametrize("class_id", [-1, CLASSES])
    def test_a_class_that_the_head_does_not_have_is_refused(self, class_id):
        with pytest.raises(ValueError, match=r"class_id in 0..2, got \[-?\d\]"):
            loss(levels(1), [targets([10, 10, 40, 50], classes=[class_id])])

    def test_levels_of_another_size_are_refused(self):
        with pytest.raises(
            ValueError, match=r"expected grids \[\(8, 8\), .* for an input of 64x64 px, got \[\(8, 12\)"
        ):
            yolo_loss(levels(1), [None], SensorSize(64, 64))

    def test_the_count_is_that_of_all_processes(self, monkeypatch):
        """Two processes with a share of the rows each: their losses add up to that of all rows in one."""
        raw = levels(3, seed=4, spread=0.5)
        given = [targets([10, 10, 80, 60]), targets([0, 5, 50, 60], classes=[2]), targets()]
        whole = loss(raw, given)
        parts = [slice(0, 1), slice(1, 3)]
        counts = []
        monkeypatch.setattr(losses, "sum_over_ranks", lambda count: counts.append(count) or count)
        for part in parts:
            loss(tuple(level[part] for level in raw), given[part])
        monkeypatch.setattr(losses, "sum_over_ranks", lambda count: counts[0] + counts[1])
        shared = [loss(tuple(level[part] for level in raw), given[part]) for part in parts]
        for name, value in whole.items():
            assert torch.isclose(shared[0][name] + shared[1][name], value) and value > 0

    def test_half_precision_is_summed_in_float32(self):
        raw = tuple(level.to(torch.bfloat16) for level in levels(1))
        terms = loss(raw, [targets([10, 10, 80, 60])])
        assert {term.dtype for term in terms.values()} == {torch.float32}
        wide = loss(tuple(level.float() for level in raw), [targets([10, 10, 80, 60])])
        assert all(torch.equal(terms[name], wide[name]) for name in terms)

    def test_descent_leads_to_the_boxes(self):
        raw = tuple(level.requires_grad_() for level in levels(1, spread=0.1))
        box = targets([12, 8, 60, 50], classes=[2])
        optimizer = torch.optim.Adam(raw, lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            torch.stack(list(loss(raw, [box]).values())).sum().backward()
            optimizer.step()
        scores, boxes, _ = predictions(raw)
        best = scores[0, :, 2].argmax()
        assert scores[0, best, 2] > 0.8 and scores[0, :, :2].max() < 0.2
        np.testing.assert_allclose(boxes[0, best].detach(), box.xyxy[0], atol=1.0)


PUBLISHED = {
    "spikeyolo_s_coco": (40, 300, 0.01, 2, 0.6225),
    "spikeyolo_l_coco": (40, 300, 0.01, 2, 0.662),
    "spikeyolo_s_gen1": (80, 80, 0.02, 1, 0.672),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_recipes_have_the_published_settings(name, registry):
    batch, epochs, lr, accumulate, ap50 = PUBLISHED[name]
    run = load_run(recipes()[name])
    train, optimizer = run.train, run.train.optimizer
    assert (train.mode, train.lanes, train.epochs, train.lr) == ("windows", batch, epochs, lr)
    assert (train.schedule, train.schedule_by, train.warmup_epochs, train.clip_norm) == ("linear", "epoch", 10.0, 10.0)
    assert train.min_lr == pytest.approx(0.004 * lr) and (train.ema, train.ema_ramp) == (0.9999, 2000.0)
    assert train.weight_decay == pytest.approx(5e-4 * batch * accumulate / 64)
    assert (optimizer.name, optimizer.momentum, optimizer.decays) == ("sgd", 0.937, "weights")
    assert accumulate == optimizer.accumulate == max(1, round(64 / batch))
    assert (optimizer.warmup_bias_lr, optimizer.warmup_momentum) == (0.1, 0.8)
    on_images = ImageChanges(
        mosaic=1.0, mosaic_off_epochs=10, scale=0.5, translate=0.1, hue=0.015, saturation=0.7, value=0.4, flip=0.5
    )
    assert train.images == (on_images if name.endswith("coco") else ImageChanges()) and train.augment.is_off
    assert run.data.windows == ("label" if name.endswith("gen1") else "grid")
    assert named_protocol(run.eval.protocol).trapezoid and run.target["AP50"] == ap50
    spec = make_spec(run.model, registry)
    assert run.model.preset == name and spec.state_policy == "per_window"
    assert (spec.window_us == 250_000) == name.endswith("gen1")
    assert summary_of(recipes()[name]).endswith(f" {ap50})") and f"recipes/{name}.yaml " in recipes()[name].read_text()

"""Parts of a detector on their own: default boxes, coder, losses, post-processing, the neuron, the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from snn_perception_plugins.ssd import SSDHead, coder
from snn_perception_plugins.ssd.anchors import BoxShapes, default_boxes
from snn_perception_plugins.ssd.losses import Criterion, GroundTruth, detection_loss, focal_loss
from snn_perception_plugins.ssd.matching import match

from snn_perception.boxes import iou_matrix
from snn_perception.data.targets import window_targets
from snn_perception.registry import Registry
from snn_perception.types import EventArray, EventWindow, FeatureInfo, SensorSize
from tests.golden_support.vectors import Vector
from tests.paths import ROOT


def check_default_boxes(vector: Vector, registry: Registry) -> None:
    recipe = vector.json
    assert recipe["clip"] is True
    shapes = BoxShapes(tuple(map(tuple, recipe["aspect_ratios"])), recipe["min_ratio"], recipe["max_ratio"])
    vector.compare_value(shapes.scales, "scales")
    vector.compare_value(shapes.per_cell, "anchors_per_location")
    grids, size = tuple(map(tuple, recipe["grids"])), SensorSize(*recipe["image_size"])
    for dtype in (torch.float32, torch.float64):
        vector.compare(
            f"boxes_{str(dtype).removeprefix('torch.')}", default_boxes(shapes, grids, size, dtype, table_dtype=dtype)
        )


def check_box_coder(vector: Vector, registry: Registry) -> None:
    gt, anchors, codes = (torch.from_numpy(vector.input(name)) for name in ("gt", "anchors", "codes"))
    vector.compare_value(coder.WEIGHTS, "weights")
    vector.compare_value(coder.LOG_SIZE_LIMIT, "log_size_clip")
    vector.compare("encoded", coder.encode(gt, anchors))
    vector.compare("decoded", coder.decode(codes, anchors))


def check_losses(vector: Vector, registry: Registry) -> None:
    recipe = vector.json
    anchors, codes, logits = (torch.from_numpy(vector.input(name)) for name in ("anchors", "reg", "cls"))
    alpha, gamma, beta = recipe["focal"]["alpha"], recipe["focal"]["gamma"], recipe["smooth_l1"]["beta"]
    truths = []
    for i, labels in enumerate(recipe["labels"]):
        boxes = torch.from_numpy(vector.input(f"gt{i}"))
        vector.compare(f"matched{i}", match(iou_matrix(boxes, anchors), recipe["iou_threshold"]))
        truths.append(GroundTruth(boxes, torch.tensor(labels)))
    criterion = Criterion(recipe["iou_threshold"], alpha, gamma, beta)
    box, classes, matched = detection_loss(codes, logits, anchors, truths, criterion)
    vector.compare_value(box, "loss_bbox")
    vector.compare_value(classes, "loss_cls")
    vector.compare_value(matched, "num_foreground")
    x = torch.from_numpy(vector.input("focal_x"))
    vector.compare("focal_pos", focal_loss(x, torch.ones_like(x), alpha=alpha, gamma=gamma))
    vector.compare("focal_neg", focal_loss(x, torch.zeros_like(x), alpha=alpha, gamma=gamma))
    d = torch.from_numpy(vector.input("sl1_d"))
    element_wise = torch.nn.functional.smooth_l1_loss(d, torch.zeros_like(d), reduction="none", beta=beta)
    vector.compare("sl1", element_wise)


def check_postprocess(vector: Vector, registry: Registry) -> None:
    """Head outputs are laid out as maps again, so that the head's own decode is what runs."""
    recipe, boxes = vector.json, _default_boxes_of(vector)
    grids, size = tuple(map(tuple, boxes["grids"])), SensorSize(*boxes["image_size"])
    codes, logits = vector.input("reg"), vector.input("cls")
    maps = len(grids)
    head: SSDHead = registry.build(
        "head",
        "ssd",
        FeatureInfo((1,) * maps, tuple(8 << i for i in range(maps))),
        logits.shape[1],
        None,
        aspect_ratios=boxes["aspect_ratios"],
        min_ratio=boxes["min_ratio"],
        max_ratio=boxes["max_ratio"],
        score_threshold=recipe["score_thresh"],
        nms_threshold=recipe["nms_thresh"],
        top_k=recipe["topk_candidates_per_class"],
        max_detections=recipe["detections_per_img"],
    )
    scores = torch.from_numpy(logits).sigmoid()
    vector.compare_value((scores > recipe["score_thresh"]).sum(dim=0), "candidates_per_class")
    (found,) = head.decode((_maps(codes, head, grids), _maps(logits, head, grids)), size)
    _compare_detections(vector, "", found.xyxy, found.score, found.class_id)
    w, h = found.xyxy[:, 2] - found.xyxy[:, 0], found.xyxy[:, 3] - found.xyxy[:, 1]
    large = (np.hypot(w, h) >= 30) & (w >= 20) & (h >= 20)  # the limits are in the recipe's notes
    _compare_detections(vector, "filtered_", found.xyxy[large], found.score[large], found.class_id[large])


def _default_boxes_of(vector: Vector) -> dict[str, Any]:
    """Return the recipe of the default boxes that a vector's rows belong to, from its folder or from our own."""
    rows = len(vector.arrays["reg"])
    folders = (vector.path.parent, ROOT / "tests" / "golden" / "st_vgg_rescat")
    siblings = [Vector(path) for folder in folders for path in sorted(folder.glob("*.json"))]
    recipes = [s.json for s in siblings if len(s.arrays.get("boxes_float32", ())) == rows]
    assert recipes, f"{vector}: no default boxes for its {rows} rows in {folders[0]}"
    return recipes[0]


def _compare_detections(vector: Vector, prefix: str, xyxy: np.ndarray, score: np.ndarray, class_id: np.ndarray) -> None:
    vector.compare(f"{prefix}boxes", xyxy)
    vector.compare(f"{prefix}scores", score)
    vector.compare(f"{prefix}labels", class_id)


def _maps(rows: np.ndarray, head: SSDHead, grids: tuple[tuple[int, int], ...]) -> tuple[torch.Tensor, ...]:
    """Return [A, terms] rows as the head maps [1, A_i * terms, H_i, W_i] they come from."""
    maps, start, terms = [], 0, rows.shape[1]
    for (height, width), per_cell in zip(grids, head.shapes.per_cell, strict=True):
        stop = start + height * width * per_cell
        cells = torch.from_numpy(rows[start:stop]).view(1, height, width, per_cell * terms)
        maps.append(cells.permute(0, 3, 1, 2))
        start = stop
    assert start == len(rows)
    return tuple(maps)


def check_plif(vector: Vector, registry: Registry) -> None:
    recipe = vector.json
    surrogate, _, alpha = recipe["surrogate"].partition(", alpha ")
    options = {name: recipe[name] for name in ("v_threshold", "v_reset", "decay_input", "detach_reset")}
    neuron = registry.build("neuron", "plif", surrogate=surrogate, alpha=float(alpha), **options).double().train()
    with torch.no_grad():
        neuron.w.fill_(recipe["w"])
    x = torch.from_numpy(vector.input("x")).requires_grad_()
    weights = torch.from_numpy(vector.input("weights"))
    v, spikes, membranes = None, [], []
    for step in x:
        s, v = neuron(step[None, None], v)
        spikes.append(s[0, 0])
        membranes.append(v[0])
    vector.compare("spikes", torch.stack(spikes))
    vector.compare("v", torch.stack(membranes))
    loss = (torch.stack(spikes) * weights).sum() + 0.1 * (membranes[-1] ** 2).sum()
    vector.compare_value(loss, "loss_value")
    loss.backward()
    vector.compare("grad_x", x.grad)
    vector.compare_value(neuron.w.grad, "grad_w")
    # All steps in one call are the same neuron.
    together, _ = neuron(torch.from_numpy(vector.input("x"))[:, None], None)
    vector.compare("spikes", together[:, 0])


def check_event_window(vector: Vector, registry: Registry) -> None:
    recipe = vector.json
    size, window_us = SensorSize(recipe["height"], recipe["width"]), recipe["sample_size"]
    x, y, p, t = (vector.input(name) for name in "xypt")
    start = int(t.min()) // window_us * window_us
    events = EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t.astype(np.int64), size)
    layout = "bin_major" if recipe["tbin"] == 1 else "polarity_only"  # the reference leaves the added channels empty
    representation = registry.build("representation", "voxel_cube", size, tbin=recipe["tbin"], layout=layout)
    tensor = representation(EventWindow(events, start, start + window_us))
    assert len(tensor) == representation.steps == recipe["T"]
    vector.compare("tensor_bits", np.packbits(tensor.numpy().astype(bool).ravel()))
    t_us, *xywh, class_id, track_id = vector.input("label_rows").T
    targets = window_targets(
        t_us.astype(np.int64), np.stack(xywh, axis=1), class_id.astype(np.int64), track_id.astype(np.int64), size
    )
    vector.compare("target_boxes", targets.xyxy)
    vector.compare("target_labels", targets.class_id)

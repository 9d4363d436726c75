"""EAS-SNN's training and post-processing: raw head outputs and labels to matches, losses, gradients and detections."""

from __future__ import annotations

import re

import numpy as np
import torch
from snn_perception_plugins.eas_snn.assignment import Assignment, Objects, Predictions, assign
from snn_perception_plugins.eas_snn.decoding import candidates, suppressed
from snn_perception_plugins.eas_snn.losses import batch_loss
from snn_perception_plugins.eas_snn.points import Points, anchor_points, decode_boxes, in_rows

from snn_perception.registry import Registry
from tests.golden_support.vectors import Vector

_TERMS = ("box", "objectness", "class", "l1")  # behind the total, in the order of the stored figures


def check_simota_loss(vector: Vector, registry: Registry) -> None:
    strides = vector.json["options"]["strides"]
    levels = [torch.from_numpy(vector.input(f"raw{i}")).requires_grad_() for i in range(len(strides))]
    rows = in_rows(levels)
    points = anchor_points(levels, strides, rows.dtype)
    boxes = decode_boxes(rows[..., :4], points)
    vector.compare("decoded_train", torch.cat([boxes, rows[..., 4:]], dim=-1))
    objects = [_objects(labels) for labels in vector.input("labels")]
    matched = sum(
        len(_check_assignment(vector, i, Predictions(boxes[i], rows[i, :, 4], rows[i, :, 5:]), points, truth).anchor)
        for i, truth in enumerate(objects)
        if len(truth)
    )
    for name, l1 in (("l1", True), ("nol1", False)):
        terms = batch_loss(rows, objects, points, l1=l1)
        total = torch.stack(list(terms.values())).sum()
        figures = [total.item(), *(terms[term].item() if term in terms else 0.0 for term in _TERMS)]
        vector.compare(f"{name}/losses", np.array([*figures, matched / sum(map(len, objects))]))
        for i, gradient in enumerate(torch.autograd.grad(total, levels, retain_graph=True)):
            vector.compare(f"{name}/grad_raw{i}", gradient)
    _check_post_processing(vector, rows.detach(), points)


def _objects(labels: np.ndarray) -> Objects:
    rows = torch.from_numpy(labels[labels.sum(axis=1) > 0])  # the rest is padding
    return Objects(rows[:, 1:], rows[:, 0].long())


def _check_assignment(
    vector: Vector, image: int, predicted: Predictions, points: Points, objects: Objects
) -> Assignment:
    found = assign(predicted, points, objects)
    for name, value in (
        ("anchor_index", found.anchor),
        ("gt_index", found.owner),
        ("gt_class", objects.class_id[found.owner].double()),
        ("iou", found.iou),
    ):
        vector.compare(f"assign{image}/{name}", value)
    return found


def _check_post_processing(vector: Vector, rows: torch.Tensor, points: Points) -> None:
    """Rows of the stored arrays: x1 y1 x2 y2 objectness class_score class; the limits stand in their names."""
    stored = [(name, re.fullmatch(r"post_conf([\d.]+)_nms([\d.]+)/image(\d+)", name)) for name in vector.arrays]
    limits = [(name, match.groups()) for name, match in stored if match]
    assert limits, f"{vector}: no detections"
    for name, (score, overlap, image) in limits:
        row = rows[int(image)]
        found = suppressed(candidates(row, points, float(score)), float(overlap), max_detections=len(row))
        columns = (found.objectness, found.class_score, found.class_id)
        vector.compare(name, torch.cat([found.xyxy, *(column[:, None] for column in columns)], dim=1))

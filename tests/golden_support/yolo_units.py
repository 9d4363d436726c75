"""Parts of SpikeYOLO on their own: both neurons, integers as binary steps, the norm with its border, suppression."""

from __future__ import annotations

import re

import numpy as np
import torch
from snn_perception_plugins.spikeyolo.decoding import candidates
from snn_perception_plugins.spikeyolo.neuron import COCO_LEAK, GEN1_LEAK
from snn_perception_plugins.spikeyolo.units import BorderNorm
from torch import nn

from snn_perception.boxes import class_wise_nms, cxcywh_to_xyxy
from snn_perception.registry import Registry
from snn_perception.spike_driven import BinarySteps, binary_steps
from tests.golden_support.vectors import Vector, golden_fill
from tests.golden_support.yolo_loss import check_yolo_loss


def tells_units(vector: Vector) -> bool:
    return {"coco_ilif_grid_x", "gen1_ilif_grid_x"} <= vector.arrays.keys()


def check_units(vector: Vector, registry: Registry) -> None:
    """Check every array of a vector of units, those of the losses by `yolo_loss`."""
    for tree, leak in (("coco", COCO_LEAK), ("gen1", GEN1_LEAK)):
        _check_neuron(vector, registry, tree, {**leak, "max_spikes": vector.json["config"]["D"]})
    _check_binary(vector)
    _check_border(vector)
    _check_suppression(vector)
    check_yolo_loss(vector, registry)


def _check_neuron(vector: Vector, registry: Registry, tree: str, options: dict[str, object]) -> None:
    neuron = registry.build("neuron", "ilif", **options).double().train()
    x = torch.from_numpy(vector.input(f"{tree}_ilif_grid_x")).requires_grad_()
    y, _ = neuron(x[None, None])
    assert y.max() > 1, "a neuron that fires no integers proves nothing"
    vector.compare(f"{tree}_ilif_grid_y", y[0, 0])
    vector.compare(f"{tree}_ilif_grid_dydx", torch.autograd.grad(y.sum(), x)[0])

    x = torch.from_numpy(vector.input(f"{tree}_ilif_seq_x")).requires_grad_()
    weights = torch.from_numpy(vector.input(f"{tree}_ilif_seq_w"))
    y, after = neuron(x[:, None])
    vector.compare(f"{tree}_ilif_seq_y", y[:, 0])
    vector.compare(f"{tree}_ilif_seq_grad", torch.autograd.grad((y[:, 0] * weights).sum(), x)[0])
    if f"{tree}_ilif_seq_v_after" in vector.arrays:
        membranes, v = [], None
        for step in x.detach():
            _, v = neuron(step[None, None], v)
            membranes.append(v[0])
        vector.compare(f"{tree}_ilif_seq_v_after", torch.stack(membranes))
    if f"{tree}_ilif_seq_y_second_call_no_reset" in vector.arrays:
        again, _ = neuron(x[:, None].detach(), after.detach())
        vector.compare(f"{tree}_ilif_seq_y_second_call_no_reset", again[:, 0])


def _check_binary(vector: Vector) -> None:
    integers = torch.from_numpy(vector.input("bin_integer"))
    weight, bias = (torch.from_numpy(vector.input(f"bin_{name}")) for name in ("weight", "bias"))
    most = len(vector.arrays["bin_binary"]) // len(integers)
    assert integers.max() > 1 and most == vector.json["config"]["D"]
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], padding=1).double()
    with torch.no_grad():
        convolution.weight.copy_(weight)
        convolution.bias.copy_(bias)
        unrolled = torch.stack([torch.stack(list(binary_steps(step, most))) for step in integers]).flatten(0, 1)
        vector.compare("bin_binary", unrolled)
        whole = convolution(integers.flatten(0, 1)).unflatten(0, integers.shape[:2])
        vector.compare("bin_conv_integer", whole)
        twin = BinarySteps(convolution, most)
        summed = twin(integers.flatten(0, 1)).unflatten(0, integers.shape[:2])
        vector.compare("bin_conv_integer", summed)
        each = twin.layer(unrolled.flatten(0, 1)).unflatten(0, unrolled.shape[:2])
        vector.compare("bin_conv_binary_each", each + (bias / most)[:, None, None])


def _check_border(vector: Vector) -> None:
    x = torch.from_numpy(vector.input("bnpad_x"))
    layer = BorderNorm(x.shape[1]).double().eval()
    fill = golden_fill().fill
    layer.norm.load_state_dict(
        {
            name.removeprefix("bn."): torch.from_numpy(np.asarray(fill(name, tuple(shape))))
            for name, shape, _ in vector.json["state"]
        }
    )
    with torch.no_grad():
        vector.compare("bnpad_y", layer(x))


def _check_suppression(vector: Vector) -> None:
    (found,) = torch.from_numpy(vector.input("nms_pred"))
    boxes, scores = cxcywh_to_xyxy(found[:4].T), found[4:].T
    for name in vector.arrays:
        wanted = re.fullmatch(r"nms_(?:val|(predict))_out_conf([\d.]+)_iou([\d.]+)(?:_(multilabel))?", name)
        if wanted is None:
            continue
        threshold, iou, best_only = float(wanted[2]), float(wanted[3]), wanted[4] is None
        anchor, class_id, score = candidates(scores, threshold, 30_000, best_class_only=best_only)
        kept = class_wise_nms(boxes[anchor], score, class_id, iou, 300)
        assert 0 < len(kept) < len(anchor), "a suppression that suppresses nothing proves nothing"
        rows = [boxes[anchor[kept]], score[kept, None], class_id[kept, None].to(boxes)]
        vector.compare(name, torch.cat(rows, dim=1))

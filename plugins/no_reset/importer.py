"""The authors' checkpoints: their state_dict and stored options to our model description and weights.

Widths, extras, classes and input channels are read from shapes. Strides come from the stored layer list ``cfg`` or,
without it, from the published networks, and so does everything else that the file does not hold; the report names
each. Names may have any of the prefixes ``module.``, ``model.`` and ``backbone.``; the training options, where the file
has them, are ``hints["hyper_parameters"]["args"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from snn_perception.api import CheckpointError, ComponentRef, ImportReport, ModelSpec, some

from . import presets
from .layout import COUNTER, Network, tensor_table
from .networks import Account, backbone_of, bare, is_detector, read_network, refuse_folded, stored_options
from .rescat import published_widths
from .st_vgg import Layer, published_layers

RATIOS = (2, 3)  # published aspect ratios: a map has the first, or both
MAX_WINDOW_US = 10**9

Imported = tuple[ModelSpec, dict[str, Tensor], ImportReport]
Import = Callable[[Mapping[str, Tensor], Mapping[str, Any]], Imported | None]
Describe = Callable[[list[Layer], Network, Mapping[str, Any], Account], ModelSpec]


def no_reset_ssd() -> Import:
    """Return the importer of detectors of github.com/loiccordone/no-reset-object-detection-with-snn."""
    return partial(_import, "no_reset_ssd", True, _detector)


def no_reset_classifier() -> Import:
    """Return the importer of the same repository's classifiers."""
    return partial(_import, "no_reset_classifier", False, _classifier)


def _import(
    name: str, detectors: bool, describe: Describe, tensors: Mapping[str, Tensor], hints: Mapping[str, Any]
) -> Imported | None:
    """Return the model description, our weights and a report; None if the tensors are not for this importer.

    Raises:
        CheckpointError: if they are, and something is missing, unexpected, or of another shape.
    """
    named = {bare(theirs): tensor for theirs, tensor in tensors.items()}
    backbone = backbone_of(named)
    if backbone is None or is_detector(named) != detectors:
        return None
    try:
        if len(named) != len(tensors):
            twice = sorted(theirs for theirs in tensors if theirs != bare(theirs) and bare(theirs) in tensors)
            raise CheckpointError(f"names that differ by their prefix only: {some(twice)}; keep one state_dict")
        refuse_folded(named)
        account = Account()
        options = stored_options(hints)
        layers, network = read_network(named, backbone, options, account)
        weights = _weights(named, network, account)
        spec = describe(layers, network, options, account)
    except CheckpointError as error:
        raise CheckpointError(f"importer '{name}': {error}") from None
    return spec, weights, ImportReport(name, len(named), defaults=account.defaults, notes=tuple(account.notes))


def _weights(named: Mapping[str, Tensor], network: Network, account: Account) -> dict[str, Tensor]:
    table = tensor_table(network)
    counters = [name for name in table if name.endswith(f".{COUNTER}") and name not in named]
    missing = [name for name in table if name not in named and name not in counters]
    unexpected = [name for name in named if name not in table]
    if missing or unexpected:
        raise CheckpointError(f"tensors do not fit the network: missing {some(missing)}; unexpected {some(unexpected)}")
    for theirs, (_, shape) in table.items():
        if theirs in named and tuple(named[theirs].shape) != shape:
            raise CheckpointError(f"tensor '{theirs}': expected shape {list(shape)}, got {list(named[theirs].shape)}")
    if counters:
        account.notes.append(f"{len(counters)} {COUNTER} are not in the file: 0")
    zero = torch.zeros((), dtype=torch.int64)
    return {ours: named.get(theirs, zero) for theirs, (ours, _) in table.items()}


def _detector(layers: list[Layer], network: Network, options: Mapping[str, Any], account: Account) -> ModelSpec:
    backbone = _backbone(layers, network, network.classifier_outputs)
    tbin, layout = _time_bins(network, "polarity_only", account)
    classes = _classes(network.num_classes, presets.CLASSES, "GEN1", account)
    head = _head_options(network, options, account)
    account.defaults["sensor_size"] = f"{presets.WIDTH}x{presets.HEIGHT} (GEN1)"
    _tell_published(account)
    window_us = _stored_window_us(options)
    if window_us is None:
        window_us = presets.WINDOW_US
        account.defaults["window_us"] = f"{window_us} (published)"
    return presets.detector_spec(backbone, head, classes=classes, window_us=window_us, tbin=tbin, layout=layout)


def _classifier(layers: list[Layer], network: Network, options: Mapping[str, Any], account: Account) -> ModelSpec:
    backbone = _backbone(layers, network, 0)
    tbin, layout = _time_bins(network, "collided", account)
    classes = _classes(network.classifier_outputs, presets.NCARS_CLASSES, "N-CARS", account)
    account.defaults["sensor_size"] = f"{presets.CROP}x{presets.CROP} (published)"
    _tell_published(account)
    sample_us, steps = _stored_window_us(options), options.get("T")
    if sample_us is not None and type(steps) is int and 1 <= steps <= sample_us and sample_us % steps == 0:
        window_us = sample_us // steps
    else:
        window_us = presets.STEP_US
        account.defaults["window_us"] = f"{window_us}, five to a sample (published)"
    return presets.classifier_spec(backbone, classes=classes, window_us=window_us, tbin=tbin, layout=layout)


def _backbone(layers: list[Layer], network: Network, classifier_outputs: int) -> ComponentRef:
    width = network.widths[0]
    published: list[Any] = published_widths(width) if network.backbone == "rescat" else published_layers(width)
    return ComponentRef(
        network.backbone,
        {
            "width": width,
            "layers": None if layers == published else layers,
            "extras": list(network.extras),
            "one_one_extras": network.one_one_extras,
            "classifier_outputs": classifier_outputs,
        },
    )


def _time_bins(network: Network, faulty_layout: str, account: Account) -> tuple[int, str]:
    """Return the micro time bins and their channel layout, which for more than one is that of the authors' code."""
    if network.in_channels % 2:
        raise CheckpointError(f"expected 2 input channels for each time bin, got {network.in_channels}")
    tbin = network.in_channels // 2
    if tbin == 1:
        return tbin, "bin_major"
    fault = {
        "polarity_only": "leaves the channels of time bins above 0 empty",
        "collided": "lets two of the time bins share a channel",
    }
    account.notes.append(f"the authors' code {fault[faulty_layout]}: layout {faulty_layout}")
    return tbin, faulty_layout


def _classes(count: int, published: tuple[str, ...], data_set: str, account: Account) -> tuple[str, ...]:
    named = count == len(published)
    classes = published if named else tuple(f"class_{i}" for i in range(count))
    account.defaults["classes"] = f"{', '.join(classes)} ({data_set if named else 'numbered'})"
    return classes


def _tell_published(account: Account) -> None:
    neuron = "PLIF: threshold 1, hard reset to 0, decayed input, sigmoid surrogate of alpha 4 (published)"
    account.defaults["neuron"] = neuron
    account.defaults["state_policy"] = "carry (published)"


def _head_options(network: Network, options: Mapping[str, Any], account: Account) -> dict[str, Any]:
    head: dict[str, Any] = {"aspect_ratios": [_ratios(i, count) for i, count in enumerate(network.per_cell)]}
    account.defaults["aspect_ratios"] = "2, or 2 and 3, by the number of default boxes per cell (published)"
    account.defaults["thresholds"] = (
        "score 0.01, suppression 0.45, 200 candidates per class, 100 detections (published)"
    )
    stored = {name: options.get(name) for name in presets.SCALES}
    scales = {name: value for name, value in stored.items() if isinstance(value, float) and 0 < value <= 1}
    if len(scales) == len(stored) and scales["min_ratio"] <= scales["max_ratio"]:
        return head | scales
    account.defaults["scales"] = f"{presets.SCALES['min_ratio']} to {presets.SCALES['max_ratio']} (published)"
    return head | presets.SCALES


def _stored_window_us(options: Mapping[str, Any]) -> int | None:
    stored = options.get("sample_size")
    return stored if type(stored) is int and 0 < stored <= MAX_WINDOW_US else None


def _ratios(position: int, per_cell: int) -> list[int]:
    count = (per_cell - 2) // 2
    if per_cell % 2 or not 0 <= count <= len(RATIOS):
        raise CheckpointError(f"feature map {position}: expected 2, 4 or 6 default boxes per cell, got {per_cell}")
    return list(RATIOS[:count])

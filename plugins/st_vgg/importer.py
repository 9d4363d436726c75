"""The authors' checkpoints: their state_dict and stored options to our model description and weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from snn_perception.api import CheckpointError, ImportReport, ModelSpec

from . import presets
from .backbone import Layer, parse_layers, published_layers
from .layout import COUNTER, Network, tensor_table

NAME = "no_reset_ssd"
RATIOS = (2, 3)  # published aspect ratios: a map has the first, or both
MAX_CHANNELS = 99_999
MAX_WINDOW_US = 10**9

Imported = tuple[ModelSpec, dict[str, Tensor], ImportReport]


def no_reset_ssd() -> Callable[[Mapping[str, Tensor], Mapping[str, Any]], Imported | None]:
    """Return the importer of detectors of github.com/loiccordone/no-reset-object-detection-with-snn."""
    return import_checkpoint


def import_checkpoint(tensors: Mapping[str, Tensor], hints: Mapping[str, Any]) -> Imported | None:
    """Return the model description, our weights and a report; None if the tensors are of another family.

    Widths, extras, classes and input channels are read from shapes. Strides come from the stored layer list ``cfg`` or,
    without it, from the published networks, and so does everything else that the file does not hold; the report names
    each. Names may have any of the prefixes ``module.``, ``model.`` and ``backbone.``.

    Args:
        tensors: state_dict with the authors' names.
        hints: plain values stored beside it; ``hints["hyper_parameters"]["args"]`` are the training options.

    Raises:
        CheckpointError: if the file is of this family and something is missing, unexpected, or of another shape.
    """
    named = {_bare(name): tensor for name, tensor in tensors.items()}
    if not _is_family(named):
        return None
    if len(named) != len(tensors):
        twice = sorted(name for name in tensors if name != _bare(name) and _bare(name) in tensors)
        raise _error(f"names that differ by their prefix only: {_some(twice)}; keep one state_dict in the file")
    _refuse_relatives(named)
    defaults: dict[str, str] = {}
    notes: list[str] = []
    options = _options(hints)
    layers, network = _network(named, options, defaults, notes)
    weights = _weights(named, network, notes)
    spec = _spec(layers, network, options, defaults, notes)
    return spec, weights, ImportReport(NAME, matched=len(named), defaults=defaults, notes=tuple(notes))


def _bare(name: str) -> str:
    return re.sub(r"^(?:(?:module|model|backbone)\.)+", "", name)


def _is_family(named: Mapping[str, Tensor]) -> bool:
    vgg = "features.0.norm.weight" in named and ("features.0.conv.weight" in named or "features.1.pad.weight" in named)
    return vgg or _is_rescat(named)


def _is_rescat(named: Mapping[str, Tensor]) -> bool:
    return "features.0.1.weight" in named and "features.1.0.conv1.weight" in named


def _refuse_relatives(named: Mapping[str, Tensor]) -> None:
    """Raise for files of these authors that hold something else than a trained ST-VGG detector."""
    if _is_rescat(named):
        raise _error("a ResCat-SNN checkpoint (features.1.0.conv1); expected ST-VGG+SSD, the only one read so far")
    if named["features.0.norm.weight"].dim() != 1:
        raise _error(
            "norms are folded into the convolutions (features.0.norm.weight is a kernel), which cannot be undone; "
            "give the checkpoint it was folded from"
        )
    if not any(name.startswith("head.") for name in named):
        raise _error(
            "no detection head in the file (no name starts with 'head.'); expected a detector, not a classifier"
        )


def _options(hints: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the stored training options, {} if there are none."""
    found = hints.get("hyper_parameters", hints)
    if isinstance(found, Mapping):
        found = found.get("args", found)
    return found if isinstance(found, Mapping) else {}


def _network(
    named: Mapping[str, Tensor], options: Mapping[str, Any], defaults: dict[str, str], notes: list[str]
) -> tuple[list[Layer], Network]:
    stages = [_kernel(named, name) for name in _run(named, "features.{}.conv.weight")]
    levels = len(_run(named, "extras.{}.0.bn_conv_neuron.2.weight"))
    one_one = "extras.0.1.bn_conv_neuron.2.weight" in named
    extras = [_kernel(named, f"extras.{i}.{int(one_one)}.bn_conv_neuron.2.weight") for i in range(levels)]
    boxes = [_kernel(named, name) for name in _run(named, "head.regression_head.module_list.{}.2.weight")]
    classes = [_kernel(named, name) for name in _run(named, "head.classification_head.module_list.{}.2.weight")]
    if not stages or len(boxes) != len(classes) or len(boxes) <= levels:
        raise _error(
            f"expected stages and, for each feature map, two head convolutions, got {len(stages)} stages, "
            f"{levels} extra levels, {len(boxes)} box and {len(classes)} class convolutions"
        )
    widths = [shape[0] for shape in stages]
    layers = _layers(widths, len(boxes) - levels, options, defaults, notes)
    ends = [channels for channels, stride in parse_layers(layers) if stride == 2]
    per_cell = [shape[0] // 4 for shape in boxes]
    classifier = "classifier.conv_classif.weight"
    network = Network(
        in_channels=stages[0][1],
        widths=tuple(widths),
        extras=tuple(shape[0] for shape in extras),
        one_one_extras=one_one,
        classifier_outputs=_kernel(named, classifier)[0] if classifier in named else 2,
        map_channels=(*ends, *(shape[0] for shape in extras)),
        per_cell=tuple(per_cell),
        num_classes=classes[0][0] // max(per_cell[0], 1),
    )
    return layers, network


def _layers(
    widths: Sequence[int], maps: int, options: Mapping[str, Any], defaults: dict[str, str], notes: list[str]
) -> list[Layer]:
    """Return the layer list with its strides, of which `maps` are 2; shapes do not tell which."""
    stored, published = options.get("cfg"), published_layers(1)
    if stored is None:
        if len(widths) != len(published) or maps != 3:
            raise _error(
                f"strides are not in the file (no option 'cfg'), and its {len(widths)} stages and {maps} maps before "
                "the extras are not those of the published networks (8 and 3); give the training checkpoint with its "
                "hyper_parameters"
            )
        defaults["strides"] = "2 in stages 3, 5 and 7, as in the published networks"
        return [f"{w}s2" if str(p).endswith("s2") else w for w, p in zip(widths, published, strict=True)]
    if not isinstance(stored, (list, tuple)):
        raise _error(f"option 'cfg': expected a list of layers, got {type(stored).__name__}")
    layers: list[Layer] = list(stored)
    try:
        parsed = parse_layers(layers)
        if parsed and parsed[-1][1] == 1 and sum(stride == 2 for _, stride in parsed) == maps - 1:
            # The authors' code overwrites the last item of the list in place, in the stored options too.
            layers[-1] = f"{layers[-1]}s2"
            notes.append(
                f"the stored layer list ends in {stored[-1]}, read as {layers[-1]} (the authors' code strips it)"
            )
            parsed = parse_layers(layers)
    except ValueError as error:
        raise _error(f"option 'cfg': {error}") from None
    if [channels for channels, _ in parsed] != list(widths) or sum(stride == 2 for _, stride in parsed) != maps:
        raise _error(
            f"option 'cfg' {_some([str(layer) for layer in stored], 12)} contradicts the file: "
            f"expected widths {list(widths)}, {maps} of them with stride 2"
        )
    return layers


def _weights(named: Mapping[str, Tensor], network: Network, notes: list[str]) -> dict[str, Tensor]:
    table = tensor_table(network)
    counters = [name for name in table if name.endswith(f".{COUNTER}") and name not in named]
    missing = [name for name in table if name not in named and name not in counters]
    unexpected = [name for name in named if name not in table]
    if missing or unexpected:
        raise _error(f"tensors do not fit the network: missing {_some(missing)}; unexpected {_some(unexpected)}")
    for theirs, (_, shape) in table.items():
        if theirs in named and tuple(named[theirs].shape) != shape:
            raise _error(f"tensor '{theirs}': expected shape {list(shape)}, got {list(named[theirs].shape)}")
    if counters:
        notes.append(f"{len(counters)} {COUNTER} are not in the file: 0")
    zero = torch.zeros((), dtype=torch.int64)
    return {ours: named.get(theirs, zero) for theirs, (ours, _) in table.items()}


def _spec(
    layers: list[Layer], network: Network, options: Mapping[str, Any], defaults: dict[str, str], notes: list[str]
) -> ModelSpec:
    if network.in_channels % 2:
        raise _error(f"expected 2 input channels for each time bin, got {network.in_channels}")
    tbin = network.in_channels // 2
    layout = "bin_major" if tbin == 1 else "polarity_only"
    if tbin > 1:
        notes.append("the authors' code leaves the channels of time bins above 0 empty: layout polarity_only")
    classes: tuple[str, ...] = presets.CLASSES
    if network.num_classes != len(classes):
        classes = tuple(f"class_{i}" for i in range(network.num_classes))
    defaults["classes"] = f"{', '.join(classes)} ({'GEN1' if classes == presets.CLASSES else 'numbered'})"
    backbone: dict[str, Any] = {
        "width": network.widths[0],
        "layers": None if layers == published_layers(network.widths[0]) else layers,
        "extras": list(network.extras),
        "one_one_extras": network.one_one_extras,
        "classifier_outputs": network.classifier_outputs,
    }
    head = _head_options(network, options, defaults)
    defaults["sensor_size"] = f"{presets.WIDTH}x{presets.HEIGHT} (GEN1)"
    defaults["neuron"] = "PLIF: threshold 1, hard reset to 0, decayed input, sigmoid surrogate of alpha 4 (published)"
    defaults["state_policy"] = "carry (published)"
    window_us = _window_us(options, defaults)
    return presets.detector_spec(backbone, head, classes=classes, window_us=window_us, tbin=tbin, layout=layout)


def _head_options(network: Network, options: Mapping[str, Any], defaults: dict[str, str]) -> dict[str, Any]:
    head: dict[str, Any] = {"aspect_ratios": [_ratios(i, count) for i, count in enumerate(network.per_cell)]}
    defaults["aspect_ratios"] = "2, or 2 and 3, by the number of default boxes per cell (published)"
    defaults["thresholds"] = "score 0.01, suppression 0.45, 200 candidates per class, 100 detections (published)"
    stored = {name: options.get(name) for name in presets.SCALES}
    scales = {name: value for name, value in stored.items() if isinstance(value, float) and 0 < value <= 1}
    if len(scales) == len(stored) and scales["min_ratio"] <= scales["max_ratio"]:
        return head | scales
    defaults["scales"] = f"{presets.SCALES['min_ratio']} to {presets.SCALES['max_ratio']} (published)"
    return head | presets.SCALES


def _window_us(options: Mapping[str, Any], defaults: dict[str, str]) -> int:
    stored = options.get("sample_size")
    if type(stored) is int and 0 < stored <= MAX_WINDOW_US:
        return stored
    defaults["window_us"] = f"{presets.WINDOW_US} (published)"
    return presets.WINDOW_US


def _ratios(position: int, per_cell: int) -> list[int]:
    count = (per_cell - 2) // 2
    if per_cell % 2 or not 0 <= count <= len(RATIOS):
        raise _error(f"feature map {position}: expected 2, 4 or 6 default boxes per cell, got {per_cell}")
    return list(RATIOS[:count])


def _run(named: Mapping[str, Tensor], pattern: str) -> list[str]:
    """Return the names `pattern` gives for 0, 1, 2, ... as long as they are in the file."""
    names: list[str] = []
    while (name := pattern.format(len(names))) in named:
        names.append(name)
    return names


def _kernel(named: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in named:
        raise _error(f"tensors do not fit the network: missing '{name}'")
    shape = tuple(named[name].shape)
    if len(shape) != 4 or not all(1 <= side <= MAX_CHANNELS for side in shape):
        raise _error(f"tensor '{name}': expected a kernel [out, in, height, width], got {list(shape)}")
    return shape


def _some(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(f"'{name}'" for name in names[:limit]) or "none") + more


def _error(text: str) -> CheckpointError:
    return CheckpointError(f"importer '{NAME}': {text}")

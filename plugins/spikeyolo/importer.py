"""The authors' checkpoints: their tensors and what a file says beside them, to our model description and weights.

Their files hold whole pickled modules, of which the confined reader keeps names and numbers (`Importer.inert` says of
which classes). Channels, repeats and classes are read from shapes; the neuron comes from the classes of the pickled
neurons (see `trees`). A probe then shows that the network fires as the weights need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.api import CheckpointError, ComponentRef, ImportReport, ModelSpec, SensorSize, State, parts_of, some

from . import presets
from .neuron import ILIF
from .probing import check_firing
from .shapes import COUNTER, Network, bare, is_of_family, norm_names, our_weights, read_network
from .trees import COCO, Tree, find_tree, modules_of
from .units import NORM_EPS

NAME = "spikeyolo"
Imported = tuple[ModelSpec, dict[str, Tensor], ImportReport]

# Packages whose classes occur in the authors' files.
_PACKAGES = ("ultralytics.", "torch.nn.modules.", "spikingjelly.")
_LARGEST_SIDE, _STRIDE = 4096, 32


class Importer:
    """Reads checkpoints of github.com/BICLab/SpikeYOLO, both source trees; see the module."""

    def inert(self, name: str) -> bool:
        """Return whether objects of a class may occur in a file, as records without behaviour."""
        return name.startswith(_PACKAGES)

    def __call__(self, tensors: Mapping[str, Tensor], hints: Mapping[str, Any]) -> Imported | None:
        """Return the model description, our weights and a report; None if the tensors are not of the family.

        Raises:
            CheckpointError: if they are, and something is missing, unexpected, of another shape, or the network does
                not fire as it should.
        """
        named = {bare(theirs): tensor for theirs, tensor in tensors.items()}
        if not is_of_family(named):
            return None
        try:
            if len(named) != len(tensors):
                raise CheckpointError("some tensors differ by a prefix of their names only; keep one state_dict")
            return _import(named, hints)
        except CheckpointError as error:
            raise CheckpointError(f"importer '{NAME}': {error}") from None


def _import(named: Mapping[str, Tensor], hints: Mapping[str, Any]) -> Imported:
    network = read_network(named)
    weights, absent = our_weights(named, network)
    modules = modules_of(hints)
    _check_norms(modules, network)
    tree = find_tree(hints, network)
    defaults, notes = dict(tree.assumed), [f"neuron: {tree.told}"]
    if absent:
        notes.append(f"{absent} {COUNTER} are not in the file: 0")
    expected = torch.arange(len(weights["head.projection"])).to(weights["head.projection"])
    if not torch.equal(weights["head.projection"], expected):
        notes.append("the distances of the box bins are not 0 to 15, as published; taken as they are")
    spec = _describe(network, tree, hints, modules, defaults)
    notes.append(_probe(network, tree, weights, spec))
    windows = {} if tree.name == COCO else {"windows": "label"}  # images are windows of their own
    return spec, weights, ImportReport(NAME, len(named), defaults=defaults, notes=tuple(notes), windows=windows)


def _describe(
    network: Network,
    tree: Tree,
    hints: Mapping[str, Any],
    modules: Mapping[str, Mapping[str, Any]],
    defaults: dict[str, str],
) -> ModelSpec:
    is_coco = tree.name == COCO
    side = _input_side(hints)
    if side is None:
        side = presets.IMAGE_SIDE if is_coco else presets.GEN1_SIDE
        defaults["network_size"] = f"{side}x{side} (published)"
    steps = tree.steps
    if steps is None:
        steps = 1 if is_coco else 2
        defaults["steps"] = f"{steps} (published)"
    options: dict[str, Any] = {"steps": steps, "network_size": [side, side]}
    if is_coco:
        size, window_us = SensorSize(side, side), presets.FRAME_US
        representation = ComponentRef("image", options)
        defaults["sensor_size"] = f"{size} (images of the network's own size)"
    else:
        size, window_us = SensorSize(presets.GEN1_HEIGHT, presets.GEN1_WIDTH), presets.GEN1_WINDOW_US
        representation = ComponentRef("ternary_image", {**options, "newest_first": True})
        defaults["sensor_size"] = f"{size} (GEN1)"
        defaults["newest_first"] = "True: the published training and validation reverse time"
    defaults["window_us"] = f"{window_us}" + ("" if is_coco else " (published)")
    defaults["thresholds"] = "score 0.001, suppression 0.7, 300 detections, several classes to a box (their validation)"
    defaults["state_policy"] = "per_window (published)"
    classes = _classes(modules, network, defaults)
    return presets.spec_of(representation, tree.leak, network.backbone, classes, window_us, size)


def _classes(modules: Mapping[str, Mapping[str, Any]], network: Network, defaults: dict[str, str]) -> tuple[str, ...]:
    """Return the class names that the file holds, else those of the data set with so many, else numbers."""
    names = modules.get("", {}).get("names")
    count = network.num_classes
    if isinstance(names, Mapping):  # from number to name
        names = [names.get(number) for number in range(count)] if len(names) == count else None
    if isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == count:
        return tuple(names)
    for data_set, published in (("COCO", presets.COCO_CLASSES), ("GEN1", presets.GEN1_CLASSES)):
        if count == len(published):
            defaults["classes"] = f"the {count} of {data_set}"
            return published
    defaults["classes"] = f"{count}, numbered"
    return tuple(f"class_{i}" for i in range(count))


def _check_norms(modules: Mapping[str, Mapping[str, Any]], network: Network) -> None:
    """Refuse norms with another eps than all published ones have; without pickled modules nothing tells it."""
    norms = [name for name in norm_names(network) if "eps" in modules.get(name, {})]
    wrong = [name for name in norms if modules[name]["eps"] != NORM_EPS]
    if wrong:
        raise CheckpointError(
            f"norms: expected eps {NORM_EPS}, got {ascii(modules[wrong[0]]['eps'])[:40]} in {some(wrong)}"
        )


class _Joined(nn.Module):
    """Backbone and head as one network."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor, state: State = None) -> tuple[Any, State]:
        before = parts_of(state, 2)
        maps, first = self.backbone(x, before[0])
        raw, last = self.head(maps, before[1])
        return raw, (first, last)


def _probe(network: Network, tree: Tree, weights: Mapping[str, Tensor], spec: ModelSpec) -> str:
    """Return in words what the neurons did on a probe image; raise CheckpointError if they are not the right ones."""
    with torch.device("meta"):
        joined = _Joined(*network.build(partial(ILIF, **tree.leak)))
    joined.load_state_dict(dict(weights), strict=True, assign=True)
    firing = check_firing(joined, tree.max_spikes, steps=spec.representation.options["steps"])
    silent = f", {len(firing.silent)} of {len(firing.largest)} neurons silent" if firing.silent else ""
    return f"a probe image of strength {firing.gain:g} makes neurons fire up to {firing.most:g} at once{silent}"


def _input_side(hints: Mapping[str, Any]) -> int | None:
    arguments = hints.get("train_args")
    side = arguments.get("imgsz") if isinstance(arguments, Mapping) else None
    return side if type(side) is int and 0 < side <= _LARGEST_SIDE and side % _STRIDE == 0 else None

"""Whole SpikeYOLO models: authors' names and values -> importer -> our detector in float64 -> every stored output."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from snn_perception_plugins.spikeyolo.decoding import decode_levels
from snn_perception_plugins.spikeyolo.keys import authors_neuron
from snn_perception_plugins.spikeyolo.neuron import ILIF
from torch import Tensor

from snn_perception.boxes import xyxy_to_cxcywh
from snn_perception.checkpoint import load_weights
from snn_perception.detector import Detector
from snn_perception.registry import Registry
from snn_perception.state import State
from tests.golden_support.vectors import Vector, golden_fill

LAYERS_IN_NECK = (11, 13, 15, 17, 21, 24)  # without weights; what they make is the input of the layer behind
_LIBRARY = "ultralytics.nn.modules.yolo_spikformer"
_ROUNDED = 6e-6  # of figures stored with five decimals


def tells_model(vector: Vector) -> bool:
    return {"win0_raw0_shape", "win0_decoded_shape"} <= vector.arrays.keys()


@torch.no_grad()
def check_model(vector: Vector, registry: Registry) -> None:
    """Windows from rest, and carried ones where there are any: heads, boxes, layers, firing rates."""
    state = _filled(vector)
    detector = _imported(vector, registry, state)
    assert sum(p.numel() for p in detector.parameters()) == vector.json["parameters"]
    counts: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with _watching(detector, counts):
        for window in _windows(vector, "win"):
            _check_window(vector, f"win{window}", window, detector, None)
    _check_firing(vector, counts)
    carried: State = None
    for window in _windows(vector, "carry"):
        carried = _check_window(vector, f"carry{window}", window, detector, carried)


def _windows(vector: Vector, kind: str) -> list[int]:
    return sorted({int(found[1]) for name in vector.arrays if (found := re.match(rf"{kind}(\d+)_", name))})


def _check_window(vector: Vector, key: str, seed: int, detector: Detector, state: State) -> State:
    with _layer_outputs(detector) as layers:
        raw, after = detector(_input(vector, seed), state)
    for i, level in enumerate(raw):
        _compare(vector, f"{key}_raw{i}", level)
    filled, published = detector.head.projection, torch.arange(16, dtype=torch.float64)
    for name, projection in (("decoded", published), ("decoded_dflfill", filled)):
        if f"{key}_{name}_shape" in vector.arrays:
            boxes, scores = decode_levels(raw, detector.head.strides, projection)
            _compare(vector, f"{key}_{name}", torch.cat([xyxy_to_cxcywh(boxes), scores], dim=2).transpose(1, 2))
    for number, output in layers.items():
        if f"{key}_layer{number}_shape" in vector.arrays:
            _compare(vector, f"{key}_layer{number}", output)
    return after


def _input(vector: Vector, seed: int) -> Tensor:
    """Return a window as [T, B, C, H, W]; an image without a time axis is seen at every step."""
    x = torch.from_numpy(golden_fill().events(seed=seed, shape=tuple(vector.json["input_shape"])))
    if vector.json["input_layout"] == "B,T,C,H,W":
        return x.transpose(0, 1)
    assert vector.json["input_layout"] == "B,C,H,W"
    return x.expand(vector.json["config"]["T"], *x.shape)


def _filled(vector: Vector) -> dict[str, Tensor]:
    fill = golden_fill().fill
    return {name: torch.from_numpy(np.asarray(fill(name, tuple(shape)))) for name, shape, _ in vector.json["state"]}


def _imported(vector: Vector, registry: Registry, state: dict[str, Tensor]) -> Detector:
    spec, weights, report = registry.build("checkpoint_importer", "spikeyolo")(state, _hints(vector))
    assert not report.missing and not report.unexpected and report.matched == len(state)
    assert "tree" not in report.defaults, "the file told which tree it comes from"
    detector = Detector(spec, registry).to(torch.float64).eval()
    load_weights(detector, weights, str(vector))
    return detector


def _hints(vector: Vector) -> dict[str, Any]:
    """Return what the reader says of the pickled modules of the recipe's source tree: the neurons' classes."""
    config = vector.json["config"]
    if config["neuron"].startswith("decay"):
        own = {"class": f"{_LIBRARY}.mem_update"}
        inner = {"class": f"{_LIBRARY}.MultiSpike{config['D']}"}
    else:
        assert config["neuron"] == "tau 2, decayed input"
        own, inner = {"class": "spikingjelly.clock_driven.neuron.MultiStepLIFNode", "tau": 2.0, "v_reset": None}, None
    modules: dict[str, Any] = {"model.0": {"class": f"{_LIBRARY}.MS_GetT", "T": config["T"]}}
    for name in vector.json["firing"]:
        modules[name] = own
        if inner is not None:
            modules[f"{name}.qtrick"] = inner
    return {"modules": modules}


@contextmanager
def _layer_outputs(detector: Detector) -> Iterator[dict[int, Tensor]]:
    """Collect what every numbered layer of the authors' table gives, those of the neck without weights included."""
    seen: dict[int, Tensor] = {}

    def watch(number: int) -> Callable[..., None]:
        def note(module: Any, args: Any, output: Any) -> None:
            seen[number] = output[0]
            if number == 1 or number - 1 in LAYERS_IN_NECK:
                seen[number - 1] = args[0]

        return note

    handles = [layer.register_forward_hook(watch(int(number))) for number, layer in detector.backbone.layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _watching(detector: Detector, counts: dict[str, list[tuple[float, float]]]) -> Iterator[None]:
    """Note the mean output and the share of outputs that are not 0 of every neuron, by the authors' names."""
    repeats = detector.spec.backbone.options["repeats"]

    def watch(name: str) -> Callable[..., None]:
        def note(module: Any, args: Any, output: Any) -> None:
            spikes = output[0]
            counts[name].append((float(spikes.mean()), float((spikes != 0).double().mean())))

        return note

    handles = [
        module.register_forward_hook(watch(f"model.{authors_neuron(name, repeats)}"))
        for name, module in detector.named_modules()
        if isinstance(module, ILIF)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_firing(vector: Vector, counts: dict[str, list[tuple[float, float]]]) -> None:
    expected = vector.json["firing"]
    assert counts.keys() == expected.keys()
    for name, figures in counts.items():
        mean = np.mean(figures, axis=0)
        assert np.abs(mean - expected[name]).max() <= _ROUNDED, f"{vector}: {name} fires {mean}, not {expected[name]}"
    assert max(mean for mean, _ in expected.values()) > 0, f"{vector}: a silent network proves nothing"


def _compare(vector: Vector, name: str, tensor: Tensor) -> None:
    """Compare what is stored of an array: all of it, or its shape, figures and every so manyth element."""
    values = tensor.numpy()
    vector.compare(f"{name}_shape", np.array(values.shape))
    vector.compare(f"{name}_stats", np.array([values.sum(), values.mean(), values.std()]))
    if name in vector.arrays:
        vector.compare(name, values)
    for stored in vector.arrays:
        if every := re.fullmatch(rf"{re.escape(name)}_sub(\d+)", stored):
            vector.compare(stored, values.reshape(-1)[:: int(every[1])])

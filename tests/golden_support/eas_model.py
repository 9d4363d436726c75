"""Whole EAS-SNN models: authors' names and values -> importer -> our detector in float64 -> every stored output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from snn_perception_plugins.eas_snn.points import anchor_points, decode_boxes, in_rows
from torch import Tensor, nn

from snn_perception.checkpoint import load_weights
from snn_perception.detector import Detector
from snn_perception.registry import Registry
from snn_perception.spec import ComponentRef, ModelSpec
from snn_perception.state import State
from tests.golden_support.vectors import Vector, golden_fill

EVERY = 97  # large arrays are stored one element in so many
WINDOWS = 3  # at most
# The authors' options that a checkpoint does not hold: name -> (ours, value where a recipe says nothing).
_BACKBONE = {
    "T": ("steps", 4),
    "Tm": ("micro_steps", 4),
    "Ts": ("slots", 1),
    "thresh": ("sampler_threshold", 1.0),
    "reset": ("sampler_reset", 0.0),
    "readout": ("readout", "sum"),
    "spike_attach": ("spike_attach", False),
    "write_zero": ("write_zero", False),
    "abs": ("absolute", False),
}


def tells_model(vector: Vector) -> bool:
    return {"w0/head_raw/shape", "w0/head_decoded/shape"} <= vector.arrays.keys()


@torch.no_grad()
def check_model(vector: Vector, registry: Registry) -> None:
    """Windows from rest, and one that goes on from another: heads, maps, frames and firing rates."""
    detector, neurons = _imported(vector, registry)
    assert sum(p.numel() for p in detector.parameters()) == vector.json["parameters"]
    windows = [k for k in range(WINDOWS) if f"w{k}/head_raw/shape" in vector.arrays]
    states = [_check_window(vector, f"w{k}", detector, neurons, k, None) for k in windows]
    if "noreset_0_then_1/head_raw/shape" in vector.arrays:
        _check_window(vector, "noreset_0_then_1", detector, neurons, 1, states[0])


def _imported(vector: Vector, registry: Registry) -> tuple[Detector, list[nn.Module]]:
    """Return our detector, and its neurons in the order of the recipe."""
    state = _filled(vector)
    spec, weights, report = registry.build("checkpoint_importer", "eas_snn")(state, {})
    assert not report.missing and report.matched + len(report.unexpected) == len(state)
    detector = Detector(_with_options(spec, vector.json["options"]), registry).to(torch.float64).eval()
    load_weights(detector, weights, str(vector))
    theirs = {value.data_ptr(): name for name, value in state.items() if name.endswith(".act.w")}
    modules = {
        theirs[value.data_ptr()].removesuffix(".w"): detector.get_submodule(ours.removesuffix(".w"))
        for ours, value in weights.items()
        if value.data_ptr() in theirs
    }
    order = vector.json.get("spiking_layers") or []  # a network without neurons has none
    assert sorted(modules) == sorted(order)
    return detector, [modules[name] for name in order]


def _filled(vector: Vector) -> dict[str, Tensor]:
    """Return the authors' state_dict: the fill rule times the recipe's gains."""
    gains = {text.partition(" ")[0]: gain for text, gain in vector.json["gain"].items()}
    assert gains.keys() <= {"embedding", "convolutions", "everything", "rule"}, f"{vector}: gains that are not known"
    state = {}
    for name, shape, dtype in vector.json["state"]:
        value = np.asarray(golden_fill().fill(name, tuple(shape)))
        if name.startswith("embedding."):
            gain = gains.get("embedding", 1.0) if len(shape) >= 2 else 1.0
        else:
            gain = gains.get("convolutions", 1.0) if name.endswith(".conv.0.weight") else gains.get("everything", 1.0)
        value = value if value.dtype.kind == "i" else value * gain
        state[name] = torch.from_numpy(np.asarray(value)).to(getattr(torch, dtype))
    return state


def _with_options(spec: ModelSpec, options: dict[str, str]) -> ModelSpec:
    chosen = {ours: _value(options.get(theirs, default)) for theirs, (ours, default) in _BACKBONE.items()}
    backbone = ComponentRef(spec.backbone.name, spec.backbone.options | chosen)
    bins = ComponentRef(spec.representation.name, spec.representation.options | {"steps": chosen["micro_steps"]})
    surrogate = {"alpha": float(options.get("alpha", 2.0))}
    neuron = ComponentRef(spec.neuron.name, spec.neuron.options | surrogate)
    return replace(spec, backbone=backbone, representation=bins, neuron=neuron)


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return {"True": True, "False": False, "None": None}.get(text, text) if text.isalpha() else json.loads(text)
    except ValueError:
        return text


def _check_window(
    vector: Vector, key: str, detector: Detector, neurons: list[nn.Module], seed: int, state: State
) -> State:
    bins = torch.from_numpy(golden_fill().events(seed=seed, shape=tuple(vector.json["input_shape"])))
    x = bins.flatten(0, -5).transpose(0, 1)  # [B, Tl, Tm, 2, H, W] or without Tl -> [Tm, B * Tl, 2, H, W]
    backbone = detector.backbone
    parts = ([backbone.sampler], [backbone.trunk], [backbone.neck], _fires(backbone.sampler), neurons)
    with ExitStack() as stack:
        frames, maps, necks, fired, spiking = (stack.enter_context(_results(modules)) for modules in parts)
        raw, after = detector(x, state)
    _compare(vector, f"{key}/head_raw", _scored(raw))
    _compare(vector, f"{key}/head_decoded", _decoded(raw, detector.head.strides))
    _compare(vector, f"{key}/embedding", frames[0][1])
    for i, (fine, neck) in enumerate(zip(maps[0][1], necks[0][1], strict=True)):
        _compare(vector, f"{key}/backbone_dark{i + 3}", fine)
        _compare(vector, f"{key}/fpn_{i}", neck)
    if f"{key}/firing_rates" in vector.arrays:
        rates = {module: float(spikes.mean()) for module, (spikes, _) in spiking}
        assert all(rate > 0 for rate in rates.values()), f"{vector}: a silent layer proves nothing"
        vector.compare(f"{key}/firing_rates", np.array([rates[neuron] for neuron in neurons]))
    _compare_sampler(vector, key, [spikes for _, spikes in fired])
    return after


@contextmanager
def _results(modules: list[nn.Module]) -> Iterator[list[tuple[nn.Module, Any]]]:
    """Collect (module, result) of each module's calls, in the order of the calls."""
    seen: list[tuple[nn.Module, Any]] = []
    handles = [m.register_forward_hook(lambda m, _args, result: seen.append((m, result))) for m in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _fires(sampler: nn.Module) -> list[nn.Module]:
    """Return the spike function of the sampler's cell, which the layers in front of it have too."""
    found = [module for name, module in sampler.named_modules() if name.rpartition(".")[2] == "fire"]
    return found[-1:]


def _compare_sampler(vector: Vector, key: str, fired: list[Tensor]) -> None:
    if f"{key}/sampler_rate_per_step" not in vector.arrays:
        return
    steps = len(vector.arrays[f"{key}/sampler_rate_per_step"])  # the reference may stop early
    spikes = torch.stack(fired)[:steps]
    vector.compare(f"{key}/sampler_rate_per_step", spikes.flatten(1).mean(1))
    vector.compare(f"{key}/sampler_fired_fraction", spikes.any(dim=0).double().mean())


def _scored(raw: tuple[Tensor, ...]) -> Tensor:
    """Return [B, A, 5 + K]: box codes as they are, scores after the sigmoid."""
    rows = in_rows(raw)
    return torch.cat([rows[..., :4], rows[..., 4:].sigmoid()], dim=-1)


def _decoded(raw: tuple[Tensor, ...], strides: tuple[int, ...]) -> Tensor:
    rows = in_rows(raw)
    boxes = decode_boxes(rows[..., :4], anchor_points(raw, strides, rows.dtype))
    return torch.cat([boxes, rows[..., 4:].sigmoid()], dim=-1)


def _compare(vector: Vector, name: str, tensor: Tensor) -> None:
    """Compare what is stored of a tensor; where the reference has no axis of time, ours is averaged over it."""
    if f"{name}/shape" not in vector.arrays:
        return
    shape = vector.arrays[f"{name}/shape"]
    if len(shape) == tensor.dim() - 1:
        tensor = tensor.mean(0)
    vector.compare(f"{name}/shape", np.array(tensor.shape))
    for suffix, values in (("", tensor), (f"/every{EVERY}", tensor.reshape(-1)[::EVERY])):
        if name + suffix in vector.arrays:
            vector.compare(name + suffix, values)
    numbers = tensor.numpy()
    vector.compare(f"{name}/stats", np.array([numbers.sum(), numbers.mean(), numbers.std()]))

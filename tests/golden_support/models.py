"""Whole models: authors' names and values -> importer -> our detector in float64 -> every output and spike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn_perception.checkpoint import load_weights
from snn_perception.detector import Detector
from snn_perception.errors import CheckpointError
from snn_perception.fold import fold_norms
from snn_perception.nn import Spike
from snn_perception.registry import Registry
from snn_perception.training.config import TrainConfig
from snn_perception.training.engine import Engine
from snn_perception.training.feed import Batch
from snn_perception.training.steps import Recurrence
from snn_perception.types import SensorSize, Targets
from tests.golden_support.vectors import Vector, event_counts, filled_state

# The options that the authors' training script stores beside the weights, as far as a recipe has them.
STORED_OPTIONS = ("cfg", "extras", "one_one_extras", "model", "tbin", "num_classes")


def imported(vector: Vector, registry: Registry) -> tuple[Detector, dict[str, str]]:
    """Return our detector with the vector's weights, dtype and mode, and the authors' name of each of our tensors."""
    state = filled_state(vector)
    options = {name: vector.json[name] for name in STORED_OPTIONS if name in vector.json}
    for name in registry.names("checkpoint_importer"):
        result = registry.build("checkpoint_importer", name)(state, {"hyper_parameters": {"args": options}})
        if result is not None:
            break
    else:
        raise CheckpointError(f"{vector}: no importer knows these names")
    spec, weights, report = result
    assert not report.missing and not report.unexpected and report.matched == len(state)
    detector = Detector(spec, registry).to(dtype=getattr(torch, vector.json["dtype"]))
    detector.train(vector.json["mode"] == "train")
    load_weights(detector, weights, str(vector))
    by_value = {value.data_ptr(): name for name, value in state.items()}
    theirs = {ours: by_value[value.data_ptr()] for ours, value in weights.items() if value.data_ptr() in by_value}
    return detector, theirs


def spiking_layers(detector: nn.Module) -> list[nn.Module]:
    """Return the neurons of a model, in the order of the forward pass."""
    return [module for module in detector.modules() if any(isinstance(child, Spike) for child in module.children())]


@contextmanager
def watching(modules: list[nn.Module]) -> Iterator[list[Any]]:
    """Collect the first result of each module's calls, in the order of the calls."""
    seen: list[Any] = []
    handles = [m.register_forward_hook(lambda _m, _args, result: seen.append(result[0])) for m in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def compare_heads(vector: Vector, window: int, raw: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]) -> None:
    boxes, classes = raw
    for i, (box_map, class_map) in enumerate(zip(boxes, classes, strict=True)):
        vector.compare(f"w{window}_reg{i}", box_map)
        vector.compare(f"w{window}_cls{i}", class_map)


@torch.no_grad()
def check_detector(vector: Vector, registry: Registry) -> None:
    """Three windows with carried membranes: head maps, feature bits, spike counts and firing rates of each layer."""

    def compare(window: int, raw: Any, features: list[Tensor]) -> None:
        compare_heads(vector, window, raw)
        for i, feature in enumerate(features):
            assert list(feature[0].shape) == vector.json["feature_shapes"][i]
            vector.compare(f"w{window}_feat{i}_bits", np.packbits(feature.numpy().astype(bool).ravel()))

    _check_windows(vector, registry, compare)


@torch.no_grad()
def check_classifier(vector: Vector, registry: Registry) -> None:
    """Windows with carried membranes: logits, spike counts and firing rates of each layer."""
    _check_windows(vector, registry, lambda window, raw, features: vector.compare(f"w{window}_logits", raw))


def _check_windows(vector: Vector, registry: Registry, compare: Callable[[int, Any, list[Tensor]], None]) -> None:
    """Run a vector's windows and compare what is common to all models; `compare` sees raw output and feature maps."""
    detector, _ = imported(vector, registry)
    assert sum(p.numel() for p in detector.parameters()) == vector.json["num_params"]
    neurons = spiking_layers(detector)
    state, counts, rates = None, [], []
    for k in range(vector.json["windows"]):
        with watching(neurons) as spikes, watching([detector.backbone]) as features:
            raw, state = detector(event_counts(k, vector.json["input_shape"]).to(detector.dtype), state)
        compare(k, raw, features[0])
        assert [list(s[0].shape) for s in spikes] == [shape for _, shape in vector.json["spiking_layers"]]
        counts.append([int(s.sum()) for s in spikes])
        rates.append([float(s.mean()) for s in spikes])
    vector.compare("spike_counts", np.array(counts).T)
    vector.compare("rates", np.array(rates).T)


@torch.no_grad()
def check_folded(vector: Vector, registry: Registry) -> None:
    """The same windows with every norm folded into its convolution: head maps, and the folded stem."""
    source = vector.sibling("fused_from")
    detector, _ = imported(source, registry)
    folded = fold_norms(detector)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    stem = next(module for module in folded.backbone.modules() if isinstance(module, nn.Conv2d))
    vector.compare("first_conv_weight", stem.weight)
    vector.compare("first_conv_bias", stem.bias)
    neurons, flips = spiking_layers(folded), 0
    state = plain_state = None
    for k in range(source.json["windows"]):
        x = event_counts(k, source.json["input_shape"])
        with watching(neurons) as spikes, watching(spiking_layers(detector)) as plain_spikes:
            raw, state = folded(x, state)
            _, plain_state = detector(x, plain_state)
        compare_heads(vector, k, raw)
        flips += sum(int((a != b).sum()) for a, b in zip(spikes, plain_spikes, strict=True))
    vector.compare_value(flips, "spike_flips")


def check_training(vector: Vector, registry: Registry) -> None:
    """Truncated training over the windows: losses, gradient of every parameter, parameters after each update.

    Through the steps of the product's own training loop.
    """
    detector, theirs = imported(vector.sibling("state_from"), registry)
    detector.train()
    parameters = {theirs[name]: p for name, p in detector.named_parameters()}
    names = vector.json["param_names"]
    assert sorted(parameters) == sorted(names)
    clip = vector.json["clip_grad_norm"]
    config = _train_config(vector, clip)
    engine = Engine(detector, config, torch.device("cpu"))
    sample = re.search(r"events\(seed=10\*b\+k, shape=\(([\d, ]+)\)\)", vector.json["input"])
    shape = [int(side) for side in sample[1].split(",")]
    recurrence = Recurrence(detector, engine, config, SensorSize(*shape[-2:]))
    step, grad_norms, param_norms = 0, [], []
    for k in range(vector.json["windows"]):
        rows = torch.cat([event_counts(10 * b + k, shape) for b in range(vector.json["batch"])], dim=1)
        targets = tuple(_targets(target) for target in vector.json["targets"][str(k)])
        labelled = [b for b, target in enumerate(targets) if target]
        batch = Batch(k, rows, targets, torch.full((len(targets),), k == 0))
        taken = recurrence.take(batch, 0 if labelled else 1, ends_chunk=False, epochs_done=0)
        if not labelled:
            continue
        expected = vector.json["steps"][step]
        assert expected["window"] == k and expected["samples"] == labelled
        vector.compare_value(taken.losses["box"], "steps", step, "loss_bbox")
        vector.compare_value(taken.losses["class"], "steps", step, "loss_cls")
        vector.compare_value(taken.grad_norm, "steps", step, "grad_norm_before_clip")
        before_clip = max(1.0, (taken.grad_norm + 1e-6) / clip)  # what torch's clipping divided by
        grads = [parameters[n].grad for n in names]
        grad_norms.append([-1.0 if grad is None else float(grad.norm()) * before_clip for grad in grads])
        param_norms.append([float(parameters[n].detach().norm()) for n in names])
        for name in vector.arrays:
            if name.startswith(f"after{k}:"):
                vector.compare(name, parameters[name.partition(":")[2]])
        step += 1
    assert step == len(vector.json["steps"])
    vector.compare("grad_norms", np.array(grad_norms))
    vector.compare("param_norms", np.array(param_norms))
    buffers = {theirs[name]: b for name, b in detector.named_buffers()}
    vector.compare("running_mean_stem", buffers["backbone.model.features.0.norm.running_mean"])
    vector.compare("running_var_features1", buffers["backbone.model.features.1.norm.running_var"])


def _train_config(vector: Vector, clip: float) -> TrainConfig:
    """Return the settings of a recipe; the schedule is too long to move."""
    adamw = re.fullmatch(r"AdamW lr (\S+), betas (\S+)/(\S+), eps (\S+), weight decay (\S+)", vector.json["optimizer"])
    lr, *betas, eps, decay = map(float, adamw.groups())
    return TrainConfig(lr=lr, betas=tuple(betas), eps=eps, weight_decay=decay, clip_norm=clip, schedule="constant")


def _targets(recipe: dict[str, Any] | None) -> Targets | None:
    if recipe is None:
        return None
    return Targets(np.array(recipe["boxes"], np.float32), np.array(recipe["labels"], np.int64))

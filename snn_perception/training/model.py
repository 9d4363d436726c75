"""The model of a run: a preset with its options, changed where the run says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from snn_perception.checkpoint import load_weights, read_checkpoint
from snn_perception.detector import Detector, resolve
from snn_perception.errors import SpecError
from snn_perception.registry import Registry
from snn_perception.spec import ROLES, ComponentRef, ModelSpec
from snn_perception.training.config import ModelConfig
from snn_perception.types import SensorSize
from snn_perception.zoo import checkpoint_path

_CHANGEABLE = (*ROLES, *(f.name for f in fields(ModelSpec) if f.name not in ROLES))


def make_spec(config: ModelConfig, registry: Registry) -> ModelSpec:
    """Return the resolved description of the model to train.

    Raises:
        SpecError: if the run names no model, or changes something that a description does not have.
        PluginError: for an unknown preset, component or option.
    """
    if config.preset:
        spec: ModelSpec = registry.build("preset", config.preset, **config.options)
    elif config.checkpoint:
        spec = read_checkpoint(checkpoint_path(config.checkpoint)).spec
    else:
        raise SpecError("model.preset: expected the name of a preset ('plugins preset' lists them), got nothing")
    return resolve(_changed(spec, config.overrides), registry)


def make_detector(config: ModelConfig, registry: Registry, seed: int, *, fresh: bool = True) -> Detector:
    """Return the model to train, in training mode, with fresh weights of that seed or those of the named checkpoint.

    Args:
        fresh: whether the run begins here; the weights of one that goes on come from its own state.

    Raises: as `make_spec`, and CheckpointError if the checkpoint does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: weights are made there
        detector = Detector(make_spec(config, registry), registry)
    if config.checkpoint and fresh:
        load_weights(detector, read_checkpoint(checkpoint_path(config.checkpoint)).weights, config.checkpoint)
    return detector.train()


def _changed(spec: ModelSpec, overrides: Mapping[str, Any]) -> ModelSpec:
    for name, value in overrides.items():
        if name not in _CHANGEABLE:
            raise SpecError(f"model.overrides.{name}: unknown; a model has {', '.join(_CHANGEABLE)}")
        if name in ROLES:
            value = _changed_component(name, getattr(spec, name), value)
        elif name == "sensor_size":
            value = SensorSize(**value) if isinstance(value, Mapping) else value
        elif name == "classes":
            value = tuple(value)
        spec = replace(spec, **{name: value})
    return spec


def _changed_component(role: str, ref: ComponentRef, change: Any) -> ComponentRef:
    if isinstance(change, str):
        return ComponentRef(change)
    if not isinstance(change, Mapping):
        raise SpecError(f"model.overrides.{role}: expected options or a component's name, got {change!r:.60}")
    options = {key: value for key, value in change.items() if key != "name"}
    if "name" in change and change["name"] != ref.name:
        return ComponentRef(str(change["name"]), options)
    return replace(ref, options={**ref.options, **options})

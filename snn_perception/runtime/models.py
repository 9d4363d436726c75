"""A model as a user names it: the path of a checkpoint, weights that are shipped, or a preset."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from snn_perception.checkpoint import load_checkpoint
from snn_perception.detector import Detector, build_preset
from snn_perception.errors import PluginError, SnnPerceptionError
from snn_perception.registry import Registry
from snn_perception.zoo import find_checkpoint, shipped

UNTRAINED_SEED = 0


@dataclass(frozen=True)
class OpenedModel:
    """A detector on its device, the name it was asked for by, and whether its weights were ever trained."""

    name: str
    detector: Detector
    is_preset: bool

    @property
    def takes_images(self) -> bool:
        """Whether the model sees images in place of events."""
        return bool(getattr(self.detector.representation, "takes_images", False))

    @property
    def note(self) -> str:
        """What a person must know before looking at its detections; empty for a checkpoint."""
        if not self.is_preset:
            return ""
        return f"preset '{self.name}' has untrained weights (seed {UNTRAINED_SEED}): its detections mean nothing"


def open_model(name: str, registry: Registry, *, device: str = "cpu") -> OpenedModel:
    """Return the checkpoint at a path, or else shipped weights, or else a preset with untrained weights.

    Raises:
        CheckpointError: if the file is damaged, foreign or does not fit.
        PluginError: if there is nothing of that name, or a component is missing.
        SnnPerceptionError: if the device cannot be used.
    """
    check_device(device)
    path = find_checkpoint(name)
    if path is not None:
        return OpenedModel(name, load_checkpoint(path, registry=registry, device=device), is_preset=False)
    try:
        registry.find("preset", name)
    except PluginError as error:
        known = f"; shipped weights: {', '.join(shipped())}" if shipped() else ""
        raise PluginError(f"model '{name}': no such file, and {error}{known}") from None
    detector = build_preset(name, registry=registry, seed=UNTRAINED_SEED)
    return OpenedModel(name, detector.to(device), is_preset=True)


def check_device(name: str) -> None:
    """Raise SnnPerceptionError unless tensors can be made on the torch device of that name."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise SnnPerceptionError(f"device '{name}' cannot be used ({reason}); try 'cpu'") from None

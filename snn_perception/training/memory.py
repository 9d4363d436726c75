"""How much memory a run will take, from the model itself and before any data are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.training.config import TrainConfig
from snn_perception.types import EventArray, EventWindow

_ROWS = 2  # of the trial; norms refuse a single value per channel in training


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training holds at once, on the model's device, of one process alone.

    Attributes:
        weights: parameters and buffers, twice: one copy is validated and saved.
        gradients, moments: of AdamW. average: moving average of the weights.
        activations: what the backward pass needs of `windows` windows of every row.
        windows: windows that the gradient reaches over.
    """

    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    windows: int

    @property
    def total(self) -> int:
        """All of it; libraries, data and what lives for a moment come on top."""
        return self.weights + self.gradients + self.moments + self.average + self.activations

    def as_dict(self) -> dict[str, int]:
        """Return all figures by name."""
        return {**asdict(self), "total": self.total}


def estimate_memory(detector: Detector, config: TrainConfig, windows: int | None = None) -> MemoryEstimate:
    """Return what training this model needs; it runs one window forward, and changes the norms of the model given.

    With autocast it is an upper bound: activations are then kept in half of the bytes, membranes are not.

    Args:
        windows: that the gradient reaches over at most; by default as the mode has it. For classification, the windows
            of a sample.
    """
    held = sum(_bytes(tensor) for tensor in detector.state_dict().values())
    learning = sum(_bytes(p) for p in detector.parameters() if p.requires_grad)
    windows = windows or _windows_kept(detector, config)
    return MemoryEstimate(
        weights=2 * held,
        gradients=learning,
        moments=2 * learning,
        average=held if config.ema else 0,
        activations=saved_for_backward(detector, _ROWS) // _ROWS * config.lanes * windows,
        windows=windows,
    )


def saved_for_backward(detector: Detector, rows: int) -> int:
    """Return the bytes that one window of `rows` batch rows keeps for the backward pass, weights aside."""
    spec = detector.spec
    x = detector.represent(EventWindow(EventArray.empty(spec.sensor_size), 0, spec.window_us))
    x = x.expand(-1, rows, -1, -1, -1).contiguous()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*detector.parameters(), *detector.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor  # and so stays alive: no other tensor gets its address meanwhile

    was_training = detector.training
    detector.train()
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = detector(x, None)
    finally:
        detector.train(was_training)
    del result
    return sum(kept.values())


def _windows_kept(detector: Detector, config: TrainConfig) -> int:
    if config.update == "chunk":
        return config.chunk_windows
    return config.grad_windows + 1 if detector.spec.state_policy == "carry" else 1


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

"""Plain training loops of one detector, its neurons and norms run in different ways, on clustered windows."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from snn_perception import build_preset, load_registry
from snn_perception.detector import Detector
from snn_perception.fusing import plain_operations
from snn_perception.spec import ComponentRef
from snn_perception.state import State, detach
from snn_perception.testing import FiringMeter, spiking_layers, wake
from snn_perception.types import Targets

FUSED, PLAIN, LIBRARY = "fused", "plain", "spikingjelly"
ENGINES = (FUSED, PLAIN, LIBRARY)
WINDOWS = 8  # different ones; a loop goes through them again and again


def windows(batch: int, height: int, width: int, *, seed: int = 0) -> list[Tensor]:
    """Return `WINDOWS` inputs [1, B, 2, H, W] of 0 and 1: about 8 % active pixels, in clusters that move slowly."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre = generator.random((batch, 8, 2)) * (height, width)
    speed = generator.normal(size=(batch, 8, 2)) * 4.0
    radius = generator.uniform(8, 24, (batch, 8)) * height / 240
    found = []
    for k in range(WINDOWS):
        at = (centre + k * speed) % (height, width)
        distance = np.hypot(y - at[..., 0, None, None], x - at[..., 1, None, None]) / radius[..., None, None]
        density = 0.9 * np.exp(-(distance**2)).max(1) + 0.01
        active = generator.random((batch, height, width)) < density
        polarity = generator.random((batch, height, width)) < 0.5
        found.append(torch.from_numpy(np.stack([active & ~polarity, active & polarity], 1)[None]).float())
    return found


def active_share(inputs: list[Tensor]) -> float:
    """Return the share of pixels with an event."""
    return float(torch.stack([x.amax(2) for x in inputs]).mean())


def detector_with(engine: str, weights: Detector) -> Detector:
    """Return a copy of a detector for an engine, in training mode."""
    if engine != LIBRARY:
        return copy.deepcopy(weights).train()
    options = weights.spec.neuron.options
    node = {"node": "ParametricLIFNode", "init_tau": options["tau"]}
    node |= {name: options[name] for name in ("decay_input", "v_threshold", "v_reset", "detach_reset")}
    assert (options["surrogate"], options["alpha"]) == ("sigmoid", 4.0), (
        "the library's default, which no option can say"
    )
    spec = replace(weights.spec, neuron=ComponentRef("spikingjelly", node))
    detector = Detector(spec, load_registry())
    detector.load_state_dict({name.replace("neuron.w", "neuron.node.w"): w for name, w in weights.state_dict().items()})
    return detector.train()


def awake(preset: str, inputs: list[Tensor]) -> Detector:
    """Return a preset whose layers all fire on the inputs."""
    detector = build_preset(preset)
    wake(detector.backbone, inputs[:3])
    return detector


class Loop:
    """Training as published: a window forward, loss, backward, clip, AdamW, membranes carried and detached.

    Args:
        kept: windows whose graph is kept, with the loss of the last, before one update.
    """

    def __init__(self, engine: str, weights: Detector, inputs: list[Tensor], *, kept: int = 1) -> None:
        self.detector = detector_with(engine, weights)
        self._plain, self._inputs, self._kept = engine != FUSED, inputs, kept
        self._optimizer = torch.optim.AdamW(self.detector.parameters(), lr=1e-4)
        height, width = inputs[0].shape[-2:]
        boxes = np.array([[0.1, 0.2, 0.4, 0.5], [0.5, 0.4, 0.6, 0.8]], np.float32) * np.tile((width, height), 2)
        self._targets = [Targets(boxes.astype(np.float32), np.array([0, 1]))] * inputs[0].shape[1]
        self.state: State = None
        self._at = 0

    def run(self) -> float:
        """Make one update, `kept` windows long, and return its loss."""
        with self._operations():
            loss = self.loss()
            self._optimizer.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.detector.parameters(), 1.0)
        self._optimizer.step()
        self.state = detach(self.state)
        return float(loss.detach())

    def loss(self) -> Tensor:
        """Return the loss of the last of the next `kept` windows, with its graph."""
        for _ in range(self._kept):
            raw, self.state = self.detector(self._inputs[self._at % len(self._inputs)], self.state)
            self._at += 1
        losses = self.detector.head.loss(raw, self._targets, self.detector.spec.sensor_size)
        return torch.stack(list(losses.values())).sum()

    def kept_bytes(self) -> int:
        """Return the bytes of distinct memory that the graph of one update keeps for the gradient, weights left out."""
        weights = {p.untyped_storage().data_ptr() for p in self.detector.parameters()}
        kept: dict[int, int] = {}

        def keep(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return x.detach()  # with its history, a saved output would keep itself alive

        with self._operations(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            self.loss()
        self.state = detach(self.state)
        return sum(kept.values())

    def firing(self, updates: int = 4) -> dict[str, float]:
        """Return each spiking layer's rate while training."""
        with torch.no_grad():
            layers = spiking_layers(copy.deepcopy(self.detector).eval(), self._inputs[0])
        named = dict(self.detector.named_modules())
        with FiringMeter({name: named[name] for name in layers}) as meter:
            for _ in range(updates):
                self.run()
            return meter.rates()

    def _operations(self) -> AbstractContextManager[None]:
        return plain_operations() if self._plain else nullcontext()

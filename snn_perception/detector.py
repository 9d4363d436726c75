"""A detector built from a `ModelSpec`: representation, backbone with its neurons, and head, as one pure step."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.errors import SpecError
from snn_perception.events.grid import GridRepresentation
from snn_perception.events.letterbox import Letterbox
from snn_perception.registry import Registry
from snn_perception.spec import ROLES, ComponentRef, ModelSpec
from snn_perception.state import State
from snn_perception.types import Detections, EventWindow

log = logging.getLogger(__name__)


class Detector(nn.Module):
    """Windows to detections, with the state passed in and given back. Holds weights, never membranes.

    Attributes:
        spec: the resolved description; `representation` turns a window into the input tensor.
    """

    def __init__(self, spec: ModelSpec, registry: Registry) -> None:
        super().__init__()
        self.spec = spec = resolve(spec, registry)
        neuron = registry.factory("neuron", spec.neuron.name, **spec.neuron.options)
        self.representation = _build(registry, "representation", spec.representation, spec.sensor_size)
        self.backbone: Any = _build(registry, "backbone", spec.backbone, self.representation.channels, neuron)
        self.head: Any = _build(registry, "head", spec.head, self.backbone.features, len(spec.classes), neuron)
        self._skips_low_scores = "least_score" in inspect.signature(self.head.decode).parameters

    def represent(self, window: EventWindow) -> Tensor:
        """Return the input of one window [T, 1, C, H, W] in the weights' dtype, where they are.

        Its events must lie on the grid of `spec.sensor_size`.
        """
        weight = next(self.parameters())  # searched for once
        if isinstance(self.representation, GridRepresentation):
            tensor = self.representation.to_device(window, weight.device, weight.dtype)
        else:
            tensor = self.representation(window).to(weight.device, weight.dtype)
        return tensor.unsqueeze(1)

    def forward(self, x: Tensor, state: State = None) -> tuple[Any, State]:
        """Return the head's raw output and the state after input x [T, B, C, H, W].

        Args:
            x: steps, batch rows, channels, height, width; on the model's device and in its dtype.
            state: ``{"backbone": ..., "head": ...}`` of the same batch rows, or None for rest.

        Raises:
            ValueError: if the state is of another model, batch or input size.
        """
        if state is None:
            state = {"backbone": None, "head": None}
        if not isinstance(state, dict) or state.keys() != {"backbone", "head"}:
            raise ValueError(f"state of another model: expected a dict of 'backbone' and 'head', got {_outline(state)}")
        maps, backbone = self.backbone(x, state["backbone"])
        raw, head = self.head(maps, state["head"])
        return raw, {"backbone": backbone, "head": head}

    def decode(
        self, raw: Any, letterbox: Letterbox | Sequence[Letterbox] | None = None, *, least_score: float = 0.0
    ) -> list[Detections]:
        """Return the detections of each batch row, boxes in pixels of `spec.sensor_size`.

        Where the representation enlarges its images, the head's boxes are taken back and cut to the sensor.

        Args:
            letterbox: how the input was made of images of another size, whose pixels the boxes are then in; one for
                all rows, or one for each.
            least_score: detections below it may be left out. Those above are the same as without it, sooner where the
                head knows how (``decode(raw, size, least_score)``): a box is never suppressed by a worse one.
        """
        letterbox = letterbox or getattr(self.representation, "letterbox", None)
        more = (least_score,) if self._skips_low_scores and least_score > 0 else ()
        if letterbox is None:
            return self.head.decode(raw, self.spec.sensor_size, *more)  # type: ignore[no-any-return]
        first = letterbox if isinstance(letterbox, Letterbox) else letterbox[0]
        found: list[Detections] = self.head.decode(raw, first.target, *more)  # the network's input, the same for all
        of_rows = [letterbox] * len(found) if isinstance(letterbox, Letterbox) else letterbox
        return [replace(row, xyxy=to.boxes_to_source(row.xyxy)) for row, to in zip(found, of_rows, strict=True)]

    @torch.no_grad()  # not inference_mode: a stream's state may go on into training
    def infer(
        self, x: Tensor, state: State = None, letterbox: Letterbox | None = None
    ) -> tuple[list[Detections], State]:
        """Return the detections of each batch row and the state after x [T, B, C, H, W]; keeps no gradients.

        Args:
            letterbox: as of `decode`.
        """
        raw, state = self(x, state)
        return self.decode(raw, letterbox), state

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return next(self.parameters()).dtype


def resolve(spec: ModelSpec, registry: Registry) -> ModelSpec:
    """Return the spec with every option spelled out and every component's version filled in.

    Raises:
        PluginError: for an unknown component or option.
        SpecError: if the spec was made with a newer version of a component than is installed, or an option has no
            JSON form.
    """
    refs: dict[str, Any] = {}
    for role in ROLES:
        ref: ComponentRef = getattr(spec, role)
        version = registry.find(role, ref.name).component.version
        if ref.version > version:
            raise SpecError(f"{role} '{ref.name}': the model needs version {ref.version}, here is {version}; upgrade")
        if 0 < ref.version < version:
            log.warning("%s '%s': made with version %d, numbers may differ in %d", role, ref.name, ref.version, version)
        options = registry.resolve_options(role, ref.name, ref.options)
        refs[role] = replace(ref, options=_plain(options), version=ref.version or version)
    resolved = replace(spec, **refs)
    resolved.to_json()  # what a checkpoint cannot hold is refused now, not after the training
    return resolved


def _outline(state: State) -> str:
    return f"a dict of {sorted(state)}" if isinstance(state, dict) else f"a {type(state).__name__}"


def _plain(value: Any) -> Any:
    """Return options as JSON will give them back (tuples become lists), so that a spec equals its stored self."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _build(registry: Registry, role: str, ref: ComponentRef, *context: Any) -> Any:
    return registry.build(role, ref.name, *context, **ref.options)


def build_preset(name: str, /, *, registry: Registry | None = None, seed: int | None = 0, **options: Any) -> Detector:
    """Return the named published model with fresh weights, in evaluation mode.

    Args:
        name: a preset, e.g. ``st_vgg_ssd_32``.
        registry: where to look; by default every installed plugin.
        seed: of the weights; None draws from torch's global generator.
        options: of the preset.

    Raises:
        PluginError: for an unknown preset or option.
    """
    if registry is None:
        from snn_perception.discovery import load_registry

        registry = load_registry()
    spec: ModelSpec = registry.build("preset", name, **options)
    if seed is None:
        return Detector(spec, registry).eval()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # weights are made on the CPU; other devices' generators stay alone
        return Detector(spec, registry).eval()

"""Detectors that may stop early: fewer network steps give detections sooner, more give better ones.

A backbone that runs several network steps on one window can be *anytime*: it has

* ``network_steps: int``, the steps of a window, as its option ``steps`` says,
* ``sample(x) -> frames [T, B, ...]``, what the steps see of an input,
* ``steps(frames, state) -> (maps, state)``, any number of steps, and
* ``gather(maps) -> maps``, what the head reads of the steps so far, joined along T,
* ``gives_steps: bool``, whether that still has the steps, and not their average.

A head runs once, on what was gathered. Where the backbone gives steps and the head's attribute ``runs_by_step`` is true
it runs with every step: ``steps(maps, state) -> (raw, state)`` and ``gather(raw)`` as above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.errors import SpecError
from snn_perception.events.letterbox import Letterbox
from snn_perception.registry import Registry
from snn_perception.state import State
from snn_perception.types import Detections

_PARTS = ("sample", "steps", "gather")


def possible_steps(detector: Detector) -> int:
    """Return the network steps of a window after any of which the detector may stop; 0 if it cannot stop early."""
    backbone = detector.backbone
    if not all(callable(getattr(backbone, part, None)) for part in _PARTS):
        return 0
    steps = int(backbone.network_steps)
    return steps if steps > 1 else 0


def require_anytime(detector: Detector, what: str) -> int:
    """Return `possible_steps` of a detector that may stop early.

    Args:
        what: asks for it, such as ``deadline_ms``.

    Raises:
        SpecError: if it cannot.
    """
    steps = possible_steps(detector)
    if not steps:
        raise SpecError(
            f"{what}: expected a model that runs several network steps on a window and may stop after any, and "
            f"backbone '{detector.spec.backbone.name}' with its options does not; leave {what} out"
        )
    return steps


def with_steps(detector: Detector, steps: int, registry: Registry) -> Detector:
    """Return a detector of the same weights that runs only so many network steps on every window.

    Raises:
        SpecError: if it cannot stop early, or has fewer steps.
        PluginError: if its other options do not allow it.
    """
    most = require_anytime(detector, "steps")
    if not 1 <= steps <= most:
        raise SpecError(f"steps: expected 1 to {most}, the model's network steps, got {steps}")
    spec = detector.spec
    backbone = replace(spec.backbone, options={**spec.backbone.options, "steps": steps})
    shorter = Detector(replace(spec, backbone=backbone), registry).to(detector.device, detector.dtype)
    shorter.load_state_dict(detector.state_dict())
    return shorter.train(detector.training)


@torch.no_grad()
def infer_until(
    detector: Detector, x: Tensor, state: State, enough: Callable[[int], bool], letterbox: Letterbox | None = None
) -> tuple[list[Detections], State]:
    """Return the detections of each batch row and the state after the network steps that were run, one at a time.

    The state is that after the last step that was run. For the same number of steps the numbers are the same, bit for
    bit; they may differ in rounding from those of `Detector.infer`, which runs all steps in one go.

    Args:
        x: input of one window [T, B, C, H, W]. state: as of `Detector.infer`.
        enough: told how many steps are done, from 1 on; the rest is left out as soon as it returns True.
        letterbox: as of `Detector.decode`.
    """
    backbone, head = detector.backbone, detector.head
    of_backbone, of_head = (state["backbone"], state["head"]) if isinstance(state, dict) else (None, None)
    by_step = backbone.gives_steps and getattr(head, "runs_by_step", False)
    pieces: list[Sequence[Tensor]] = []
    used = 0
    for frame in backbone.sample(x).split(1):
        maps, of_backbone = backbone.steps(frame, of_backbone)
        if by_step:
            maps, of_head = head.steps(backbone.gather(maps), of_head)
        pieces.append(maps)
        used += 1
        if enough(used):
            break
    joined = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*pieces, strict=True)]
    raw: Any
    if by_step:
        raw = head.gather(joined)
    else:
        raw, of_head = head(backbone.gather(joined), of_head)
    found = [replace(one, steps=used) for one in detector.decode(raw, letterbox)]
    return found, {"backbone": of_backbone, "head": of_head}

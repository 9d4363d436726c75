"""Windows of several streams as the rows of one batch, and each stream's share of what comes out.

The one place where rows are put together and taken apart: live batches (`runtime.pipeline`) and evaluation
(`evaluation.stepping`) both run through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.engine.engines import Engine
from snn_perception.runtime.inputs import Represented
from snn_perception.state import State, clone, split_rows, stack_rows
from snn_perception.types import Detections


@torch.no_grad()
def step_rows(
    engine: Engine, inputs: Sequence[Tensor], states: Sequence[State], *, carries: bool
) -> tuple[Any, list[State]]:
    """Return the head's raw output of a batch that an engine runs in one go, and the state of each row after it.

    A row's state is a copy: as a view it would keep the membranes of all rows in memory for as long as its own stream
    stands still. A single row is neither stacked nor copied.

    Args:
        inputs: [T, 1, C, H, W] of each row. states: before it, None for rest.
        carries: whether the model's states outlive a window; otherwise they are None.
    """
    if len(inputs) == 1:
        raw, after = engine(inputs[0], states[0])
        return raw, [after if carries else None]
    raw, after = engine(torch.cat(list(inputs), dim=1), stack_rows(states))
    if not carries:
        return raw, [None] * len(inputs)
    return raw, [clone(row) for row in split_rows(after, len(inputs))]


@torch.no_grad()
def run_rows(
    engine: Engine,
    detector: Detector,
    inputs: Sequence[Represented],
    states: Sequence[State],
) -> list[tuple[Detections, State]]:
    """Return the detections of each row, and the state after it, of a batch that an engine runs in one go.

    Args:
        detector: whose network it is; it decodes.
        inputs: of each row, all of events or all of images. states: before it, None for rest.
    """
    carries = detector.spec.state_policy == "carry"
    raw, after = step_rows(engine, [one.x for one in inputs], states, carries=carries)
    of_images = [one.letterbox for one in inputs if one.letterbox is not None]
    return list(zip(detector.decode(raw, of_images or None), after, strict=True))

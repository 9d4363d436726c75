"""Layers of the native engine for neurons that fire whole numbers: their spikes go on as bytes."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor, nn

from snn_perception.engine.sparse_layers import SparseConv
from snn_perception.native.neuron import Form, NeuronStep, fire_whole
from snn_perception.native.tiles import TileConv2d
from snn_perception.nn import PotentialStage, membrane
from snn_perception.state import State
from snn_perception.whole_steps import WholeRule

MOST_SPIKES = 255  # of one step, that bytes hold

log = logging.getLogger(__name__)


class TilesConv(nn.Module):
    """A 3x3 convolution of small whole numbers [N, C, H, W] by tiles; in another form once an input asks for it."""

    takes: Form = "bytes"

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.tiles: TileConv2d | None = TileConv2d.from_conv(conv)
        self.conv = conv
        self.instead: SparseConv | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C', H', W'] in memory of channels_last."""
        if self.tiles is not None:
            try:
                y: Tensor = self.tiles(x)
                return y
            except ValueError as error:
                log.warning("a layer that was fed with few spikes gets other numbers (%s): computed otherwise", error)
                self.instead, self.tiles = SparseConv(self.conv, binary=False), None
        assert self.instead is not None
        return self.instead(x)  # type: ignore[no-any-return]


class WholeStage(nn.Module):
    """A neuron that fires whole numbers, all steps in one pass, and the layer that takes its spikes.

    Args:
        step: of the neuron. current: takes spikes [N, C, H, W] in any form, best in the one that `takes` names.
    """

    def __init__(self, step: NeuronStep, current: nn.Module) -> None:
        super().__init__()
        self.step, self.current, self.form = step, current, taken_by(current)

    def forward(self, x: Tensor, v: State = None) -> tuple[Tensor, State]:
        """Return potentials [T, B, C', H', W'] of potentials x [T, B, C, H, W], and the membrane [B, C, H, W]."""
        before = None if v is None else membrane(v, x)
        spikes, after = fire_whole(x, before, self.step, form=self.form)
        return self.current(spikes.flatten(0, 1)).unflatten(0, x.shape[:2]), after


def taken_by(current: nn.Module) -> Form:
    """Return the form of spikes that a layer reads fastest."""
    first = next(current.children()) if isinstance(current, nn.Sequential) else current
    form: Form = getattr(first, "takes", "floats")
    return form


def whole_stage(stage: PotentialStage) -> WholeStage | None:
    """Return the equal of a stage for whose neuron `has_whole_step` holds; None for any other."""
    if not has_whole_step(stage.neuron):
        return None
    rule: Any = stage.neuron.whole_rule
    return WholeStage(NeuronStep.of_whole_numbers(rule.max_spikes, rule.decay, rule.gain), stage.current)


def has_whole_step(neuron: Any) -> bool:
    """Return whether a neuron's ``whole_rule`` is a `WholeRule` whose spikes fit into bytes."""
    rule = getattr(neuron, "whole_rule", None)
    return isinstance(rule, WholeRule) and 1 <= rule.max_spikes <= MOST_SPIKES
